"""Compiled loops of `csr_st.model.coefficients`, for documents of an index. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array

SUMS = {"reassoc", "contract"}  # lets sums be vectorised


@njit(nogil=True, cache=True, fastmath=SUMS)
def _dot(one: Array, other: Array, n: int) -> Any:
    """The sum of the first n products."""
    total = np.float32(0)
    for i in range(n):
        total += one[i] * other[i]
    return total


@njit(nogil=True, cache=True)
def _multiply(active: Array, encoder: Array, decoder: Array, table: Array, products: Array) -> None:
    """Write the (n, n) products of the rows of n active latents."""
    n = active.shape[0]
    for i in range(n):
        if table.shape[0]:
            for j in range(n):
                products[i, j] = table[active[i], active[j]]
        else:
            for j in range(n):
                first, second = encoder[active[i]], decoder[active[j]]
                products[i, j] = _dot(first, second, encoder.shape[1])


@njit(nogil=True, cache=True)
def _sweep(products: Array, missing: Array, change: Array, n: int, ridge: float) -> None:
    """One sweep of Gauss-Seidel over n unknowns."""
    for i in range(n):
        if products[i, i] > 0:
            left = missing[i] - _dot(products[i], change, n)
            left -= np.float32(ridge) * products[i, i] * change[i]
            change[i] += left / (products[i, i] * np.float32(1 + ridge))


@njit(nogil=True, cache=True)
def debias(  # numba takes arrays, not objects
    latents: Array,
    rows: Array,
    encoder: Array,
    decoder: Array,
    table: Array,
    bias: Array,
    ridge: float,
    sweeps: int,
    coefficients: Array,
) -> None:
    """Replace the magnitudes of some documents by their coefficients.

    Args:
        latents: (n, k_stored).
        rows: (m,) positions.
        encoder: (hidden_dim, input_dim) float32.
        decoder: (hidden_dim, input_dim) float32.
        table: (hidden_dim, hidden_dim) float32 products of their rows, or (0, 0) to compute those
            that are needed.
        bias: (hidden_dim,) float32 of the encoder's latents.
        ridge: As `csr_st.model.coefficients.RIDGE`.
        sweeps: As `csr_st.model.coefficients.SWEEPS`.
        coefficients: (m, k) float32, magnitudes, which are overwritten.
    """
    k = coefficients.shape[1]
    products = np.empty((k, k), np.float32)
    missing, change = np.empty(k, np.float32), np.empty(k, np.float32)
    for number in range(rows.shape[0]):
        magnitudes, active = coefficients[number], latents[rows[number]]
        n = 0
        while n < k and magnitudes[n] > 0:  # they fall
            n += 1
        _multiply(active[:n], encoder, decoder, table, products)
        before, after = np.float32(0), np.float32(0)
        for i in range(n):
            missing[i] = magnitudes[i] - bias[active[i]] - _dot(products[i], magnitudes, n)
            before += missing[i] * missing[i]
        change[:] = 0
        for _ in range(sweeps):
            _sweep(products, missing, change, n, ridge)
        for i in range(n):
            left = missing[i] - _dot(products[i], change, n)
            after += left * left
        if after <= before:  # false for NaN
            for i in range(n):
                magnitudes[i] += change[i]
