"""Codes in few bytes: values in 4 or 8 bits, latents near the fewest bits that can name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st import code_arrays, code_files
from csr_st._io.bfloat16 import LARGEST, SMALLEST, from_bfloat16, to_bfloat16
from csr_st._io.bit_rows import Bits, DamagedRow, RowFormat, Rows
from csr_st._io.threads import resolve_threads, run_all
from csr_st.codes import SparseCodes
from csr_st.model.settings import flag, integer
from csr_st.residual import ResidualBits, check_residual

VALUE_BITS = (4, 8)
_ABOUT = ("n", "k", "hidden_dim", "value_bits", "normalized")


def check_value_bits(value_bits: Any) -> int:
    """``value_bits`` as an int.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is not 4 or 8.
    """
    number = integer("value_bits", value_bits, *VALUE_BITS)
    if number not in VALUE_BITS:
        raise ValueError(f"value_bits={number} is neither 4 nor 8; pass one of them")
    return number


@dataclass(frozen=True, eq=False)
class PackedCodes:
    """The codes of n items in few bytes, each in the same number of bits.

    An item has its largest value as bfloat16, its values in equal steps up to that, and its latents
    in about log2 C(hidden_dim, k) bits. For k from 2 to 64 and hidden_dim from 1536 on this is at
    most 6% above log2 C(hidden_dim, k) + k * value_bits + 16 bits.

    What is lost: with a step s of 1/15 (4 bits) or 1/255 (8 bits) of the largest value in a row, a
    value is off by at most s/2; one below s/2 becomes s, so that no latent is lost. The largest
    value itself is rounded to 8 significant bits, so all values of a row are off by a common factor
    within 1 ± 1/256. (A largest value below 1.2e-38 becomes that.) Latents are exact. Values of a
    row that become equal are unpacked by rising latent. Packing again what was unpacked gives the
    same bits.

    >>> codes = SparseCodes(np.array([[4, 1]]), np.array([[3.0, 1.0]], np.float32), hidden_dim=5)
    >>> packed = codes.pack(value_bits=4)
    >>> packed.unpack().to_dense()
    array([[0., 1., 0., 0., 3.]], dtype=float32)

    Attributes:
        bits: (n_bytes,) uint8, the rows' bits one after another, see `csr_st._io.bit_rows`.
        n: Number of items.
        k: Latents of each item.
        hidden_dim: Number of latents of the head.
        value_bits: Bits of a value, 4 or 8.
        normalized: Whether `unpack` gives rows of unit norm with their norms, as the codes had
            that were packed.
        residual: See `SparseCodes`; packing does not change it.
        fitted: See `SparseCodes`.

    Raises:
        ValueError: If k exceeds hidden_dim, value_bits is not 4 or 8, there are not as many bytes
            as n rows take, or the residual is of another number of items.
        TypeError: If a number is not an integer, normalized or fitted not a bool, or the residual
            not `ResidualBits`.
    """

    bits: Bits
    n: int
    k: int
    hidden_dim: int
    value_bits: int
    normalized: bool
    residual: ResidualBits | None = None
    fitted: bool = False

    def __post_init__(self) -> None:
        most = code_arrays.MAX_LATENTS
        hidden_dim = integer("hidden_dim", self.hidden_dim, 1, most, "the largest supported, ")
        checked = {
            "n": integer("n", self.n, 0, 2**40),
            "k": integer("k", self.k, 1, hidden_dim, "hidden_dim="),
            "hidden_dim": hidden_dim,
            "value_bits": check_value_bits(self.value_bits),
            "normalized": flag("normalized", self.normalized),
            "fitted": flag("fitted", self.fitted),
            "bits": np.asarray(self.bits),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        n_bytes = self._format.n_bytes(self.n)
        if self.bits.dtype != np.uint8 or self.bits.shape != (n_bytes,):
            raise ValueError(
                f"bits are {self.bits.dtype} of shape {self.bits.shape}; {self.n} rows of "
                f"{self._format.row_bits} bits take ({n_bytes},) uint8"
            )
        check_residual(self.residual, self.n)

    @property
    def _format(self) -> RowFormat:
        return RowFormat(self.k, self.hidden_dim, self.value_bits)

    @classmethod
    def from_codes(cls, codes: SparseCodes, value_bits: int = 4) -> PackedCodes:
        """Pack codes, on all processors.

        Raises:
            TypeError: If codes are not `SparseCodes`, or ``value_bits`` is not an integer.
            ValueError: If ``value_bits`` is not 4 or 8.
        """
        if not isinstance(codes, SparseCodes):
            raise TypeError(f"codes are {type(codes).__name__}; pass csr_st.SparseCodes")
        rows = RowFormat(codes.k, codes.hidden_dim, check_value_bits(value_bits))
        bits = np.empty(rows.n_bytes(len(codes)), np.uint8)

        def work(first: int) -> None:
            packed = np.packbits(
                rows.write(_quantized(codes[first : first + rows.rows_at_once], rows)),
                bitorder="little",
            )
            begin = rows.n_bytes(first)
            bits[begin : begin + len(packed)] = packed

        _for_blocks(work, len(codes), rows)
        about = rows.k, rows.hidden_dim, rows.value_bits, codes.normalized
        return cls(bits, len(codes), *about, codes.residual, codes.fitted)

    def unpack(self) -> SparseCodes:
        """The codes, with float32 values; on all processors.

        Raises:
            ValueError: If the bits of a row are not what `from_codes` writes.
        """
        rows = self._format
        indices = np.empty((self.n, self.k), code_arrays.index_dtype(self.hidden_dim))
        values = np.empty((self.n, self.k), np.float32)
        norms = np.empty(self.n, np.float32) if self.normalized else None

        def work(first: int) -> None:
            block = slice(first, min(first + rows.rows_at_once, self.n))
            try:
                found = rows.read(rows.bits_of(self.bits, np.arange(block.start, block.stop)))
            except DamagedRow as error:
                raise ValueError(
                    f"row {first + error.row} of the packed codes is damaged; pack the codes again"
                ) from error
            levels, indices[block] = _by_falling_level(found, rows)
            unit = from_bfloat16(found.scales).astype(float) / ((1 << self.value_bits) - 1)
            if norms is None:
                values[block] = levels * unit[:, None]
                return
            lengths = np.sqrt(np.einsum("nk,nk->n", levels, levels))
            values[block] = levels / np.where(lengths > 0, lengths, 1)[:, None]
            norms[block] = np.minimum(unit * lengths, np.finfo(np.float32).max)

        _for_blocks(work, self.n, rows)
        like = SparseCodes(indices[:0], values[:0], self.hidden_dim)
        arrays = {"indices": indices, "values": values, "norms": norms}
        return like._with(**arrays, residual=self.residual, fitted=self.fitted)

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return sum(array.nbytes for array in self._arrays().values())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"bits": self.bits} | ({} if self.residual is None else self.residual.arrays())

    def _about(self) -> dict[str, Any]:
        """What a file has beside the arrays."""
        about = {name: getattr(self, name) for name in _ABOUT}
        if self.residual is not None:
            about["residual"] = self.residual.kind
        return {**about, "fitted": True} if self.fitted else about

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
        """The codes of some items: a slice, a boolean mask or row numbers; an int keeps n = 1.

        Raises:
            IndexError: If a row is outside the codes, or a mask has another length.
            TypeError: If rows are not numbers.
        """
        return self._joined([(self, np.arange(self.n)[code_arrays.selection(rows, self.n)])])

    @classmethod
    def concatenate(cls, parts: Iterable[PackedCodes]) -> PackedCodes:
        """The codes of all parts, in order.

        Raises:
            ValueError: If there is no part, or they differ in k, hidden_dim, value_bits,
                normalisation, ``fitted`` or the kind of residual.
            TypeError: If a part is not PackedCodes.
        """
        equal = "k", "hidden_dim", "value_bits", "normalized", "fitted"
        fix = "unpack them, and bring them to one k with prefix(k)"
        parts = code_arrays.joinable(parts, PackedCodes, equal, fix)
        return parts[0]._joined([(part, np.arange(part.n)) for part in parts])

    def _joined(self, chosen: Sequence[tuple[PackedCodes, NDArray[np.int64]]]) -> PackedCodes:
        """Packed codes like these, of some rows of others."""
        rows = self._format
        n = sum(len(numbers) for _, numbers in chosen)
        blocks = (
            rows.bits_of(part.bits, numbers[first : first + rows.rows_at_once])
            for part, numbers in chosen
            for first in range(0, len(numbers), rows.rows_at_once)
        )
        residuals = [
            part.residual[numbers] for part, numbers in chosen if part.residual is not None
        ]
        residual = ResidualBits.concatenate(residuals) if residuals else None
        return replace(self, bits=rows.joined(n, blocks), n=n, residual=residual)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, completely or not at all."""
        code_files.write(Path(path), "PackedCodes", self._about(), self._arrays())

    @classmethod
    def load(cls, path: str | Path) -> PackedCodes:
        """Read a file that `save` wrote, or a shard of a `CodeStore` of packed codes.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file has no packed codes, is damaged, or is of a newer format.
        """
        about, arrays = code_files.read(path, "PackedCodes", _ABOUT, ["bits"])
        try:
            residual = ResidualBits.stored(arrays, about.pop("residual", None))
            return cls(arrays["bits"], **about, residual=residual)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has no valid codes: {error}") from error


