"""Residual bits: what a code did not rebuild of a vector, in 1 or 2 bits a dimension.

With them the vector is about decode(code) + r̂; see `csr_st.encode` and its ``residual_bits``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.bfloat16 import LARGEST, SMALLEST, from_bfloat16, to_bfloat16
from csr_st.model.settings import MAX_HIDDEN_DIM, integer

MAX_BITS = 2
MAX_SEED = 2**32 - 1
_ROWS_AT_ONCE = 4096
# A level is the sum of these, each with a sign of its own: 1; 0.4528 and 1.5104, with both signs.
# The latter are the best four for a Gaussian of unit variance, and the larger one is the better
# beyond 0.9816 (Max, Quantizing for minimum distortion, 1960, table I).
_WEIGHTS = {1: np.array([1.0], np.float32), 2: np.array([0.9816, 0.5288], np.float32)}
_OUTER = 0.9816
_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_SIGNS_OF_BYTE = 2 * np.unpackbits(_BYTES, axis=1, bitorder="little").astype(np.float32) - 1


def check_residual_bits(bits: Any) -> int:
    """``residual_bits`` as an int within 0..2. Raises TypeError and ValueError as `integer`."""
    return integer("residual_bits", bits, 0, MAX_BITS)


@lru_cache(maxsize=4)
def rotation(input_dim: int, seed: int) -> NDArray[np.float32]:
    """A random orthogonal (input_dim, input_dim) matrix; equal for a seed on any machine.

    A row vector times it is rotated; its transpose rotates back. It is the Q of the QR
    decomposition of Gaussian numbers in which the diagonal of R is positive (Mezzadri,
    arXiv math-ph/0609050). NumPy promises never to change the stream of a `RandomState`.
    """
    stream = np.random.RandomState(seed)  # whose stream a Generator does not promise
    gaussian = stream.standard_normal((input_dim, input_dim))
    orthogonal, triangular = np.linalg.qr(gaussian)
    matrix: NDArray[np.float32] = (orthogonal * np.sign(np.diag(triangular))).astype(np.float32)
    matrix.flags.writeable = False  # shared by all callers
    return matrix


@dataclass(frozen=True, eq=False)
class ResidualBits:
    """The residuals of n vectors: rotated, 1 or 2 bits a dimension, and a length.

    The rotation makes the dimensions alike and nearly Gaussian, whatever the vectors are. With one
    bit a dimension keeps its sign. With two it keeps the nearest of four levels, see Max (1960). A
    row is scaled so that what is decoded is as long as the residual was: on real vectors that finds
    more of the dense neighbours than the least-squares scale, which is shorter, or the unbiased one
    of RaBitQ (arXiv 2405.12497), which is longer. Of a Gaussian the direction that is decoded
    leaves 36% of the energy with 1 bit, 12% with 2.

    >>> residuals = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    >>> kept = ResidualBits.of(residuals, bits=1)
    >>> kept
    ResidualBits(n=3, bits=1, seed=0, input_dim=64, 30 bytes)
    >>> kept.decode().shape
    (3, 64)

    Attributes:
        levels: (n, ceil(bits * input_dim / 8)) uint8: the signs of a row, 1 for +, the lowest bit
            of a byte first; with 2 bits all signs of the larger part, then all of the smaller.
        scales: (n,) uint16, the bits of a bfloat16 each, by which levels are multiplied.
        bits: Bits of a dimension, 1 or 2.
        seed: Of the rotation.
        input_dim: Width of the vectors.

    Raises:
        ValueError: If a number is out of bounds, a shape does not fit, or a scale is negative, NaN
            or Inf.
        TypeError: If a number is not an integer, or an array is of another type.
    """

    levels: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    bits: int
    seed: int
    input_dim: int

    def __post_init__(self) -> None:
        kind = _checked_kind(self.bits, self.seed, self.input_dim)
        levels, scales = np.asarray(self.levels), np.asarray(self.scales)
        for name, value in {**kind, "levels": levels, "scales": scales}.items():
            object.__setattr__(self, name, value)
        if levels.dtype != np.uint8 or scales.dtype != np.uint16:
            raise TypeError(f"levels are {levels.dtype}, scales {scales.dtype}; not uint8, uint16")
        width = row_bytes(self.bits, self.input_dim)
        if scales.ndim != 1 or levels.shape != (len(scales), width):
            raise ValueError(
                f"levels {levels.shape} and scales {scales.shape} must be (n, {width}) and (n,) "
                f"for bits={self.bits}, input_dim={self.input_dim}"
            )
        if (scales >= np.uint16(0x7F80)).any():  # from Inf on, and all with a sign
            raise ValueError("scales must be finite and never negative")

    @classmethod
    def of(cls, residuals: Any, bits: int, seed: int = 0) -> ResidualBits:
        """Keep residuals in few bits.

        Args:
            residuals: (n, input_dim) float32.
            bits: 1 or 2 a dimension.
            seed: Of the rotation, within 0..2**32-1.

        Raises:
            TypeError: If a number is not an integer, or residuals are not floating-point numbers.
            ValueError: If one is out of bounds, or residuals are not (n, input_dim) or have NaN or
                Inf.
        """
        rows = np.asarray(residuals)
        if rows.dtype.kind != "f":
            raise TypeError(f"residuals are {rows.dtype}; pass float32")
        if rows.ndim != 2 or not rows.shape[1]:
            raise ValueError(f"residuals of shape {rows.shape} must be (n, input_dim)")
        if not np.isfinite(rows).all():
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))[:5]
            raise ValueError(f"NaN or Inf in the residuals, first in rows {bad.tolist()}")
        n, input_dim = rows.shape
        kind = _checked_kind(bits, seed, input_dim)
        levels = np.empty((n, row_bytes(bits, input_dim)), np.uint8)
        scales = np.empty(n, np.uint16)
        for first in range(0, n, _ROWS_AT_ONCE):
            block = slice(first, first + _ROWS_AT_ONCE)
            levels[block], scales[block] = _quantized(rows[block].astype(np.float32), bits, seed)
        return cls(levels, scales, **kind)

    def decode(self) -> NDArray[np.float32]:
        """(n, input_dim) float32 residuals, rotated back."""
        decoded = np.empty((len(self), self.input_dim), np.float32)
        turned_back = rotation(self.input_dim, self.seed).T
        for first in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            levels = _levels(_signs(self.levels[rows], self.bits, self.input_dim))
            decoded[rows] = (levels * from_bfloat16(self.scales[rows])[:, None]) @ turned_back
        return decoded

    def query_weights(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the signs of a row weigh in its product with dense queries.

        Args:
            queries: (n_queries, input_dim) float32.

        Returns:
            (n_queries, 8 * bytes a row) float32: q·r̂ is a row's scale times the sum of these, with
            the signs that the row has at their places; 0 at places that are not used.
        """
        rotated = queries @ rotation(self.input_dim, self.seed)
        weights = np.zeros((len(queries), 8 * self.levels.shape[1]), np.float32)
        for number, weight in enumerate(_WEIGHTS[self.bits]):
            weights[:, number * self.input_dim : (number + 1) * self.input_dim] = weight * rotated
        return weights

    @property
    def kind(self) -> dict[str, int]:
        """What must be equal for residuals to be used together: bits, seed and input_dim."""
        return {"bits": self.bits, "seed": self.seed, "input_dim": self.input_dim}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names in files, which have `kind` beside them."""
        return {"residual_levels": self.levels, "residual_scales": self.scales}

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], kind: Any) -> ResidualBits | None:
        """The residual of a file, None where the file has none.

        Raises:
            ValueError: If a part is missing or not valid.
            TypeError: If a part is of another type.
        """
        if kind is None:
            return None
        try:
            return cls(arrays["residual_levels"], arrays["residual_scales"], **kind)
        except KeyError as error:
            raise ValueError(f"there is no {error} for the residual of {kind}") from error

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.levels.nbytes + self.scales.nbytes

    def __len__(self) -> int:
        return len(self.scales)

    def __repr__(self) -> str:
        about = ", ".join(f"{name}={value}" for name, value in self.kind.items())
        return f"ResidualBits(n={len(self)}, {about}, {self.nbytes:,} bytes)"

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> ResidualBits:
        """The residuals of some items: a slice, a boolean mask or row numbers."""
        return replace(self, levels=self.levels[rows], scales=self.scales[rows])

    @classmethod
    def concatenate(cls, parts: Iterable[ResidualBits]) -> ResidualBits:
        """The residuals of all parts, in order.

        Raises:
            ValueError: If there is no part, or if bits, seed or input_dim differ.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("there are no residuals to concatenate; pass at least one")
        for part in parts[1:]:
            check_alike(parts[0], part)
        levels = np.concatenate([part.levels for part in parts])
        return replace(parts[0], levels=levels, scales=np.concatenate([p.scales for p in parts]))


