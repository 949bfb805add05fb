"""What codes lose and use: unexplained variance (FVU) and active latents, by k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder

BLOCK = 1024  # vectors reconstructed at once


def unexplained_variance(
    vectors: NDArray[np.float32], codes: SparseCodes, decoder: Decoder, ks: Sequence[int]
) -> dict[int, float]:
    """Fraction of the variance of (n, d) vectors about their mean that reconstruction misses."""
    # The variance of equal rows is 0; it counts as what float16 rounding of them would give.
    floor = max(1e-6 * float((vectors**2).sum()), 1e-30)
    total = max(float(((vectors - vectors.mean(axis=0)) ** 2).sum()), floor)
    missed = dict.fromkeys(ks, 0.0)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        for k in ks:
            reconstructed = decoder.decode(codes[rows].prefix(k))
            missed[k] += float(((vectors[rows] - reconstructed) ** 2).sum())
    return {k: missed[k] / total for k in ks}


def active_latents(codes: SparseCodes, k: int) -> NDArray[np.bool_]:
    """(hidden_dim,) which latents at least one item activates at k."""
    active = np.zeros(codes.hidden_dim, bool)
    active[codes.indices[:, :k][codes.values[:, :k] > 0]] = True
    return active
