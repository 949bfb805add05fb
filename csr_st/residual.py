"""Residual bits: what a code did not rebuild of a vector, in 0.25 to 4 bits a dimension.

With them the vector is about decode(code) + r̂; see `csr_st.encode` and its ``residual_bits``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.bfloat16 import LARGEST, SMALLEST, from_bfloat16, to_bfloat16
from csr_st.model.residual_basis import MAX_BITS, Plan, ResidualBasis, check_name
from csr_st.model.settings import MAX_HIDDEN_DIM, integer, number

_PARTS = 4  # of a bit, the least that a dimension can have more
_ROWS_AT_ONCE = 4096
_BYTES = np.arange(256, dtype=np.uint8)[:, None]
_SIGNS_OF_BYTE = 2 * np.unpackbits(_BYTES, axis=1, bitorder="little").astype(np.float32) - 1


def check_residual_bits(bits: Any) -> float:
    """``residual_bits``, as an int where it is whole.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not within 0..4, or no multiple of 0.25.
    """
    return _checked_bits("residual_bits", bits)


@dataclass(frozen=True, eq=False)
class ResidualBits:
    """The residuals of n vectors: 0.25 to 4 bits a dimension, and a length.

    The axes of a `ResidualBasis` have up to four bits each, more where residuals extend further.
    With one bit an axis keeps a sign, with b bits the nearest of 2**b levels. A row is scaled so
    that what is decoded is as long as the residual was along the axes with bits: on real vectors
    that finds more of the dense neighbours than the least-squares scale, which is shorter, or the
    unbiased one of RaBitQ (arXiv 2405.12497), which is longer. In a random rotation the direction
    that is decoded leaves 68% of the energy with half a bit, 36% with 1 bit, 12% with 2.

    >>> residuals = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    >>> kept = ResidualBits.of(residuals, bits=1)
    >>> kept
    ResidualBits(n=3, bits=1, basis=seed 0, input_dim=64, 30 bytes)
    >>> kept.decode().shape
    (3, 64)

    Attributes:
        levels: (n, `row_bytes`) uint8: the signs of a row, 1 for +, the lowest bit of a byte
            first, in the order of `csr_st.model.residual_basis.Plan`.
        scales: (n,) uint16, the bits of a bfloat16 each, by which levels are multiplied.
        bits: Bits of a dimension on average, a multiple of 0.25 up to 4.
        basis: Name of the `ResidualBasis`.
        input_dim: Width of the vectors.

    Raises:
        ValueError: If a number is out of bounds, the name is none, a shape does not fit, or a scale
            is negative, NaN or Inf.
        TypeError: If bits are not a number, input_dim not an integer, or an array is of another
            type.
    """

    levels: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    bits: float
    basis: str
    input_dim: int

    def __post_init__(self) -> None:
        kind = _checked_kind(self.bits, self.basis, self.input_dim)
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
    def of(cls, residuals: Any, bits: float, basis: ResidualBasis | None = None) -> ResidualBits:
        """Keep residuals in few bits.

        Args:
            residuals: (n, input_dim) float32.
            bits: Bits of a dimension on average, a multiple of 0.25 up to 4.
            basis: Their axes; the random rotation of seed 0 when None.

        Raises:
            TypeError: If bits are not a number, or residuals are not floating-point numbers.
            ValueError: If bits are out of bounds, residuals are not (n, input_dim) or have NaN or
                Inf, or the basis is of another width.
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
        basis = basis or ResidualBasis.seeded(input_dim)
        if basis.input_dim != input_dim:
            raise ValueError(
                f"a basis of width {basis.input_dim} given to residuals of {input_dim}"
            )
        kind = _checked_kind(bits, basis.name, input_dim)
        plan = basis.plan(_n_signs(bits, input_dim))
        levels = np.empty((n, row_bytes(bits, input_dim)), np.uint8)
        scales = np.empty(n, np.uint16)
        for first in range(0, n, _ROWS_AT_ONCE):
            block = slice(first, first + _ROWS_AT_ONCE)
            levels[block], scales[block] = _quantized(rows[block].astype(np.float32), plan)
        return cls(levels, scales, **kind)

    def decode(self, basis: ResidualBasis | None = None) -> NDArray[np.float32]:
        """(n, input_dim) float32 residuals.

        Args:
            basis: That of the head which made them, see `csr_st.Decoder`; not needed for a rotation
                made from a seed.

        Raises:
            ValueError: If it is another one.
        """
        plan = self._plan(basis)
        decoded = np.empty((len(self), self.input_dim), np.float32)
        for first in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            signs = _SIGNS_OF_BYTE.take(self.levels[rows], axis=0)
            signs = signs.reshape(len(signs), 8 * self.levels.shape[1])
            levels = np.zeros((len(signs), len(plan.axes)), np.float32)
            for places, weights in _planes(plan):
                levels[:, : len(weights)] += weights * signs[:, places]
            decoded[rows] = (levels * from_bfloat16(self.scales[rows])[:, None]) @ plan.axes
        return decoded

    def query_weights(
        self, queries: NDArray[np.float32], basis: ResidualBasis | None = None
    ) -> NDArray[np.float32]:
        """What the signs of a row weigh in its product with dense queries.

        Args:
            queries: (n_queries, input_dim) float32.
            basis: As for `decode`.

        Returns:
            (n_queries, 8 * bytes a row) float32: q·r̂ is a row's scale times the sum of these, with
            the signs that the row has at their places; 0 at places that are not used.
        """
        plan = self._plan(basis)
        found = np.take(queries @ plan.axes.T, plan.sign_axes, axis=1)
        found *= plan.sign_weights
        return found

    def check_basis(self, basis: ResidualBasis | None) -> ResidualBasis:
        """The basis of these bits, where ``basis`` is what a decoder has. Raises as `decode`."""
        if self.basis.startswith("seed "):
            return ResidualBasis(self.basis, self.input_dim)
        if basis is None or basis.name != self.basis:
            other = "none" if basis is None else basis.name
            raise ValueError(
                f"residual bits of the basis {self.basis} given to a decoder of {other}; pass the "
                "decoder of the head that made the codes"
            )
        return basis

    def _plan(self, basis: ResidualBasis | None) -> Plan:
        return self.check_basis(basis).plan(_n_signs(self.bits, self.input_dim))

    @property
    def kind(self) -> dict[str, Any]:
        """What must be equal for residuals to be used together: bits, basis and input_dim."""
        return {"bits": self.bits, "basis": self.basis, "input_dim": self.input_dim}

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
            ValueError: If there is no part, or if bits, basis or input_dim differ.
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
        ValueError: If bits, basis or input_dim differ, or only one has a residual.
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


