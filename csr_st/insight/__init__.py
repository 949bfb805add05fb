"""Names of latents, and what a score is made of."""

from csr_st.insight.names import LatentName, LatentNames
from csr_st.insight.naming import name_latents

__all__ = ["LatentName", "LatentNames", "name_latents"]
