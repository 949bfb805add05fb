"""Compiled loops of rescoring through the decoder. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import VALUE_STEPS, Array, stored_value

CACHE_LINE = 64  # bytes


@njit(nogil=True, inline="always")
def magnitude(value: float, exponent: float) -> float:
    """A raw code value to ``exponent``; 1 and 2, the usual ones, without a logarithm."""
    if exponent == 1.0:
        return value
    if exponent == 2.0:
        return value * value
    return float(value**exponent)


@njit(nogil=True, cache=True)
def write_coefficients(documents: Any, rows: Array, exponent: float, coefficients: Array) -> None:
    """Write the magnitudes of the first k latents of some documents.

    Args:
        documents: (low, high, norms): two arrays (n, k_stored), and norms (n,), the factors from
            unit norm to raw magnitudes.
        rows: (m,) positions.
        exponent: Exponent of raw values: one over the head's power.
        coefficients: (m, k) float32, written.
    """
    low, high, norms = documents
    for number in range(rows.shape[0]):
        row = rows[number]
        scale = norms[row] / VALUE_STEPS
        for rank in range(coefficients.shape[1]):
            value = stored_value(low, high, row, rank) * scale
            coefficients[number, rank] = magnitude(value, exponent)


@njit(nogil=True, cache=True)
def decode(
    weight: Array,
    pre_bias: Array,
    latents: Array,
    rows: Array,
    coefficients: Array,
    decoded: Array,
) -> None:
    """Write weightᵀ z + pre_bias of some documents.

    Args:
        weight: (hidden_dim, input_dim) float32.
        pre_bias: (input_dim,) float32.
        latents: (n, k_stored).
        rows: (m,) positions.
        coefficients: (m, k) float32, the magnitudes z of these documents.
        decoded: (m, input_dim) float32, written.
    """
    for number in range(rows.shape[0]):
        vector = decoded[number]
        vector[:] = pre_bias
        for rank in range(coefficients.shape[1]):
            value = coefficients[number, rank]
            if value != 0:
                direction = weight[latents[rows[number], rank]]
                for place in range(vector.shape[0]):
                    vector[place] += value * direction[place]


@njit(nogil=True, cache=True)
def gather_scores(
    products: Array,
    offsets: Array,
    positions: Array,
    latents: Array,
    coefficients: Array,
    scores: Array,
) -> float:
    """Write Σ_r z_r products[query, r] + offsets[query], of magnitudes z.

    Args:
        products: (n_queries, hidden_dim) float32, W_dec q.
        offsets: (n_queries,) float32, q·pre_bias.
        positions: (n_queries, n_candidates), padded with -1.
        latents: (n, k_stored).
        coefficients: (n, k) float32, the magnitudes z of all documents.
        scores: (n_queries, n_candidates) float32, written: -inf where the position is -1.

    Returns:
        A number that means nothing; it keeps the compiler from removing the loop that only reads.
    """
    k, touched = coefficients.shape[1], 0.0
    for query in range(positions.shape[0]):
        for row in positions[query]:  # prefetches all rows from memory
            if row >= 0:
                touched += latents[row, 0] + latents[row, k - 1] + coefficients[row, k - 1]
                for rank in range(0, k, CACHE_LINE // 4):
                    touched += coefficients[row, rank]
        for number in range(positions.shape[1]):
            row = positions[query, number]
            total = -np.inf
            if row >= 0:
                total = np.float64(offsets[query])
                for rank in range(k):
                    product = products[query, latents[row, rank]]
                    total += np.float64(product) * np.float64(coefficients[row, rank])
            scores[query, number] = total
    return touched


@njit(nogil=True, cache=True)
def best(
    scores: Array, positions: Array, least: Array, best_positions: Array, best_scores: Array
) -> None:
    """Write the best candidates of each query; of equal scores the lower position is first.

    Args:
        scores: (n_queries, n_candidates) float32.
        positions: (n_queries, n_candidates) int64.
        least: (n_queries,) float32, the top_k-th best score of each query.
        best_positions: (n_queries, top_k) int64, written.
        best_scores: (n_queries, top_k) float32, written.
    """
    top_k = best_positions.shape[1]
    found = np.empty(positions.shape[1], np.int64)
    for query in range(positions.shape[0]):
        count = 0
        for number in range(positions.shape[1]):  # few can be among the best: only they are sorted
            found[count] = number
            count += not scores[query, number] < least[query]
        chosen = found[:count]
        chosen = chosen[np.argsort(positions[query][chosen], kind="mergesort")]
        chosen = chosen[np.argsort(-scores[query][chosen], kind="mergesort")]
        for rank in range(top_k):
            best_positions[query, rank] = positions[query, chosen[rank]]
            best_scores[query, rank] = scores[query, chosen[rank]]
