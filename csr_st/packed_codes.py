"""Codes in few bytes: values in 4 or 8 bits, latents near the fewest bits that can name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import resolve_threads, run_all
from csr_st.codes import SparseCodes, index_dtype

VALUE_BITS = (4, 8)
_SCALE_BITS = 16
_ROWS_PER_TASK = 2**12  # a multiple of 64, so that no two tasks write to one word


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """The codes of n items, each in the same number of bits. Needs numba.

    A row has its largest value as bfloat16, its values in steps of that, and its latents in rising
    order as a quasi-succinct sequence (Elias 1974, Fano 1971): about k (log2(hidden_dim / k) + 2)
    bits, at most 6% above log2 C(hidden_dim, k) with the values counted in.

    What is lost: a value is off by at most half a step, 1/30 of the row's largest value with 4 bits
    and 1/510 with 8, a smaller one than that becomes one step, and the scale of a row is off by at
    most 0.4%. Latents are exact. Values of one row that become equal are unpacked by rising latent,
    so the order of latents within a row is kept up to such ties.

    >>> codes = SparseCodes(np.array([[4, 1]]), np.array([[3.0, 1.0]], np.float32), hidden_dim=5)
    >>> codes.pack().unpack().to_dense()
    array([[0., 1., 0., 0., 3.]], dtype=float32)

    Attributes:
        words: uint64, the rows' bits one after another, see `csr_st._io.bit_rows`.
        n: Number of items.
        k: Latents of each item.
        hidden_dim: Number of latents of the head.
        value_bits: Bits of a value, 4 or 8.
        normalized: Whether `unpack` gives rows of unit norm with their norms.
    """

    words: NDArray[np.uint64]
    n: int
    k: int
    hidden_dim: int
    value_bits: int
    normalized: bool

    def __post_init__(self) -> None:
        if self.value_bits not in VALUE_BITS:
            raise ValueError(f"value_bits={self.value_bits!r} must be one of {VALUE_BITS}")
        if not 1 <= self.k <= self.hidden_dim:
            raise ValueError(f"codes have k={self.k}; k must be in 1..hidden_dim={self.hidden_dim}")
        words = _words(self.n, self.row_bits)
        if self.words.dtype != np.uint64 or self.words.shape != (words,):
            raise ValueError(
                f"words are {self.words.dtype} {self.words.shape}; {self.n} rows of "
                f"{self.row_bits} bits take ({words},) uint64"
            )

    @classmethod
    def from_codes(cls, codes: SparseCodes, value_bits: int = 4) -> PackedCodes:
        """Pack codes; see `SparseCodes.pack`.

        Raises:
            ImportError: If numba is not installed.
            ValueError: If ``value_bits`` is not 4 or 8, a value is negative or not finite, or a row
                has a latent twice.
        """
        empty = np.empty(0, np.uint64)
        packed = cls(empty, 0, codes.k, codes.hidden_dim, value_bits, codes.normalized)
        raw = codes.raw()
        values = np.ascontiguousarray(raw.values, np.float32)
        good = np.isfinite(values) & (values >= 0)
        if not good.all():
            row = int(np.argmin(good.all(axis=1)))
            raise ValueError(
                f"row {row} of the codes has a NaN, infinite or negative value; only finite values "
                "of at least 0 can be packed"
            )
        largest = values.max(axis=1, initial=0).view(np.uint32).astype(np.uint64)
        # Round to nearest, ties to even, but not to infinity.
        rounded = np.minimum((largest + 0x7FFF + ((largest >> 16) & 1)) >> 16, 0x7F7F)
        scales = (rounded << 16).astype(np.uint32).view(np.float32)
        latents = np.ascontiguousarray(raw.indices)
        words = np.zeros(_words(len(codes), packed.row_bits), np.uint64)
        arguments = (latents, values, scales, packed.hidden_dim, *packed._layout, words)
        repeats = [row for row in run_rows("pack_rows", len(codes), arguments) if row >= 0]
        if repeats:
            raise ValueError(
                f"row {repeats[0]} of the codes has a latent twice; latents must be distinct within "
                "a row: add up the values of equal ones"
            )
        return replace(packed, words=words, n=len(codes))

    def unpack(self) -> SparseCodes:
        """The codes, with float32 values.

        Raises:
            ImportError: If numba is not installed.
            ValueError: If a row cannot have been written by `from_codes`.
        """
        latents = np.empty((self.n, self.k), index_dtype(self.hidden_dim))
        values = np.empty((self.n, self.k), np.float32)
        arguments = (self.words, self.hidden_dim, *self._layout, latents, values)
        damaged = [row for row in run_rows("unpack_rows", self.n, arguments) if row >= 0]
        if damaged or not np.isfinite(values).all():
            rows = damaged or [int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise ValueError(f"row {rows[0]} of the packed codes is damaged; pack the codes again")
        codes = SparseCodes(latents, values, self.hidden_dim)
        return codes.normalize() if self.normalized else codes

    @property
    def low_bits(self) -> int:
        """Bits of a latent that are stored as they are: what makes a row shortest."""
        widths = range(int(self.hidden_dim).bit_length())
        return min(widths, key=lambda low: self.k * low + ((self.hidden_dim - 1) >> low))

    @property
    def row_bits(self) -> int:
        """Bits of one item."""
        highest = (self.hidden_dim - 1) >> self.low_bits
        return _SCALE_BITS + self.k * (self.value_bits + self.low_bits + 1) + highest

    @property
    def _layout(self) -> tuple[int, int, int]:
        return self.value_bits, self.low_bits, self.row_bits

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return self.words.nbytes

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, hidden_dim) of the matrix of these codes."""
        return self.n, self.hidden_dim

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return (
            f"PackedCodes(n={self.n}, k={self.k}, hidden_dim={self.hidden_dim}, "
            f"value_bits={self.value_bits}, {self.nbytes:,} bytes)"
        )

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> PackedCodes:
        """Some items: a slice, a boolean mask or row numbers; an int keeps n = 1."""
        if isinstance(rows, int | np.integer):
            rows = [range(self.n)[int(rows)]]
        chosen = np.arange(self.n)[rows]
        return self._joined([(self, chosen)])

    @classmethod
    def concatenate(cls, parts: Sequence[PackedCodes]) -> PackedCodes:
        """The codes of all parts, in order.

        Raises:
            ValueError: If there is no part, or if k, hidden_dim, value_bits or normalisation differ.
        """
        if not parts:
            raise ValueError("there are no codes to concatenate; pass at least one PackedCodes")
        kinds = {(part.k, part.hidden_dim, part.value_bits, part.normalized) for part in parts}
        if len(kinds) > 1:
            raise ValueError(
                f"these codes cannot be concatenated: (k, hidden_dim, value_bits, normalized) are "
                f"{sorted(kinds)}; unpack them, and bring them to one k with prefix(k)"
            )
        return parts[0]._joined([(part, np.arange(part.n)) for part in parts])

    def _joined(self, chosen: Sequence[tuple[PackedCodes, NDArray[np.int64]]]) -> PackedCodes:
        """Codes like these, of rows of other packed codes."""
        n = sum(len(rows) for _, rows in chosen)
        words, first = np.zeros(_words(n, self.row_bits), np.uint64), 0
        for part, rows in chosen:
            _kernels().copy_rows(part.words, rows, self.row_bits, words, first)
            first += len(rows)
        return replace(self, words=words, n=n)


def _words(n: int, row_bits: int) -> int:
    return -(-n * row_bits // 64)


def _kernels() -> Any:
    try:
        from csr_st._io import bit_rows
    except ImportError as error:
        if error.name != "numba":
            raise
        raise ImportError(
            'packed codes need numba: pip install "csr-st[search]"', name="numba"
        ) from error
    return bit_rows


def run_rows(loop: str, n: int, arguments: tuple[Any, ...]) -> list[Any]:
    """Run a loop over ``first, last, *arguments`` for all of n rows, on all threads."""
    work = getattr(_kernels(), loop)
    ends = [*range(0, n, _ROWS_PER_TASK), n]
    tasks = [partial(work, first, last, *arguments) for first, last in pairwise(ends)]
    return run_all(tasks, resolve_threads(None))
