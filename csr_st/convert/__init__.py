"""Heads to and from other formats: sentence-transformers' own, the CSR authors', CompresSAE's.

`to_native` writes a model that loads without this package; the other functions read foreign weights
into a `SparseCSRHead`. Nothing here trains. Pickled files are read as tensors only.

Heads of tokens are not read: the model cards of SlideOn and the paper on Latent Terms (arXiv
2605.29384) say what their models compute, but no description of the files was found in which the
weights lie.
"""

from csr_st.convert.checkpoints import head_from_checkpoint, head_from_compressae, head_from_file
from csr_st.convert.native import from_native, head_from_native, losses_of_native, to_native

__all__ = [
    "from_native",
    "head_from_checkpoint",
    "head_from_compressae",
    "head_from_file",
    "head_from_native",
    "losses_of_native",
    "to_native",
]
