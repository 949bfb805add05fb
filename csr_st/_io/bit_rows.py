"""Rows of bits in one array of bytes: each is the sparse code of one item, in a fixed length.

Row i begins at bit ``i * row_bits``; bit b is bit ``b % 8`` of byte ``b // 8``, the lowest being
bit 0. A row has k entries, each a latent and its level, in order of rising latents:

====== ============== ============================================================================
scale  15             the largest value of the row, as bfloat16 without its sign
levels k * value_bits the values, 1..2**value_bits - 1; the largest value is the highest level
low    k * low_bits   the low bits of the latents
high   k + highest    their high bits: bit ``j + (latent >> low_bits)`` is set for the j-th of them
====== ============== ============================================================================

Levels and low bits are stored as bit 0 of all k, then bit 1 of all k, and so on. An entry that is
not used has level 0 and the last latent. The last two parts are the quasi-succinct form of a rising
sequence (Elias 1974, Fano 1971): about half a bit per latent more than log2 C(hidden_dim, k).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SCALE_BITS = 15
_BITS_AT_ONCE = 2**20  # as bytes, in the cache of a processor

Bits = NDArray[np.uint8]


class Rows(NamedTuple):
    """Some rows.

    Attributes:
        scales: (n,) uint16, the bits of a bfloat16 that is normal and above 0, or 0.
        levels: (n, k) uint8.
        latents: (n, k) of `RowFormat.latent_dtype`, rising along a row.
    """

    scales: NDArray[np.uint16]
    levels: NDArray[np.uint8]
    latents: NDArray[Any]


class DamagedRow(ValueError):
    """A row that no codes give.

    Attributes:
        row: Its place among the rows that were read.
    """

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} is damaged")
        self.row = row


@dataclass(frozen=True)
class RowFormat:
    """What all rows of an array have in common.

    Attributes:
        k: Entries of a row.
        hidden_dim: Number of latents.
        value_bits: Bits of a level, at most 8.
    """

    k: int
    hidden_dim: int
    value_bits: int

    @cached_property
    def low_bits(self) -> int:
        """Bits of a latent that are stored as they are: what makes a row shortest."""
        widths = range(self.hidden_dim.bit_length())
        return min(widths, key=lambda low: self.k * low + ((self.hidden_dim - 1) >> low))

    @property
    def latent_dtype(self) -> np.dtype[Any]:
        """The type of latents, in which they leave 8 bits."""
        return np.dtype(np.uint32 if self.hidden_dim <= 2**24 else np.uint64)

    @property
    def _parts(self) -> tuple[int, int, int]:
        """The bits where levels, low and high begin."""
        lows = _SCALE_BITS + self.k * self.value_bits
        return _SCALE_BITS, lows, lows + self.k * self.low_bits

    @property
    def row_bits(self) -> int:
        """Bits of one row."""
        return self._parts[2] + self.k + ((self.hidden_dim - 1) >> self.low_bits)

    @property
    def rows_at_once(self) -> int:
        """Rows that are best handled together: they begin and end with a byte."""
        return max(8, _BITS_AT_ONCE // self.row_bits & ~7)

    def n_bytes(self, n: int) -> int:
        """Bytes of n rows."""
        return -(-n * self.row_bits // 8)

    def write(self, rows: Rows) -> Bits:
        """(n, row_bits) bits, each in a byte, of rows whose latents rise."""
        n = len(rows.scales)
        bits = np.zeros((n, self.row_bits), np.uint8)
        levels, lows, highs = self._parts
        _put(bits, 0, rows.scales[:, None], _SCALE_BITS)
        _put(bits, levels, rows.levels, self.value_bits)
        _put(bits, lows, rows.latents, self.low_bits)
        places = (rows.latents >> self.latent_dtype.type(self.low_bits)).astype(np.int64)
        places += np.arange(self.k) + highs
        places += np.arange(n)[:, None] * self.row_bits
        bits.reshape(-1)[places] = 1
        return bits

    def read(self, bits: Bits) -> Rows:
        """The rows of (n, row_bits) bits.

        Raises:
            DamagedRow: If `write` gives no such row.
        """
        levels, lows, highs = self._parts
        scales = _get(bits, 0, 1, _SCALE_BITS)[:, 0].astype(np.uint16)
        high = bits[:, highs:].view(bool)
        places, kind = np.flatnonzero(high).astype(self.latent_dtype), self.latent_dtype.type
        begins = np.arange(len(bits), dtype=places.dtype) * kind(high.shape[1])
        if len(places) != len(bits) * self.k or (places[:: self.k] < begins).any():
            _refuse(np.count_nonzero(high, axis=1) != self.k)
        latents = places.reshape(-1, self.k)
        latents -= begins[:, None] + np.arange(self.k, dtype=places.dtype)
        latents <<= kind(self.low_bits)
        latents |= _get(bits, lows, self.k, self.low_bits)
        rows = Rows(scales, _get(bits, levels, self.k, self.value_bits).astype(np.uint8), latents)
        self._check(rows)
        return rows

    def _check(self, rows: Rows) -> None:
        latents, levels = rows.latents, rows.levels
        last = self.hidden_dim - 1
        highest = np.where(rows.scales > 0, (1 << self.value_bits) - 1, 0)
        subnormal = (rows.scales > 0) & (rows.scales < 0x80)
        _refuse(subnormal | (rows.scales >= 0x7F80))  # Inf or NaN
        _refuse(levels.max(axis=1) != highest)
        _refuse(latents[:, -1] > last)  # also of a row with less than k high bits
        _refuse((levels == 0) & (latents != last))
        _refuse(latents[:, 1:] < latents[:, :-1] + (levels[:, :-1] > 0))

    def bits_of(self, data: Bits, rows: NDArray[np.int64]) -> Bits:
        """(len(rows), row_bits) bits, each in a byte, of some rows of an array of bytes."""
        n = len(rows)
        if n and rows[0] % 8 == 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + n)):
            begin = self.n_bytes(int(rows[0]))  # they begin with a byte
            whole = np.unpackbits(data[begin:], count=n * self.row_bits, bitorder="little")
            return whole.reshape(n, self.row_bits)
        starts = rows * self.row_bits
        places = (starts >> 3)[:, None] + np.arange(self.n_bytes(1) + 1)
        found = data.take(places, mode="clip")  # the byte behind the last one is of no use
        shift = (starts & 7).astype(np.uint8)[:, None]
        aligned = found[:, :-1] >> shift
        aligned |= (found[:, 1:].astype(np.uint16) << (8 - shift)).astype(np.uint8)
        return np.unpackbits(aligned, axis=1, count=self.row_bits, bitorder="little")

    def joined(self, n: int, blocks: Iterable[Bits]) -> Bits:
        """The bytes of n rows in all, given as bits, each in a byte, in blocks of any length."""
        data, place = np.empty(self.n_bytes(n), np.uint8), 0
        left = np.empty((0, self.row_bits), np.uint8)
        for block in blocks:
            left = np.concatenate([left, block])
            whole = len(left) & ~7
            place = _append(data, place, left[:whole])
            left = left[whole:]
        _append(data, place, left)
        return data


def _append(data: Bits, place: int, bits: Bits) -> int:
    packed = np.packbits(bits.reshape(-1), bitorder="little")
    data[place : place + len(packed)] = packed
    return place + len(packed)


def _refuse(bad: NDArray[np.bool_]) -> None:
    if bad.any():
        raise DamagedRow(int(np.nonzero(bad)[0][0]))


def _put(bits: Bits, at: int, numbers: NDArray[Any], width: int) -> None:
    """Write the ``width`` low bits of (n, k) numbers from bit ``at`` on."""
    k, one = numbers.shape[1], numbers.dtype.type(1)
    for bit in range(width):
        place = at + bit * k
        bits[:, place : place + k] = (numbers >> numbers.dtype.type(bit)) & one


def _get(bits: Bits, at: int, k: int, width: int) -> NDArray[Any]:
    """(n, k) unsigned numbers of ``width`` bits, which `_put` wrote."""
    numbers = np.zeros((len(bits), k), np.min_scalar_type((1 << width) - 1))
    for bit in range(width):
        place = at + bit * k
        numbers |= bits[:, place : place + k].astype(numbers.dtype) << numbers.dtype.type(bit)
    return numbers
