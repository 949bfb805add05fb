"""Seeing inside codes: names of latents, what a score is made of, which words carry a latent."""

from csr_st.insight.explaining import explain
from csr_st.insight.names import LatentName, LatentNames
from csr_st.insight.naming import name_latents
from csr_st.insight.occlusion import word_shares
from csr_st.insight.tokens import token_names
from csr_st.search import Explanation

__all__ = [
    "Explanation",
    "LatentName",
    "LatentNames",
    "explain",
    "name_latents",
    "token_names",
    "word_shares",
]
