"""How far data lies from what a head was trained on: by the variance that its codes do not explain.

A code of k latents rebuilds a vector from directions that recur in the training data. Where the
data has other directions, more of its variance is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from csr_st.decoder import Decoder
from csr_st.encoding import encode_vectors
from csr_st.evaluation.metrics import unexplained_variance
from csr_st.evaluation.quality import KS
from csr_st.evaluation.results import Evaluation
from csr_st.head import SparseCSRHead

FAR = 1.5  # times the unexplained variance of the training data's held-out rows


def held_out_fvu(head: SparseCSRHead, vectors: NDArray[np.float32]) -> dict[int, float]:
    """Unexplained fraction of the variance of (n, input_dim) vectors, at `KS` and the head's k."""
    ks = sorted({k for k in KS if k <= head.hidden_dim} | {head.k})
    codes = encode_vectors(head, vectors, max(ks))
    return unexplained_variance(vectors, codes, Decoder.from_head(head), ks)


def far_from_training(
    evaluation: Evaluation, trained: Mapping[int, float], k: int, model: str, data: str
) -> str | None:
    """What to say of data that lies far from the training data, None where it does not.

    Args:
        evaluation: Figures on the data.
        trained: Unexplained fraction of the variance of held-out rows of the training data, by k.
        k: The head's default; the measured k that is nearest to it counts.
        model: Name of the model, for the commands to type.
        data: Name of the data, for these.
    """
    common = trained.keys() & evaluation.fvu.keys()
    if not common:
        return None
    k = min(common, key=lambda measured: (abs(measured - k), measured))
    there, here = trained[k], evaluation.fvu[k]
    if here <= FAR * there:
        return None
    typed = shlex.join([model, data])
    return (
        f"{data} lies far from what the head was trained on: at k={k} it leaves {here:.1%} of the "
        f"variance unexplained, held-out rows of the training data {there:.1%}. Codes lose more of "
        f"it than the card says: adapt the head (csr-st adapt {typed} --output mine), or "
        f"train one on it (csr-st train {typed} --output mine)"
    )