def check_residual(residual: Any, n: int) -> None:
    """Check what n codes are given as their residual.

    Raises:
        TypeError: If it is neither `ResidualBits` nor None.
        ValueError: If it is of another number of items.
    """
    if residual is None:
        return
    if not isinstance(residual, ResidualBits):
        raise TypeError(f"residual is {type(residual).__name__}, not ResidualBits")
    if len(residual) != n:
        raise ValueError(f"residual of {len(residual)} items given to {n} codes")


def check_alike(residual: ResidualBits | None, other: ResidualBits | None) -> None:
    """Check that codes with these residuals, or without any, can be used together.

    Raises:
        ValueError: If bits, seed or input_dim differ, or only one has a residual.
    """
    kinds = [None if each is None else each.kind for each in (residual, other)]
    if kinds[0] != kinds[1]:
        named = (
            "no residual" if kind is None else f"a residual of {kind}".replace("'", "")
            for kind in kinds
        )
        raise ValueError(
            f"codes with {' and codes with '.join(named)} do not fit; encode all of them with one "
            "head and one residual_bits"
        )


def is_kind(value: Any) -> bool:
    """Whether a value from a file can be the `kind` of a residual, or None."""
    try:
        return value is None or bool(_checked_kind(**value))
    except (ValueError, TypeError):
        return False


