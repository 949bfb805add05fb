"""Finding and reading what people have: texts, images, BEIR folders, examples of any kind."""

from csr_st.data.loading import Judged, column, is_judged, load, load_judged, without_bad

__all__ = ["Judged", "column", "is_judged", "load", "load_judged", "without_bad"]
