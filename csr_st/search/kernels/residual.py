"""Compiled loop of scores by residual bits. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array
from csr_st.search.kernels.reconstruction import CACHE_LINE


@njit(nogil=True, cache=True)
def write_sums(weights: Array, sums: Array) -> None:
    """Write the sum of each 8 weights with each of the 256 combinations of signs.

    Args:
        weights: (8 * n_bytes,) float32.
        sums: (n_bytes, 256) float32, written; a bit that is 1 is a +.
    """
    for byte in range(sums.shape[0]):
        row = sums[byte]
        total = np.float32(0)
        for bit in range(8):
            total += weights[8 * byte + bit]
        row[0] = -total
        for bit in range(8):  # each bit doubles the combinations
            step = np.float32(2) * weights[8 * byte + bit]
            known = 1 << bit
            for signs in range(known):
                row[known + signs] = row[signs] + step


@njit(nogil=True, cache=True)
def add_residual_scores(
    weights: Array, positions: Array, levels: Array, scales: Array, scores: Array
) -> int:
    """Add q·r̂ to scores: one look-up for a byte of a document.

    Args:
        weights: (n_queries, 8 * n_bytes) float32, see `ResidualBits.query_weights`.
        positions: (n_queries, n_candidates), padded with -1.
        levels: (n, n_bytes) uint8.
        scales: (n,) uint16, the bits of bfloat16 numbers.
        scores: (n_queries, n_candidates) float32, changed.

    Returns:
        A number that means nothing; it keeps the compiler from removing the loop that only reads.
    """
    n_bytes, touched = levels.shape[1], 0
    sums = np.empty((n_bytes, 256), np.float32)
    scale = np.empty(1, np.float32)
    bits = scale.view(np.uint32)
    for query in range(positions.shape[0]):
        write_sums(weights[query], sums)
        for row in positions[query]:  # prefetches all rows from memory
            if row >= 0:
                touched += levels[row, n_bytes - 1] + scales[row]
                for byte in range(0, n_bytes, CACHE_LINE):
                    touched += levels[row, byte]
        for number in range(positions.shape[1]):
            row = positions[query, number]
            if row >= 0:
                bits[0] = np.uint32(scales[row]) << np.uint32(16)
                scores[query, number] += scale[0] * _sum_of(sums, levels[row])
    return touched


@njit(nogil=True, cache=True)
def _sum_of(sums: Array, levels: Array) -> Any:
    """The sums of a row's bytes, added in four parts: an addition need not wait for the last."""
    a, b, c, d = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    # Unsigned: a number that may be negative costs a check at each look-up.
    end = np.uint64(levels.shape[0])
    whole = end - end % np.uint64(4)
    for byte in range(np.uint64(0), whole, np.uint64(4)):
        a += sums[byte, levels[byte]]
        b += sums[byte + np.uint64(1), levels[byte + np.uint64(1)]]
        c += sums[byte + np.uint64(2), levels[byte + np.uint64(2)]]
        d += sums[byte + np.uint64(3), levels[byte + np.uint64(3)]]
    for byte in range(whole, end):
        a += sums[byte, levels[byte]]
    return (a + b) + (c + d)
