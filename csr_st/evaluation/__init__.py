"""Quality against k and bytes: retrieval, classification, reconstruction, search time."""

from csr_st.encoding import encode_vectors  # noqa: F401 - its path in version 0.1
from csr_st.evaluation.cross_modal import evaluate_pairs
from csr_st.evaluation.quality import KS, evaluate
from csr_st.evaluation.results import METHODS, METRICS, Evaluation
from csr_st.evaluation.tuning import Tuning, tune_weight
from csr_st.evaluation.words import Texts

__all__ = [
    "KS",
    "METHODS",
    "METRICS",
    "Evaluation",
    "Texts",
    "Tuning",
    "evaluate",
    "evaluate_pairs",
    "tune_weight",
]
