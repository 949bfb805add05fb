"""Compiled decoding of nested prefixes, with its gradients. Needs numba."""

from __future__ import annotations

import numpy as np
from numba import njit

from csr_st.training.compiled.numeric import FAST, ZERO, Array


@njit(nogil=True, cache=True, fastmath=FAST)
def prefix_residuals(
    first: int,
    last: int,
    target: Array,
    values: Array,
    latents: Array,
    weight: Array,
    ks: Array,
    residuals: Array,
    errors: Array,
) -> None:
    """Write what the first k latents leave of rows ``first`` to ``last``, for every k.

    Args:
        first: Row to begin with.
        last: Row to end before.
        target: (b, d) float32.
        values: (b, k) float32.
        latents: (b, k) int64.
        weight: (h, d) float32, a row a latent.
        ks: (s,) int64, rising.
        residuals: (s, b, d) float32, written.
        errors: (b, s) float32, written: their squared norms.
    """
    d = target.shape[1]
    left = np.empty(d, np.float32)
    for r in range(first, last):
        left[:] = target[r]
        z, row, at = values[r], latents[r], 0
        for stretch in range(len(ks)):
            end = ks[stretch]
            while at + 4 <= end:  # four at once: `left` is read and written a quarter as often
                z0, z1, z2, z3 = z[at], z[at + 1], z[at + 2], z[at + 3]
                w0, w1 = weight[row[at]], weight[row[at + 1]]
                w2, w3 = weight[row[at + 2]], weight[row[at + 3]]
                for i in range(d):
                    left[i] -= z0 * w0[i] + z1 * w1[i] + z2 * w2[i] + z3 * w3[i]
                at += 4
            while at < end:
                z0, w0 = z[at], weight[row[at]]
                for i in range(d):
                    left[i] -= z0 * w0[i]
                at += 1
            out, total = residuals[stretch, r], ZERO
            for i in range(d):
                out[i] = left[i]
                total += left[i] * left[i]
            errors[r, stretch] = total


@njit(nogil=True, cache=True, fastmath=FAST)
def suffix_sums(first: int, last: int, residuals: Array, factors: Array) -> None:
    """Put Σ_{t >= s} factors[t] residuals[t] in the place of residuals[s].

    Args:
        first: Row to begin with.
        last: Row to end before.
        residuals: (s, b, d) float32, overwritten.
        factors: (s,) float32.
    """
    stretches, _, d = residuals.shape
    for r in range(first, last):
        after = residuals[stretches - 1, r]
        for i in range(d):
            after[i] *= factors[stretches - 1]
        for stretch in range(stretches - 2, -1, -1):
            here, factor = residuals[stretch, r], factors[stretch]
            for i in range(d):
                here[i] = factor * here[i] + after[i]
            after = here


@njit(nogil=True, cache=True, fastmath=FAST)
def decoding_gradients(
    first: int,
    last: int,
    gradient: Array,
    stretches: Array,
    values: Array,
    weight: Array,
    starts: Array,
    rows: Array,
    ranks: Array,
    of_values: Array,
    of_weight: Array,
) -> None:
    """Write what latents ``first`` to ``last`` have of the gradients of values and weight.

    Args:
        first: Latent to begin with.
        last: Latent to end before.
        gradient: (s, b, d) float32, of what each stretch of latents adds.
        stretches: (k,) int64, the stretch of each rank.
        values: (b, k) float32.
        weight: (h, d) float32.
        starts: (h + 1,) from `by_latent`.
        rows: (n,) uint32 row of each entry, in order of latents.
        ranks: (n,) uint32 rank of each entry, in that order.
        of_values: (b, k) float32, written.
        of_weight: (h, d) float32, written.
    """
    d = weight.shape[1]
    for latent in range(first, last):
        own, out = weight[latent], of_weight[latent]
        out[:] = ZERO
        at, end = starts[latent], starts[latent + 1]
        while at + 2 <= end:
            r0, rank0, r1, rank1 = rows[at], ranks[at], rows[at + 1], ranks[at + 1]
            z0, z1 = values[r0, rank0], values[r1, rank1]
            g0, g1 = gradient[stretches[rank0], r0], gradient[stretches[rank1], r1]
            sum0, sum1 = ZERO, ZERO
            for i in range(d):
                sum0 += g0[i] * own[i]
                sum1 += g1[i] * own[i]
                out[i] += z0 * g0[i] + z1 * g1[i]
            of_values[r0, rank0], of_values[r1, rank1] = sum0, sum1
            at += 2
        if at < end:
            r0, rank0 = rows[at], ranks[at]
            z0, g0, sum0 = values[r0, rank0], gradient[stretches[rank0], r0], ZERO
            for i in range(d):
                sum0 += g0[i] * own[i]
                out[i] += z0 * g0[i]
            of_values[r0, rank0] = sum0