def _for_blocks(work: Any, n: int, rows: RowFormat) -> None:
    firsts = range(0, n, rows.rows_at_once)
    run_all([partial(work, first) for first in firsts], resolve_threads(None))


def _quantized(codes: SparseCodes, rows: RowFormat) -> Rows:
    """Codes in the order and the steps of packed rows."""
    values = codes.values.astype(np.float32, copy=False)
    largest = values[:, 0]
    active = values > 0
    top = np.float32((1 << rows.value_bits) - 1)
    steps = values / np.where(largest > 0, largest, 1)[:, None] * top + np.float32(0.5)
    kind = rows.latent_dtype
    levels = np.maximum(steps.astype(kind), active)
    # A row sorted at once by latents, in the high bits, with their levels in the low 8 bits.
    latents = np.where(active, codes.indices, kind.type(rows.hidden_dim - 1)).astype(kind)
    entries = (latents << kind.type(8)) | levels
    entries.sort(axis=1)
    scales = largest.astype(float) * (1 if codes.norms is None else codes.norms)
    scales = np.where(largest > 0, np.clip(scales, SMALLEST, LARGEST), 0)
    return Rows(
        to_bfloat16(scales.astype(np.float32)), entries.astype(np.uint8), entries >> kind.type(8)
    )


def _by_falling_level(found: Rows, rows: RowFormat) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Levels, as float32, and latents of each row, sorted by falling level, then rising latent."""
    kind = rows.latent_dtype
    shift = kind.type(8 * kind.itemsize - 8)
    entries = (~found.levels).astype(kind) << shift
    entries |= found.latents.astype(kind)
    entries.sort(axis=1)
    levels = ~(entries >> shift).astype(np.uint8)
    latents = entries & kind.type((1 << int(shift)) - 1)
    return levels.astype(np.float32), latents
