"""Compiled loops of rescoring through the decoder. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import VALUE_STEPS, Array, stored_value


@njit(nogil=True, inline="always")
def magnitude(value: float, exponent: float) -> float:
    """A raw code value to ``exponent``; 1 and 2, the usual ones, without a logarithm."""
    if exponent == 1.0:
        return value
    if exponent == 2.0:
        return value * value
    return float(value**exponent)


@njit(nogil=True, cache=True)
def gather_scores(
    products: Array,
    offsets: Array,
    positions: Array,
    documents: Any,
    k: int,
    exponent: float,
    scores: Array,
) -> None:
    """Write Σ_r z_r products[query, r] + offsets[query], of raw magnitudes z.

    Args:
        products: (n_queries, hidden_dim) float32, W_dec q.
        offsets: (n_queries,) float32, q·pre_bias.
        positions: (n_queries, n_candidates), padded with -1.
        documents: (latents, low, high, norms): three arrays (n, k_stored), and norms (n,), the
            factors from unit norm to raw magnitudes.
        k: Latents per document.
        exponent: Of raw values: one over the head's power.
        scores: (n_queries, n_candidates) float32, written.
    """
    latents, low, high, norms = documents
    for query in range(positions.shape[0]):
        for number in range(positions.shape[1]):
            row = positions[query, number]
            total = 0.0
            if row >= 0:
                scale = norms[row] / VALUE_STEPS
                for rank in range(k):
                    value = magnitude(stored_value(low, high, row, rank) * scale, exponent)
                    total += products[query, latents[row, rank]] * value
                total += offsets[query]
            scores[query, number] = total


@njit(nogil=True, cache=True)
def reconstruction_norms(
    weight: Array,
    pre_bias: Array,
    rows: Array,
    documents: Any,
    k: int,
    exponent: float,
    lengths: Array,
) -> None:
    """Write ‖weightᵀ z + pre_bias‖ of some documents into ``lengths`` (n,)."""
    latents, low, high, norms = documents
    decoded = np.empty(pre_bias.shape[0], np.float32)
    for row in rows:
        decoded[:] = pre_bias
        for rank in range(k):
            stored = stored_value(low, high, row, rank) * norms[row] / VALUE_STEPS
            value = np.float32(magnitude(stored, exponent))
            if value == 0:
                break
            direction = weight[latents[row, rank]]
            for place in range(decoded.shape[0]):
                decoded[place] += value * direction[place]
        total = 0.0
        for place in range(decoded.shape[0]):
            total += np.float64(decoded[place]) ** 2
        lengths[row] = np.sqrt(total)
