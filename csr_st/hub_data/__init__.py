"""Codes and indexes on the Hugging Face Hub: Parquet data sets with a card, and back."""