def _checked_kind(bits: Any, seed: Any, input_dim: Any) -> dict[str, int]:
    return {
        "bits": integer("bits", bits, 1, MAX_BITS),
        "seed": integer("seed", seed, 0, MAX_SEED),
        "input_dim": integer("input_dim", input_dim, 1, MAX_HIDDEN_DIM),
    }


def row_bytes(bits: int, input_dim: int) -> int:
    """Bytes of the levels of a row."""
    return -(-bits * input_dim // 8)


def _quantized(
    residuals: NDArray[np.float32], bits: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    n, input_dim = residuals.shape
    # By the largest entry first: squares of 1e20 overflow.
    largest = np.abs(residuals).max(axis=1, keepdims=True)
    largest = np.where(largest > 0, largest, 1)
    rows = (residuals / largest) @ rotation(input_dim, seed)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    positive = rows > 0
    signs = positive[:, None]
    if bits == 2:
        outer = np.abs(rows) > _OUTER * length / np.sqrt(input_dim)
        signs = np.stack([positive, outer == positive], axis=1)
    of_levels = np.linalg.norm(_levels(2 * signs.astype(np.float32) - 1), axis=1, keepdims=True)
    scales = np.clip(length.astype(float) * largest / of_levels, SMALLEST, LARGEST)
    scales = np.where(length > 0, scales, 0).astype(np.float32)[:, 0]
    return np.packbits(signs.reshape(n, -1), axis=1, bitorder="little"), to_bfloat16(scales)


def _signs(levels: NDArray[np.uint8], bits: int, input_dim: int) -> NDArray[np.float32]:
    """(n, bits, input_dim) signs, 1 or -1."""
    n = len(levels)
    signs = _SIGNS_OF_BYTE.take(levels, axis=0).reshape(n, 8 * levels.shape[1])
    return signs[:, : bits * input_dim].reshape(n, bits, input_dim)


def _levels(signs: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, input_dim) levels of (n, bits, input_dim) signs."""
    levels: NDArray[np.float32] = np.zeros(1, np.float32)
    for number, weight in enumerate(_WEIGHTS[signs.shape[1]]):
        levels = levels + weight * signs[:, number]
    return levels
