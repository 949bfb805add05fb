"""Sparse adaptive embeddings: a CSR head for any sentence-transformers model.

Importing this package makes its head known to sentence-transformers, so that published models load
with a plain ``SentenceTransformer("org/name")``.
"""

from csr_st.attaching import attach, detach
from csr_st.codes import SparseCodes
from csr_st.encoding import encode, encode_dense
from csr_st.head import SparseCSRHead, find_head
from csr_st.registration import register

__all__ = [
    "SparseCSRHead",
    "SparseCodes",
    "attach",
    "detach",
    "encode",
    "encode_dense",
    "find_head",
]

__version__ = "0.1.0"

register()
