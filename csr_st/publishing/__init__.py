"""Saving a model with its card, and publishing it on the Hugging Face Hub."""

from csr_st.publishing.figures import add_evaluation, update_card
from csr_st.publishing.hub import push_to_hub, save

__all__ = ["add_evaluation", "push_to_hub", "save", "update_card"]
