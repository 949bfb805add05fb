"""Stored values: 24-bit fixed point, exact to 6e-8 in 3 bytes. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.compiling import njit

VALUE_STEPS = 2**24 - 1  # stored values are multiples of 1 / VALUE_STEPS

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def pack_values(values: Array, low: Array, high: Array) -> None:
    """Values in [0, 1] to 24-bit fixed point: 16 low bits and 8 high bits, all arrays (n, k)."""
    for row in range(values.shape[0]):
        for rank in range(values.shape[1]):
            steps = np.uint32(min(np.float64(values[row, rank]), 1.0) * VALUE_STEPS + 0.5)
            low[row, rank] = steps & np.uint32(0xFFFF)
            high[row, rank] = steps >> np.uint32(16)


@njit(nogil=True, cache=True)
def row_without_unit_norm(values: Array, slack: float) -> int:
    """The first row whose squared norm is neither 0 nor 1, to within ``slack``, or -1."""
    for row in range(values.shape[0]):
        total = np.float32(0.0)
        for rank in range(values.shape[1]):
            total += values[row, rank] * values[row, rank]
        if not (total == 0.0 or abs(total - 1.0) <= slack):  # NaN is neither
            return row
    return -1


@njit(nogil=True, cache=True, inline="always")
def stored_value(low: Array, high: Array, row: int, rank: int) -> Any:
    """One stored value in steps, as float64."""
    return np.float64((np.uint32(high[row, rank]) << np.uint32(16)) | np.uint32(low[row, rank]))


@njit(nogil=True, cache=True)
def prefix_factors(low: Array, high: Array, k: int, factors: Array) -> float:
    """Write what scales each row's first k stored steps to unit norm; return the largest value."""
    largest = 0.0
    for row in range(low.shape[0]):
        total = 0.0
        for rank in range(k):
            total += stored_value(low, high, row, rank) ** 2
        factors[row] = 1.0 / np.sqrt(total) if total > 0 else 0.0
        if k > 0:
            largest = max(largest, stored_value(low, high, row, 0) * factors[row])
    return largest


@njit(nogil=True, cache=True, inline="always")
def factor_of(factors: Array, row: int) -> Any:
    """The factor of a row, from one for each row or one for all."""
    return factors[min(row, factors.shape[0] - 1)]


@njit(nogil=True, cache=True)
def exact_score(
    query: Array, latents: Array, low: Array, high: Array, row: int, k: int, factor: float
) -> float:
    """Dot product of a dense query (hidden_dim,) and the first k latents of document ``row``."""
    total = 0.0
    for rank in range(k):
        total += query[latents[row, rank]] * stored_value(low, high, row, rank)
    return total * factor
