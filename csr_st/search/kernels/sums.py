"""Compiled additions of lists of 8-bit values to the sums of the first pass. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array

FOLD = 2**16  # by which 32-bit sums are divided


@njit(nogil=True, cache=True)
def add_list(sums: Array, ids: Array, codes: Array, start: Any, end: Any, weight: int) -> None:
    """sums[ids] += weight·codes. Ids differ within a list, so four can be in flight at once.

    The length of a list is a multiple of four; padding has code 0. Bounds are unsigned, so numba
    does not check for negative places. Slices would be counted references in compiled code, which
    cost more than a short list.
    """
    for place in range(start, end, np.uint64(4)):
        second, third, fourth = place + np.uint64(1), place + np.uint64(2), place + np.uint64(3)
        a, b, c, d = ids[place], ids[second], ids[third], ids[fourth]
        sum_a = sums[a] + weight * codes[place]
        sum_b = sums[b] + weight * codes[second]
        sum_c = sums[c] + weight * codes[third]
        sum_d = sums[d] + weight * codes[fourth]
        sums[a], sums[b], sums[c], sums[d] = sum_a, sum_b, sum_c, sum_d


@njit(nogil=True, cache=True)
def add_dense(sums: Array, codes: Array, weight: int) -> None:
    """Sums += weight·codes."""
    for place in range(sums.shape[0]):
        sums[place] += sums.dtype.type(weight * codes[place])


@njit(nogil=True, cache=True)
def fold(wide: Array, sums: Array) -> None:
    """32-bit sums to 16 bits, rounded up, so that what was above 0 stays so."""
    for place in range(sums.shape[0]):
        above = np.uint32(wide[place] + np.uint32(FOLD - 1))
        sums[place] = np.uint16(above >> np.uint32(16))
