"""The documents of an index: their codes as stored, in the order in which they were added.

A value takes 3 bytes, as fixed point of 24 bits in two arrays: exact to 6e-8, the precision of a
float32 just below 1. Packed codes are unpacked to that, and packed to the same bits in a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.packed_codes import PackedCodes
from csr_st.residual import ResidualBits, check_alike
from csr_st.search.kernels.importing import load_kernels

ARRAYS = ("latents", "low", "high", "norms")  # of `Documents`
MAX_K = 1024
MAX_NORM = 1e18  # of a code that is compared by dot product: products of two are finite in float32
_ROWS_AT_ONCE = 2**16
_NORM_SLACK = 1e-2  # float16 rows are of unit norm to about 1e-3

Similarity: TypeAlias = Literal["cosine", "dot"]


def latent_dtype(hidden_dim: int) -> np.dtype[Any]:
    """uint16 where it can name every latent, else uint32: the two types that kernels accept."""
    return np.dtype(np.uint16 if hidden_dim <= 2**16 else np.uint32)


def checked_unit_codes(codes: SparseCodes | PackedCodes, what: str) -> SparseCodes:
    """The codes as float32 of unit norm.

    Raises:
        TypeError: If ``codes`` is not `SparseCodes`.
        ValueError: If a row cannot be scaled to unit norm, or has a norm and another length.
    """
    if not isinstance(codes, SparseCodes):
        fix = "their unpack()" if isinstance(codes, PackedCodes) else "csr_st.SparseCodes"
        raise TypeError(f"{what} are {type(codes).__name__}; pass {fix}")
    # Even a cast to the same type checks the codes again, a cost for a single query.
    single = codes if codes.values.dtype == np.float32 else codes.astype(np.float32)
    unit = single.normalize()
    row = _first_without_unit_norm(unit.values)
    if row >= 0:
        norm = np.linalg.norm(unit.values[row].astype(np.float64))
        raise ValueError(
            f"row {row} of the {what} has norm {norm:.4g}; values must be finite, and rows of "
            "codes with norms must have unit norm"
        )
    return unit


def _first_without_unit_norm(values: NDArray[np.float32]) -> int:
    """The first row whose norm is neither 0 nor 1, or -1."""
    kernel = load_kernels("fixed_point").row_without_unit_norm
    for first in range(0, len(values), _ROWS_AT_ONCE):
        # Read-only arrays are of another type to numba: such are copied, a part at a time
        rows = np.require(values[first : first + _ROWS_AT_ONCE], requirements=("C", "W"))
        row: int = kernel(rows, _NORM_SLACK)
        if row >= 0:
            return first + row
    return -1


def check_similarity(similarity: Any) -> Similarity:
    """``similarity``, if it is one.

    Raises:
        ValueError: If it is not one of `Similarity`.
    """
    if similarity not in get_args(Similarity):
        choices = " or ".join(map(repr, get_args(Similarity)))
        raise ValueError(f"similarity={similarity!r:.60} is unknown; pass {choices}")
    return "dot" if similarity == "dot" else "cosine"


def checked_codes(
    codes: SparseCodes | PackedCodes, what: str, similarity: Similarity
) -> SparseCodes:
    """The codes as float32, with the values that a score is the sum of products of.

    These are of unit norm for the cosine, and as they are for the dot product.

    Raises:
        TypeError: If ``codes`` is not `SparseCodes`.
        ValueError: As `checked_unit_codes`, or if a row's norm is above `MAX_NORM`.
    """
    unit = checked_unit_codes(codes, what)
    if similarity == "cosine" or codes.normalized:
        return unit
    assert isinstance(codes, SparseCodes)
    assert unit.norms is not None
    check_norms(unit.norms, what)
    return codes if codes.values.dtype == np.float32 else codes.astype(np.float32)


def check_norms(norms: NDArray[np.float32], what: str) -> None:
    """Check that dot products of codes of these norms are finite.

    Raises:
        ValueError: If a norm is negative, NaN or above `MAX_NORM`.
    """
    wrong = ~((norms >= 0) & (norms <= MAX_NORM))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"row {row} of the {what} has norm {norms[row]:.4g}; a dot product takes norms within "
            f"0..{MAX_NORM:g}: scale the values, or compare by similarity='cosine'"
        )


@dataclass(frozen=True, eq=False)
class Documents:
    """Stored codes of n documents; adding returns a new object.

    Attributes:
        latents: (n, k) uint16 or uint32, by falling value.
        low: (n, k) uint16, low bits of the values (of rows of unit norm).
        high: (n, k) uint8, high bits.
        norms: (n,) float32 by which rows were divided.
        hidden_dim: Number of latents of the head.
        value_bits: Bits of a value in a file, if the values are those of packed codes, else None.
        lineage: The same object for all documents made from one another by `joined`.
        residual: Residual of the n documents, at their k, or None.
        fitted: See `SparseCodes`.
        similarity: What the score of a query and a document is: their "cosine", or the "dot"
            product, for which values count as they were before rows were divided.
    """

    latents: NDArray[Any]
    low: NDArray[np.uint16]
    high: NDArray[np.uint8]
    norms: NDArray[np.float32]
    hidden_dim: int
    value_bits: int | None = None
    lineage: object = field(default_factory=object)
    residual: ResidualBits | None = None
    fitted: bool = False
    similarity: Similarity = "cosine"

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def k(self) -> int:
        """Latents stored for each document."""
        return int(self.latents.shape[1])

    @classmethod
    def from_codes(
        cls,
        codes: SparseCodes | PackedCodes,
        value_bits: int | None = None,
        similarity: Similarity = "cosine",
    ) -> Documents:
        """Store codes; with ``value_bits``, exactly what codes packed to so many bits keep.

        Raises:
            TypeError: If ``codes`` is not `SparseCodes` or `PackedCodes`.
            ValueError: If values cannot be stored (see `checked_unit_codes`), k is too large, or
                the similarity is the dot product and codes have unit norm or a norm is too large.
        """
        if similarity == "dot" and getattr(codes, "normalized", False):
            raise ValueError(
                "the codes have unit norm, but similarity='dot' needs the values that the model "
                "gives; leave it out to rank by cosine, or pass codes.raw()"
            )
        if isinstance(codes, PackedCodes) and codes.value_bits != value_bits:
            codes = codes.unpack()
        if isinstance(codes, SparseCodes) and value_bits is not None:
            codes = checked_codes(codes, "codes", similarity).pack(value_bits)
        if isinstance(codes, PackedCodes):
            codes = replace(codes, normalized=True).unpack()
        unit = checked_unit_codes(codes, "codes")
        if unit.k > MAX_K:
            raise ValueError(
                f"codes have k={unit.k}; an index takes at most {MAX_K} latents per document: pass "
                f"codes.prefix({MAX_K})"
            )
        low = np.empty(unit.values.shape, np.uint16)
        high = np.empty(unit.values.shape, np.uint8)
        load_kernels("fixed_point").pack_values(np.ascontiguousarray(unit.values), low, high)
        latents = np.ascontiguousarray(unit.indices, latent_dtype(unit.hidden_dim))
        assert unit.norms is not None
        norms, residual = unit.norms.astype(np.float32), unit.residual
        if similarity == "dot":
            check_norms(norms, "codes")
        if residual is not None:  # read-only arrays are of another type to numba
            levels = np.require(residual.levels, requirements=("C", "W"))
            scales = np.require(residual.scales, requirements=("C", "W"))
            residual = replace(residual, levels=levels, scales=scales)
        about: dict[str, Any] = {"residual": residual, "fitted": unit.fitted}
        about["similarity"] = similarity
        return cls(latents, low, high, norms, unit.hidden_dim, value_bits, **about)

    @classmethod
    def without_codes(cls, n: int) -> Documents:
        """N documents of k=0 latents, of which an index has only words."""
        none = np.empty((n, 0), np.uint16), np.empty((n, 0), np.uint16), np.empty((n, 0), np.uint8)
        return cls(*none, np.ones(n, np.float32), 0)

    def scored_codes(self, k: int) -> SparseCodes:
        """The codes at k, with the values that a score is the sum of products of."""
        codes = self.codes().prefix(k)
        return codes.raw() if self.similarity == "dot" else codes

    def codes(self) -> SparseCodes:
        """The codes as stored, of unit norm."""
        steps = (self.high.astype(np.uint32) << np.uint32(16)) | self.low
        values = steps.astype(np.float32) / np.float32(load_kernels("fixed_point").VALUE_STEPS)
        none = SparseCodes(self.latents[:0], values[:0], self.hidden_dim)
        arrays = {"indices": self.latents, "values": values, "norms": self.norms}
        about = {"residual": self.residual, "fitted": self.fitted}
        return none._with(**arrays, **about)

    def packed(self) -> PackedCodes:
        """The codes in ``value_bits``, for a file: `from_codes` gives these documents again."""
        assert self.value_bits is not None
        return self.codes().pack(self.value_bits)

    def check_arrays(self) -> None:
        """Check types and shapes, for documents from a file.

        Raises:
            ValueError: If the arrays do not fit each other or ``hidden_dim``.
        """
        if not 1 <= self.hidden_dim <= 2**32:
            raise ValueError(f"hidden_dim={self.hidden_dim} is not within 1..{2**32}")
        if self.latents.ndim != 2 or not 1 <= self.k <= min(MAX_K, self.hidden_dim):
            raise ValueError(
                f"latents have shape {self.latents.shape} for hidden_dim={self.hidden_dim}"
            )
        types = (latent_dtype(self.hidden_dim), np.dtype("u2"), np.dtype("u1"), np.dtype("f4"))
        for name, dtype in zip(ARRAYS, types, strict=True):
            array = getattr(self, name)
            shape = self.latents.shape[: 1 if name == "norms" else 2]
            if (array.dtype, array.shape) != (dtype, shape):
                raise ValueError(
                    f"{name} are {array.dtype} of shape {array.shape}, not {dtype} of {shape}"
                )
        if self.residual is not None and len(self.residual) != len(self):
            raise ValueError(f"there are residuals of {len(self.residual)} documents")

    def check_latents(self, first: int = 0) -> None:
        """Check that the latents from row ``first`` on exist: the kernels rely on it.

        Raises:
            ValueError: If one is ``hidden_dim`` or above, or norms that count are not possible.
        """
        if self.similarity == "dot":
            check_norms(self.norms[first:], "documents")
        largest = int(self.latents[first:].max(initial=0))
        if self.hidden_dim and largest >= self.hidden_dim:
            raise ValueError(f"latent {largest} is outside hidden_dim={self.hidden_dim}")

    def arrays(self, rows: slice) -> tuple[NDArray[Any], NDArray[np.uint16], NDArray[np.uint8]]:
        """Latents, low and high bits of some documents, for the kernels."""
        return self.latents[rows], self.low[rows], self.high[rows]

    def rows(self, keep: NDArray[Any]) -> Documents:
        """Some of the documents, copied."""
        kept: dict[str, Any] = {name: getattr(self, name)[keep] for name in ARRAYS}
        residual = None if self.residual is None else self.residual[keep]
        return replace(self, **kept, residual=residual, lineage=object())

    def begins_with(self, other: Documents) -> bool:
        """Whether these are the documents of ``other``, with or without later ones."""
        return self.lineage is other.lineage and len(other) <= len(self)

    def check_addable(self, more: Documents) -> None:
        """Check that documents may stand beside these in one index.

        Raises:
            ValueError: If hidden_dim, k, the kind of residual or ``fitted`` differ.
        """
        if (more.hidden_dim, more.k) != (self.hidden_dim, self.k):
            raise ValueError(
                f"the codes have hidden_dim={more.hidden_dim}, k={more.k}; this index has "
                f"hidden_dim={self.hidden_dim}, k={self.k}: encode with the same head at the same k"
            )
        check_alike(self.residual, more.residual)
        if more.fitted != self.fitted:
            raise ValueError(
                f"the codes were made with pursuit={more.fitted}, those of this index with "
                f"pursuit={self.fitted}: encode all documents alike"
            )

    def joined(self, more: Documents) -> Documents:
        """These documents, then ``more``. Keep only one result: `begins_with` relies on it.

        Raises:
            ValueError: As `check_addable`.
        """
        self.check_addable(more)
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(more, name)]) for name in ARRAYS
        }
        if self.residual is not None and more.residual is not None:
            joined["residual"] = ResidualBits.concatenate([self.residual, more.residual])
        return replace(self, **joined)
