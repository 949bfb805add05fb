"""Queries without the backbone: vectors of tokens whose mean stands for its query vector."""

from csr_st.distill.agreement import Agreement
from csr_st.distill.distilling import Distilled, distill_queries

__all__ = ["Agreement", "Distilled", "distill_queries"]
