"""Compiled products with matrices of codes, through lists of each latent's entries. Needs numba."""

from __future__ import annotations

import numpy as np
from numba import njit

from csr_st.training.compiled.numeric import FAST, ZERO, Array


@njit(nogil=True, cache=True)
def by_latent(latents: Array, hidden_dim: int) -> tuple[Array, Array, Array]:
    """The entries of codes in order of their latents.

    Args:
        latents: (n, k) int64, each below ``hidden_dim``.
        hidden_dim: h.

    Returns:
        (h + 1,) where each latent's entries begin, and (n * k,) the row of each and its rank there.
        Unsigned, as an index that cannot be negative is looked up faster.
    """
    n, k = latents.shape
    starts = np.zeros(hidden_dim + 2, np.uint32)
    for row in range(n):
        for rank in range(k):
            starts[latents[row, rank] + 2] += 1
    for latent in range(2, hidden_dim + 2):
        starts[latent] += starts[latent - 1]
    rows, ranks = np.empty(n * k, np.uint32), np.empty(n * k, np.uint32)
    for row in range(n):
        for rank in range(k):
            latent = latents[row, rank] + 1
            at = starts[latent]
            rows[at], ranks[at] = row, rank
            starts[latent] = at + 1
    return starts[:-1], rows, ranks


@njit(nogil=True, cache=True)
def sorted_by_latent(values: Array, rows: Array, ranks: Array) -> Array:
    """(n * k,) values (n, k) in the order of `by_latent`."""
    found = np.empty(len(rows), np.float32)
    for at in range(len(rows)):
        found[at] = values[rows[at], ranks[at]]
    return found


@njit(nogil=True, cache=True)
def put_back(found: Array, rows: Array, ranks: Array, values: Array) -> None:
    """Undo `sorted_by_latent`: write (n, k) values."""
    for at in range(len(rows)):
        values[rows[at], ranks[at]] = found[at]


@njit(nogil=True, cache=True, fastmath=FAST)
def add_by_latent(
    first: int,
    last: int,
    starts: Array,
    rows: Array,
    weights: Array,
    x: Array,
    sums: Array,
    totals: Array,
) -> None:
    """Add each latent's weighted sum of rows of x, and of its weights.

    Args:
        first: Latent to begin with.
        last: Latent to end before.
        starts: (h + 1,) from `by_latent`; ``rows`` too.
        rows: (n,) uint32 rows of x, in order of latents.
        weights: (n,) float32, in that order.
        x: (b, d) float32.
        sums: (h, d) float32, added to.
        totals: (h,) float32, added to.
    """
    for latent in range(first, last):
        out, total = sums[latent], totals[latent]
        at, end = starts[latent], starts[latent + 1]
        while at + 4 <= end:  # four at once: the sum is read and written a quarter as often
            w0, w1, w2, w3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
            x0, x1, x2, x3 = x[rows[at]], x[rows[at + 1]], x[rows[at + 2]], x[rows[at + 3]]
            total += w0 + w1 + w2 + w3
            for i in range(x.shape[1]):
                out[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
            at += 4
        while at < end:
            w0, x0 = weights[at], x[rows[at]]
            total += w0
            for i in range(x.shape[1]):
                out[i] += w0 * x0[i]
            at += 1
        totals[latent] = total


@njit(nogil=True, cache=True)
def similarities(
    first: int,
    last: int,
    values: Array,
    latents: Array,
    starts: Array,
    key_rows: Array,
    key_values: Array,
    found: Array,
) -> None:
    """Write the dot products of rows ``first`` to ``last`` with every key.

    Args:
        first: Row to begin with.
        last: Row to end before.
        values: (b, k) float32.
        latents: (b, k) int64.
        starts: (h + 1,) from `by_latent` of the keys.
        key_rows: (n,) uint32 key of each entry, in order of latents.
        key_values: (n,) float32, in that order.
        found: (b, keys) float32, written.
    """
    for r in range(first, last):
        out = found[r]
        out[:] = ZERO
        for rank in range(values.shape[1]):
            value, latent = values[r, rank], latents[r, rank]
            for at in range(starts[latent], starts[latent + 1]):
                out[key_rows[at]] += value * key_values[at]


@njit(nogil=True, cache=True, fastmath=FAST)
def similarity_gradients(
    first: int,
    last: int,
    gradient: Array,
    starts: Array,
    rows: Array,
    values: Array,
    key_starts: Array,
    key_rows: Array,
    key_values: Array,
    of_values: Array,
    of_keys: Array,
) -> None:
    """Write what latents ``first`` to ``last`` have of the gradients of `similarities`.

    Args:
        first: Latent to begin with.
        last: Latent to end before.
        gradient: (b, keys) float32.
        starts: (h + 1,) from `by_latent` of the rows' codes.
        rows: (m,) uint32, in order of latents; ``values`` too.
        values: (m,) float32.
        key_starts: (h + 1,) from `by_latent` of the keys' codes.
        key_rows: (n,) uint32, in order of latents; ``key_values`` too.
        key_values: (n,) float32.
        of_values: (m,) float32, written, in order of latents.
        of_keys: (n,) float32, written, in order of latents.
    """
    for latent in range(first, last):
        begin, end = key_starts[latent], key_starts[latent + 1]
        of_keys[begin:end] = ZERO
        for entry in range(starts[latent], starts[latent + 1]):
            row, value, total = gradient[rows[entry]], values[entry], ZERO
            for at in range(begin, end):
                total += row[key_rows[at]] * key_values[at]
                of_keys[at] += row[key_rows[at]] * value
            of_values[entry] = total
