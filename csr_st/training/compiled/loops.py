"""The loops of a training step that numba compiles: top-k, sums over codes and their gradients.

Each loop handles the rows or latents from ``first`` up to ``last``, so that threads can share it.
It takes arrays, as numba does: b rows, h latents, k active latents, width d; n entries are the
active latents of all rows. Numbers are float32, positions int64, all arrays contiguous.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from csr_st._io.compiling import njit

Array: TypeAlias = NDArray[Any]

SUMS = {"reassoc", "contract"}  # what lets numba vectorise a sum; NaN and infinity stay exact
EXTREMES = {"nnan", "nsz"}  # the same for a minimum, of numbers that are not NaN
ZERO, ONE = np.float32(0), np.float32(1)
HALVINGS = 32  # of the search for a threshold, at most
SLACK = 8  # entries above k that end it


@njit(nogil=True, cache=True, fastmath=SUMS)
def _count_from(x: Array, bound: float) -> int:
    found = ZERO  # float32: a comparison then fills as many vector lanes as the numbers do
    for i in range(len(x)):
        found += ONE if x[i] >= bound else ZERO
    return int(found)


@njit(nogil=True, cache=True, fastmath=SUMS)
def _count_above(x: Array, bound: float) -> int:
    found = ZERO
    for i in range(len(x)):
        found += ONE if x[i] > bound else ZERO
    return int(found)


@njit(nogil=True, cache=True, fastmath=EXTREMES)
def _extremes(x: Array) -> tuple[float, float]:
    low = high = x[0]
    for i in range(len(x)):
        low = x[i] if x[i] < low else low
        high = x[i] if x[i] > high else high
    return low, high


@njit(nogil=True, cache=True)
def _threshold(x: Array, k: int) -> float:
    """A number that at least k entries reach, and few more, by bisection."""
    low, high = _extremes(x)
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * (low + high)
        if not low < middle < high:
            break
        found = _count_from(x, middle)
        if found < k:
            high = middle
            continue
        low = middle
        if found <= k + SLACK:
            break
    return low


@njit(nogil=True, cache=True)
def top_rows(
    first: int,
    last: int,
    pre: Array,
    rows: Array,
    plus: Array,
    minus: Array,
    sizes: Array,
    k: int,
    latents: Array,
    values: Array,
) -> None:  # numba takes arrays, not objects
    """Write the k largest entries of pre[row] + size (pre[plus] - pre[minus]), negative ones as 0.

    A result with a NaN gives NaN in all its values, so that broken weights are noticed.

    Args:
        first: First code.
        last: Code after the last.
        pre: (b, h) pre-activations.
        rows: (m,).
        plus: (m,).
        minus: (m,).
        sizes: (m,).
        k: Active latents of a code.
        latents: (m, k), written.
        values: (m, k), written, falling.
    """
    h = pre.shape[1]
    x = np.empty(h, np.float32)
    kept, kept_at = np.empty(h + 1, np.float32), np.empty(h + 1, np.int64)
    for r in range(first, last):
        own, added, taken, size = pre[rows[r]], pre[plus[r]], pre[minus[r]], sizes[r]
        for i in range(h):
            x[i] = own[i] + size * (added[i] - taken[i])
        if _count_from(x, -np.inf) < h:
            values[r] = np.nan
            continue
        threshold, found = _threshold(x, k), 0
        for i in range(h):  # without a branch, which would be mispredicted
            kept[found], kept_at[found] = x[i], i
            found += x[i] >= threshold
        for i in range(found):
            entry = kept[i]
            rank = _count_above(kept[:found], entry)
            if rank < k:
                for j in range(i):  # equal entries in the order of their latents
                    rank += kept[j] == entry
            if rank < k:
                latents[r, rank], values[r, rank] = kept_at[i], max(entry, ZERO)


@njit(nogil=True, cache=True)
def by_latent(latents: Array, weights: Array, hidden_dim: int) -> tuple[Array, ...]:
    """Sort the entries of codes by their latent.

    Args:
        latents: (b, k), each below ``hidden_dim``.
        weights: (b, k).
        hidden_dim: h.

    Returns:
        (h + 1,) where the entries of each latent start, and of each entry, sorted by latent, (n,)
        its row, (n,) its place in the row and (n,) its weight.
    """
    b, k = latents.shape
    starts = np.zeros(hidden_dim + 2, np.int64)
    for r in range(b):
        for j in range(k):
            starts[latents[r, j] + 2] += 1
    for latent in range(2, hidden_dim + 2):
        starts[latent] += starts[latent - 1]
    rows, places = np.empty(b * k, np.uint32), np.empty(b * k, np.uint32)
    sorted_weights = np.empty(b * k, np.float32)
    for r in range(b):
        for j in range(k):
            at = starts[latents[r, j] + 1]
            rows[at], places[at], sorted_weights[at] = r, j, weights[r, j]
            starts[latents[r, j] + 1] = at + 1
    return starts[:-1], rows, places, sorted_weights


@njit(nogil=True, cache=True, fastmath=SUMS)
def add_by_latent(
    first: int, last: int, starts: Array, rows: Array, weights: Array, x: Array, sums: Array
) -> None:
    """Add the weighted rows of x of each latent's entries to its sum.

    Args:
        first: First latent.
        last: Latent after the last.
        starts: (h + 1,) from `by_latent`.
        rows: (n,) from there.
        weights: (n,) from there.
        x: (b, d).
        sums: (h, d), added to.
    """
    for latent in range(first, last):
        out = sums[latent]
        at, end = starts[latent], starts[latent + 1]
        while at + 4 <= end:  # four at once: `out` is read and written a quarter as often
            w0, w1, w2, w3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
            x0, x1, x2, x3 = x[rows[at]], x[rows[at + 1]], x[rows[at + 2]], x[rows[at + 3]]
            for i in range(x.shape[1]):
                out[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
            at += 4
        while at < end:
            w0, x0 = weights[at], x[rows[at]]
            for i in range(x.shape[1]):
                out[i] += w0 * x0[i]
            at += 1


@njit(nogil=True, cache=True, fastmath=SUMS)
def prefix_sums(
    first: int,
    last: int,
    start: Array,
    values: Array,
    latents: Array,
    table: Array,
    ks: Array,
    sums: Array,
    squares: Array,
) -> None:  # numba takes arrays, not objects
    """Write ``start`` plus the weighted sum of the table's rows over the first k latents, by k.

    Args:
        first: First row.
        last: Row after the last.
        start: (b, d).
        values: (b, k).
        latents: (b, k).
        table: (h, d).
        ks: (s,) rising.
        sums: (s, b, d), written.
        squares: (b, s), written: the squared norms of the sums.
    """
    d = start.shape[1]
    total = np.empty(d, np.float32)
    for r in range(first, last):
        total[:] = start[r]
        z, row, at = values[r], latents[r], 0
        for stretch in range(len(ks)):
            while at + 4 <= ks[stretch]:  # four at once: `total` is read a quarter as often
                z0, z1, z2, z3 = z[at], z[at + 1], z[at + 2], z[at + 3]
                w0, w1 = table[row[at]], table[row[at + 1]]
                w2, w3 = table[row[at + 2]], table[row[at + 3]]
                for i in range(d):
                    total[i] += z0 * w0[i] + z1 * w1[i] + z2 * w2[i] + z3 * w3[i]
                at += 4
            while at < ks[stretch]:
                z0, w0 = z[at], table[row[at]]
                for i in range(d):
                    total[i] += z0 * w0[i]
                at += 1
            out, square = sums[stretch, r], ZERO
            for i in range(d):
                out[i] = total[i]
                square += total[i] * total[i]
            squares[r, stretch] = square


@njit(nogil=True, cache=True, fastmath=SUMS)
def prefix_gradients(
    first: int,
    last: int,
    gradient: Array,
    stretches: Array,
    table: Array,
    starts: Array,
    rows: Array,
    places: Array,
    weights: Array,
    of_values: Array,
    of_table: Array,
) -> None:  # numba takes arrays, not objects
    """Write the gradients of values and table in `prefix_sums`.

    Args:
        first: First latent.
        last: Latent after the last.
        gradient: (s, b, d) of what each stretch of latents between two ks adds.
        stretches: (k,) the stretch of each place in a code.
        table: (h, d).
        starts: (h + 1,) from `by_latent`.
        rows: (n,) from there.
        places: (n,) from there.
        weights: (n,) the values, from there.
        of_values: (b, k), written.
        of_table: (h, d), written.
    """
    d = table.shape[1]
    for latent in range(first, last):
        own, out = table[latent], of_table[latent]
        out[:] = ZERO
        at, end = starts[latent], starts[latent + 1]
        while at + 2 <= end:  # two at once: `own` and `out` are read half as often
            r0, place0, r1, place1 = rows[at], places[at], rows[at + 1], places[at + 1]
            g0, g1 = gradient[stretches[place0], r0], gradient[stretches[place1], r1]
            w0, w1, sum0, sum1 = weights[at], weights[at + 1], ZERO, ZERO
            for i in range(d):
                sum0 += g0[i] * own[i]
                sum1 += g1[i] * own[i]
                out[i] += w0 * g0[i] + w1 * g1[i]
            of_values[r0, place0], of_values[r1, place1] = sum0, sum1
            at += 2
        if at < end:
            r0, place0 = rows[at], places[at]
            w0, g0, sum0 = weights[at], gradient[stretches[place0], r0], ZERO
            for i in range(d):
                sum0 += g0[i] * own[i]
                out[i] += w0 * g0[i]
            of_values[r0, place0] = sum0
