"""Compiled selection of each row's largest entries. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from csr_st.training.compiled.numeric import FAST, ONE, ZERO, Array

# Counts are float32: a comparison then fills as many lanes of a vector as the numbers do.
HALVINGS, SLACK = 32, 2  # of the search for a bound, and how many groups too many end it


@njit(nogil=True, cache=True, fastmath=FAST)
def _count_from(x: Array, n: int, bound: float) -> int:
    found = ZERO
    for i in range(n):
        found += ONE if x[i] >= bound else ZERO
    return int(found)


@njit(nogil=True, cache=True, fastmath=FAST)
def _count_above(x: Array, n: int, bound: float) -> int:
    found = ZERO
    for i in range(n):
        found += ONE if x[i] > bound else ZERO
    return int(found)


@njit(nogil=True, cache=True, fastmath=FAST)
def _count_nan(x: Array) -> int:
    found = ZERO
    for i in range(len(x)):
        found += ONE if x[i] != x[i] else ZERO
    return int(found)


@njit(nogil=True, cache=True)
def _bound(x: Array, n: int, k: int) -> Any:
    """A number that at least k of the first n entries reach, and few more."""
    low = high = x[0]
    for i in range(n):
        low, high = min(low, x[i]), max(high, x[i])
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * (low + high)
        if not low < middle < high:
            break
        found = _count_from(x, n, middle)
        if found < k:
            high = middle
            continue
        low = middle
        if found <= k + SLACK:
            break
    return low


@njit(nogil=True, cache=True)
def _keep_large(
    row: Array, k: int, size: int, highest: Array, groups_left: Array, left: Array, left_at: Array
) -> int:
    """Write the entries that may be among the k largest, and where they stand; gives how many.

    Entry i is in group i mod (n / size). The k largest lie in groups whose largest entry reaches a
    bound that at least k groups reach, so most of a row is looked at once, at the speed of vector
    instructions.
    """
    n = len(row)
    groups = n // size
    highest[:groups] = row[:groups]
    for first in range(groups, n, groups):
        for i in range(groups):
            entry = row[first + i]
            highest[i] = entry if entry > highest[i] else highest[i]
    bound = _bound(highest, groups, k)
    count = 0
    for group in range(groups):
        groups_left[count] = group
        count += highest[group] >= bound
    found = 0
    for number in range(count):
        for i in range(groups_left[number], n, groups):
            left[found], left_at[found] = row[i], i
            found += row[i] >= bound
    return found


@njit(nogil=True, cache=True)
def _select(
    row: Array,
    k: int,
    size: int,
    highest: Array,
    groups_left: Array,
    left: Array,
    left_at: Array,
    latents: Array,
    values: Array,
) -> None:
    """Write the k largest entries of a row, falling, negative ones as 0, and where they stand.

    A row with a NaN has values that are NaN all: weights that have left the numbers must be seen.
    """
    if _count_nan(row):
        values[:] = np.nan
        return
    found = _keep_large(row, k, size, highest, groups_left, left, left_at)
    for i in range(found):  # of equal entries, each takes a pass: only weights of no use have many
        entry = left[i]
        rank = _count_above(left, found, entry)
        if rank < k:
            for j in range(i):
                rank += left[j] == entry
        if rank < k:
            latents[rank], values[rank] = left_at[i], max(entry, ZERO)


@njit(nogil=True, cache=True)
def top_rows(
    first: int, last: int, pre: Array, k: int, size: int, latents: Array, values: Array
) -> None:
    """Write the k largest entries of rows ``first`` to ``last``.

    Args:
        first: Row to begin with.
        last: Row to end before.
        pre: (n, h) float32.
        k: Entries a row.
        size: Entries that are looked at as one; divides h.
        latents: (n, k) int64, written.
        values: (n, k) float32, written: falling, never negative.
    """
    h = pre.shape[1]
    highest, left = np.empty(h, np.float32), np.empty(h + 1, np.float32)
    groups_left, left_at = np.empty(h + 1, np.int32), np.empty(h + 1, np.int32)
    for r in range(first, last):
        _select(pre[r], k, size, highest, groups_left, left, left_at, latents[r], values[r])


@njit(nogil=True, cache=True)
def top_copies(
    first: int,
    last: int,
    pre: Array,
    rows: Array,
    plus: Array,
    minus: Array,
    shares: Array,
    k: int,
    size: int,
    latents: Array,
    values: Array,
) -> None:
    """Of copy r, the k largest of pre[rows[r]] + shares[r] (pre[plus[r]] - pre[minus[r]]).

    Args:
        first: Copy to begin with.
        last: Copy to end before.
        pre: (n, h) float32.
        rows: (m,) int64.
        plus: (m,) int64.
        minus: (m,) int64.
        shares: (m,) float32.
        k: Entries a copy.
        size: Entries that are looked at as one; divides h.
        latents: (m, k) int64, written.
        values: (m, k) float32, written.
    """
    h = pre.shape[1]
    highest, left = np.empty(h, np.float32), np.empty(h + 1, np.float32)
    groups_left, left_at = np.empty(h + 1, np.int32), np.empty(h + 1, np.int32)
    moved = np.empty(h, np.float32)
    for r in range(first, last):
        own, added, taken, share = pre[rows[r]], pre[plus[r]], pre[minus[r]], shares[r]
        for i in range(h):
            moved[i] = own[i] + share * (added[i] - taken[i])
        _select(moved, k, size, highest, groups_left, left, left_at, latents[r], values[r])
