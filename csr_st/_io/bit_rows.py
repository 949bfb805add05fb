"""Rows of bits in one array of 64-bit words: codes packed, unpacked and copied. Needs numba.

A row has a fixed number of bits, so row i begins at bit ``i * row_bits``; bit b is bit ``b % 64`` of
word ``b // 64``. 64 rows fill whole words: threads may write different groups of 64 rows. In a row:

====== ============== ==============================================================================
scale  16             the largest value of the row, as bfloat16
levels k * value_bits the values, in order of rising latents, in steps of the scale
low    k * low_bits   the low bits of the latents
high   k + highest    the high bits of the latents: bit ``high + rank`` is set for each rank
====== ============== ==============================================================================

The last two are the quasi-succinct form of a rising sequence (Elias 1974, Fano 1971), which needs
about half a bit per latent more than log2 C(hidden_dim, k).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.compiling import njit

SCALE_BITS = 16
# The place of the only bit that is set in x is _PLACE[(x * _DE_BRUIJN) >> 58], see Leiserson, Prokop
# and Randall, Using de Bruijn sequences to index a 1 in a computer word, 1998.
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.zeros(64, np.int64)
for _bit in range(64):
    _PLACE[((0x03F79D71B4CB0A89 << _bit) % 2**64) >> 58] = _bit

Words = NDArray[np.uint64]
Array = NDArray[Any]


@njit(nogil=True, cache=True, inline="always")
def _put(words: Words, at: int, value: Any, n: int) -> None:
    """Write the n low bits of ``value``, 1..64, at a place that has only zeros."""
    word, shift = at >> 6, np.uint64(at & 63)
    words[word] |= np.uint64(value) << shift
    if (at & 63) + n > 64:
        words[word + 1] |= np.uint64(value) >> (np.uint64(64) - shift)


@njit(nogil=True, cache=True, inline="always")
def _get(words: Words, at: int, n: int) -> Any:
    """The n bits, 1..64, from bit ``at`` on."""
    word, shift = at >> 6, np.uint64(at & 63)
    value = words[word] >> shift
    if (at & 63) + n > 64:
        value |= words[word + 1] << (np.uint64(64) - shift)
    return value & (~np.uint64(0) >> np.uint64(64 - n))


@njit(nogil=True, cache=True)
def pack_rows(  # numba takes arrays, not objects
    first: int,
    last: int,
    latents: Array,
    values: Array,
    scales: Array,
    hidden_dim: int,
    value_bits: int,
    low_bits: int,
    row_bits: int,
    words: Words,
) -> int:
    """Pack rows first..last of (n, k) latents and raw values.

    ``scales`` are (n,) float32, the largest value of each row as it is stored.

    Returns:
        The first row in which a latent is twice, or -1.
    """
    k = latents.shape[1]
    top_level = (1 << value_bits) - 1
    low_mask = (1 << low_bits) - 1
    used = np.zeros((hidden_dim + 63) >> 6, np.uint64)  # a bit for each latent
    levels = np.empty(hidden_dim, np.int64)
    for row in range(first, last):
        largest = np.float64(values[row].max())
        n_used = 0
        for rank in range(k):
            if values[row, rank] > 0:
                latent = np.int64(latents[row, rank])
                level = int(np.float64(values[row, rank]) / largest * top_level + 0.5)
                levels[latent] = max(level, 1)
                used[latent >> 6] |= np.uint64(1) << np.uint64(latent & 63)
                n_used += 1
        at = row * row_bits
        _put(words, at, np.uint64(scales[row : row + 1].view(np.uint32)[0] >> 16), SCALE_BITS)
        at += SCALE_BITS
        lows = at + k * value_bits
        highs = lows + k * low_bits
        rank = 0
        for word in range(len(used)):
            bits = used[word]
            used[word] = 0
            while bits:
                lowest = bits & (~bits + np.uint64(1))
                bits ^= lowest
                latent = (word << 6) + _PLACE[(lowest * _DE_BRUIJN) >> np.uint64(58)]
                _put(words, at + rank * value_bits, levels[latent], value_bits)
                if low_bits:
                    _put(words, lows + rank * low_bits, latent & low_mask, low_bits)
                _put(words, highs + (latent >> low_bits) + rank, 1, 1)
                rank += 1
        if rank < n_used:
            return row
        for rank in range(n_used, k):  # of value 0, the last latent
            if low_bits:
                _put(words, lows + rank * low_bits, (hidden_dim - 1) & low_mask, low_bits)
            _put(words, highs + ((hidden_dim - 1) >> low_bits) + rank, 1, 1)
    return -1


@njit(nogil=True, cache=True)
def unpack_rows(  # numba takes arrays, not objects
    first: int,
    last: int,
    words: Words,
    hidden_dim: int,
    value_bits: int,
    low_bits: int,
    row_bits: int,
    latents: Array,
    values: Array,
) -> int:
    """Unpack rows first..last by falling value, equal ones by rising latent.

    Returns:
        The first row that no packing makes, or -1.
    """
    k = latents.shape[1]
    top_level = (1 << value_bits) - 1
    rising = np.empty(k, np.int64)
    levels = np.empty(k, np.int64)
    places = np.empty(top_level + 2, np.int64)  # where the next latent of a level goes
    scale = np.empty(1, np.uint32)
    for row in range(first, last):
        at, end = row * row_bits, (row + 1) * row_bits
        scale[0] = np.uint32(_get(words, at, SCALE_BITS)) << np.uint32(16)
        unit = scale.view(np.float32)[0] / np.float32(top_level)
        at += SCALE_BITS
        lows = at + k * value_bits
        begin = lows + k * low_bits
        high, rank = begin, 0
        while high < end and rank < k:
            bits = _get(words, high, min(64, end - high))
            while bits and rank < k:
                lowest = bits & (~bits + np.uint64(1))
                bits ^= lowest
                position = high + np.int64(_PLACE[(lowest * _DE_BRUIJN) >> np.uint64(58)])
                rising[rank] = (position - begin - rank) << low_bits
                rank += 1
            high += 64
        if rank < k:
            return row
        places[:] = 0
        for rank in range(k):
            if low_bits:
                rising[rank] |= np.int64(_get(words, lows + rank * low_bits, low_bits))
            levels[rank] = _get(words, at + rank * value_bits, value_bits)
            places[top_level - levels[rank] + 1] += 1
        if rising[k - 1] >= hidden_dim:
            return row
        for level in range(1, top_level + 1):
            places[level] += places[level - 1]
        for rank in range(k):
            place = places[top_level - levels[rank]]
            places[top_level - levels[rank]] += 1
            latents[row, place] = rising[rank]
            values[row, place] = unit * np.float32(levels[rank])
    return -1


@njit(nogil=True, cache=True)
def copy_rows(words: Words, rows: Array, row_bits: int, out: Words, first: int) -> None:
    """Copy some rows to ``first``, ``first + 1``, ... of ``out``, which has only zeros there."""
    for i in range(len(rows)):
        source, target = rows[i] * row_bits, (first + i) * row_bits
        for begin in range(0, row_bits, 64):
            n = min(64, row_bits - begin)
            _put(out, target + begin, _get(words, source + begin, n), n)
