"""Loading and reading data: texts, images, BEIR folders, tables, streams."""

from csr_st.data.loading import RetrievalSet, column, is_beir, load, load_beir, without_bad
from csr_st.data.mixing import Mixture, mix

__all__ = [
    "Mixture",
    "RetrievalSet",
    "column",
    "is_beir",
    "load",
    "load_beir",
    "mix",
    "without_bad",
]
