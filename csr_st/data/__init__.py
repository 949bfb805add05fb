"""Loading and reading data: texts, images, BEIR folders, tables, streams."""

from csr_st.data.loading import RetrievalSet, column, is_beir, load, load_beir, without_bad

__all__ = ["RetrievalSet", "column", "is_beir", "load", "load_beir", "without_bad"]
