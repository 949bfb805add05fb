"""Compiled codes of texts whose vector is the mean of vectors of their tokens. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array


@njit(nogil=True, cache=True)
def code_of_tokens(
    tokens: Array,
    slots: Array,
    projected: Array,
    table: Array,
    bias: Array,
    power: float,
    unit_vector: bool,
    unit_code: bool,
    values: Array,
    latents: Array,
) -> Any:
    """The code of a text: its largest activations, as `SparseCSRHead.encode` makes a code.

    Args:
        tokens: (t,) ids.
        slots: (vocabulary,) rows of ``projected`` by token; negative where there is none.
        projected: (n, hidden_dim) float32, the encoder's products with rows of ``table``.
        table: (vocabulary, input_dim) float32.
        bias: (hidden_dim,) float32 pre-activations of the vector 0.
        power: The head's.
        unit_vector: Whether the mean of the tokens' rows is scaled to unit norm.
        unit_code: Whether the code is.
        values: (k,) float32, written: falling values.
        latents: (k,) unsigned integers, written.

    Returns:
        How many values are above 0, and the norm of the values before they were scaled. If a token
        has no slot -1 and 0, and nothing is written.
    """
    for token in tokens:
        if slots[token] < 0:
            return -1, np.float32(0)
    found = np.zeros(len(bias), np.float32)
    for token in tokens:
        row = projected[slots[token]]
        for latent in range(len(found)):
            found[latent] += row[latent]
    divisor = _norm_of_sum(tokens, table) if unit_vector else np.float32(len(tokens))
    factor = np.float32(1) / divisor if divisor > 0 else np.float32(0)
    for latent in range(len(found)):
        found[latent] = found[latent] * factor + bias[latent]
    n = _largest(found, values, latents)
    return n, _finish(values[:n], power, unit_code)


@njit(nogil=True, cache=True)
def _finish(values: Array, power: float, unit: bool) -> Any:
    """Raise values, above 0, to a power and scale them; their norm before that."""
    squares = np.float32(0)
    for place in range(len(values)):
        value = values[place]
        if power == 0.5:
            value = np.sqrt(value)
        elif power != 1:
            value = np.float32(value**power)
        values[place] = value
        squares += value * value
    norm = np.sqrt(squares)
    if unit and norm > 0:
        for place in range(len(values)):
            values[place] /= norm
    return norm


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _norm_of_sum(tokens: Array, table: Array) -> Any:
    total = np.zeros(table.shape[1], np.float32)
    for token in tokens:
        row = table[token]
        for column in range(len(total)):
            total[column] += row[column]
    squares = np.float32(0)
    for column in range(len(total)):
        squares += total[column] * total[column]
    return np.sqrt(squares)


@njit(nogil=True, cache=True)
def _largest(found: Array, values: Array, latents: Array) -> int:
    """The len(values) largest entries above 0 and their places, falling; how many there are.

    The rest of both arrays is 0. A heap has the least of the largest on top.
    """
    k, n = len(values), 0
    for place in range(len(found)):
        value = found[place]
        if not value > 0:
            continue
        if n < k:
            values[n], latents[n] = value, place
            n += 1
            if n == k:
                for top in range(k // 2 - 1, -1, -1):
                    _sift(values, latents, top, k)
        elif value > values[0]:
            values[0], latents[0] = value, place
            _sift(values, latents, 0, k)
    if n < k:
        for top in range(n // 2 - 1, -1, -1):
            _sift(values, latents, top, n)
        values[n:], latents[n:] = 0, 0
    for last in range(n - 1, 0, -1):
        values[0], values[last] = values[last], values[0]
        latents[0], latents[last] = latents[last], latents[0]
        _sift(values, latents, 0, last)
    return n


@njit(nogil=True, cache=True)
def _sift(values: Array, latents: Array, top: int, size: int) -> None:
    """Move the entry at ``top`` down to where none below it is smaller."""
    value, latent = values[top], latents[top]
    while True:
        child = 2 * top + 1
        if child >= size:
            break
        if child + 1 < size and values[child + 1] < values[child]:
            child += 1
        if values[child] >= value:
            break
        values[top], latents[top] = values[child], latents[child]
        top = child
    values[top], latents[top] = value, latent
