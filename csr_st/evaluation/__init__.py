"""Quality against k and bytes: retrieval, classification, reconstruction, search time."""

from csr_st.encoding import encode_vectors  # noqa: F401 - its path in version 0.1
from csr_st.evaluation.cross_modal import evaluate_pairs
from csr_st.evaluation.quality import KS, METHODS, METRICS, Evaluation, evaluate

__all__ = ["KS", "METHODS", "METRICS", "Evaluation", "evaluate", "evaluate_pairs"]
