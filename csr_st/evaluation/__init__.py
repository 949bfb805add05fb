"""Quality against k and bytes: retrieval, classification, reconstruction, search time."""

import warnings
from typing import Any

from csr_st.evaluation.cross_modal import evaluate_pairs
from csr_st.evaluation.quality import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate", "evaluate_pairs"]


def __getattr__(name: str) -> Any:
    if name == "encode_vectors":
        from csr_st.encoding import encode_vectors

        message = "encode_vectors has moved to csr_st; the old path goes with the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return encode_vectors
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
