"""Saving a model with its card, and publishing it on the Hugging Face Hub."""

from csr_st.publishing.hub import push_to_hub, save, update_card

__all__ = ["push_to_hub", "save", "update_card"]
