"""Search over sparse codes: the exact embedded index, and engines behind the same calls."""

from csr_st.decoder import Decoder
from csr_st.search.explaining import explain
from csr_st.search.explanation import Explanation, LatentShare
from csr_st.search.hybrid_vectors import HybridVectors
from csr_st.search.index import SparseIndex
from csr_st.search.opening import open_index
from csr_st.search.results import SearchResults
from csr_st.search.searchable import Searchable
from csr_st.search.segmented_index import SegmentedIndex

__all__ = [
    "Decoder",
    "Explanation",
    "HybridVectors",
    "LatentShare",
    "SearchResults",
    "Searchable",
    "SegmentedIndex",
    "SparseIndex",
    "explain",
    "open_index",
]
