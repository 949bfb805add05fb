"""Sparse adaptive embeddings: a CSR head for any sentence-transformers model."""