def _checked_bits(name: str, bits: Any) -> float:
    value = number(name, bits, MAX_BITS)
    if _PARTS * value % 1:
        raise ValueError(
            f"{name}={value} is not a multiple of {1 / _PARTS}; pass one up to {MAX_BITS}"
        )
    return int(value) if value % 1 == 0 else float(value)


def _checked_kind(bits: Any, basis: Any, input_dim: Any) -> dict[str, Any]:
    checked = _checked_bits("bits", bits)
    if not checked:
        raise ValueError(f"bits={bits} must be above 0")
    check_name(basis)
    width = integer("input_dim", input_dim, 1, MAX_HIDDEN_DIM)
    return {"bits": checked, "basis": basis, "input_dim": width}


def _n_signs(bits: float, input_dim: int) -> int:
    """Signs of a row: ``bits`` a dimension, rounded up."""
    return -(-int(_PARTS * bits) * input_dim // _PARTS)


def row_bytes(bits: float, input_dim: int) -> int:
    """Bytes of the levels of a row."""
    return -(-_n_signs(bits, input_dim) // 8)


def _planes(plan: Plan) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Where the signs of each plane stand, and their weights."""
    begin = 0
    for weights in plan.weights:
        yield slice(begin, begin + len(weights)), weights
        begin += len(weights)


def _quantized(
    residuals: NDArray[np.float32], plan: Plan
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    # By the largest entry first: squares of 1e20 overflow.
    largest = np.abs(residuals).max(axis=1, keepdims=True)
    largest = np.where(largest > 0, largest, 1)
    rows = (residuals / largest) @ plan.axes.T
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # So that the mean square of the coordinates, in units of their deviations, is 1.
    spread = np.sqrt(np.mean((rows / plan.deviations) ** 2, axis=1, keepdims=True))
    left = rows / np.where(spread > 0, spread, 1)
    levels, planes = np.zeros_like(left), []
    for weights in plan.weights:
        some = slice(len(weights))
        positive = left[:, some] > 0
        part = np.where(positive, weights, -weights)
        left[:, some] -= part
        levels[:, some] += part
        planes.append(positive)
    of_levels = np.linalg.norm(levels, axis=1, keepdims=True)
    scales = np.clip(length.astype(float) * largest / of_levels, SMALLEST, LARGEST)
    scales = np.where(length > 0, scales, 0).astype(np.float32)[:, 0]
    return np.packbits(np.hstack(planes), axis=1, bitorder="little"), to_bfloat16(scales)
