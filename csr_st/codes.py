"""Sparse codes as arrays: the k latents and values of each item, never the dense matrix.

`csr_st.encode` returns `SparseCodes`, an index is built from them, and they have a file format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import DTypeLike, NDArray

from csr_st import code_arrays, code_files
from csr_st.code_arrays import index_dtype
from csr_st.model import settings
from csr_st.model.settings import integer
from csr_st.residual import ResidualBits, check_residual

if TYPE_CHECKING:
    import torch

    from csr_st.packed_codes import PackedCodes

__all__ = ["SparseCodes", "index_dtype"]


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """The codes of n items, at most k active latents each, sorted by decreasing value.

    Because rows are sorted, the code at a smaller k is a prefix of the code at a larger one
    (`prefix`). A row with fewer than k positive activations ends in zero values, whose indices
    mean nothing.

    >>> indices, values = np.array([[4, 1]]), np.array([[3.0, 1.0]], np.float32)
    >>> codes = SparseCodes(indices, values, hidden_dim=5)
    >>> codes.to_dense()
    array([[0., 1., 0., 0., 3.]], dtype=float32)
    >>> codes.prefix(1).to_dense()
    array([[0., 0., 0., 0., 3.]], dtype=float32)

    Attributes:
        indices: (n, k) unsigned integers, the latents of each item, distinct within a row.
        values: (n, k) float32 or float16, finite, not negative, decreasing along a row; rows
            that are given in another order are sorted.
        hidden_dim: Number of latents of the head.
        norms: (n,) float32, the L2 norm that each row had before it was scaled to unit norm, or
            None if the values are raw magnitudes. The decoder takes ``values * norms``.
        residual: What the decoder does not rebuild of the n vectors from these codes at their k, or
            None. Codes of a smaller k (`prefix`) have none.
        fitted: Whether values were fitted to the vectors (``pursuit=True`` of `csr_st.encode`)
            rather than measured by the encoder; the decoder takes them as they are.

    Raises:
        ValueError: If shapes do not fit, hidden_dim is above 2**32, an index is out of bounds or
            twice in a row, or a value or norm is negative, NaN or Inf.
        TypeError: If an array is of another type, or the residual not `ResidualBits`.
    """

    indices: NDArray[np.unsignedinteger[Any]]
    values: NDArray[np.floating[Any]]
    hidden_dim: int
    norms: NDArray[np.float32] | None = None
    residual: ResidualBits | None = None
    fitted: bool = False

    def __post_init__(self) -> None:
        arrays = code_arrays.checked(self.indices, self.values, self.hidden_dim, self.norms)
        self._set(**arrays)
        settings.flag("fitted", self.fitted)
        check_residual(self.residual, len(self))

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def _with(self, **arrays: Any) -> SparseCodes:
        """These codes with other arrays, which are known to be valid: nothing is checked."""
        codes = object.__new__(type(self))
        codes._set(**{**vars(self), **arrays})
        return codes

    @property
    def k(self) -> int:
        """Latents stored for each item."""
        return int(self.indices.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, hidden_dim) of the matrix of these codes."""
        return len(self.indices), self.hidden_dim

    @property
    def normalized(self) -> bool:
        """Whether rows have unit L2 norm."""
        return self.norms is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = self._arrays() | ({} if self.residual is None else self.residual.arrays())
        return sum(array.nbytes for array in arrays.values())

    def _arrays(self) -> dict[str, Any]:
        arrays = {"indices": self.indices, "values": self.values, "norms": self.norms}
        return {name: array for name, array in arrays.items() if array is not None}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> SparseCodes:
        """The codes of some items: a slice, a boolean mask or row numbers; an int keeps n = 1.

        Raises:
            IndexError: If a row is outside the codes, or a mask has another length.
            TypeError: If rows are not numbers.
        """
        rows = code_arrays.selection(rows, len(self))
        residual = None if self.residual is None else self.residual[rows]
        chosen = {name: array[rows] for name, array in self._arrays().items()}
        return self._with(**chosen, residual=residual)

    def __repr__(self) -> str:
        residual = "" if self.residual is None else f"residual_bits={self.residual.bits}, "
        return (
            f"SparseCodes(n={len(self)}, k={self.k}, hidden_dim={self.hidden_dim}, "
            f"normalized={self.normalized}, {residual}{self.nbytes:,} bytes)"
        )

    def prefix(self, k: int) -> SparseCodes:
        """The codes of the same items at a smaller k, as if encoded at that k.

        They are the first k latents of each row, scaled to unit norm again if the codes have norms.
        At a smaller k they have no residual: it is what the stored k does not rebuild.

        Raises:
            ValueError: If k is outside 1..``self.k``.
            TypeError: If k is not an integer.
        """
        k = integer("k", k, low=-(2**63))
        if not 1 <= k <= self.k:
            raise ValueError(
                f"k={k} is not within 1..{self.k}, the latents stored for each item; encode with a "
                "larger k for more"
            )
        if k == self.k:
            return self
        indices, values = self.indices[:, :k], self.values[:, :k]
        shorter = self._with(indices=indices, values=values, residual=None)
        return shorter if self.norms is None else shorter._scaled(self.norms)

    def _scaled(self, norms: NDArray[np.float32]) -> SparseCodes:
        """Rows scaled to unit norm, of rows that were already divided by ``norms``."""
        values = self.values.astype(np.float32)
        # First by the largest value: in float32 the square of 1e20 overflows, that of 1e-25 is 0.
        largest = values.max(axis=1, initial=0)
        values /= np.where(largest > 0, largest, 1)[:, None]
        length = np.sqrt(np.einsum("nk,nk->n", values, values))
        values /= np.where(length > 0, length, 1)[:, None]
        scaled = norms * largest * length
        return self._with(values=values.astype(self.values.dtype), norms=scaled)

    def normalize(self) -> SparseCodes:
        """Rows scaled to unit L2 norm, with their norms; empty rows stay empty."""
        return self if self.normalized else self._scaled(np.ones(len(self), np.float32))

    def raw(self) -> SparseCodes:
        """Rows with the magnitudes of the encoder, which the decoder needs."""
        if self.norms is None:
            return self
        values = self.values.astype(np.float32) * self.norms[:, None]
        return self._with(values=values, norms=None)

    def boost(
        self, factors: Mapping[int, float], *, add: Mapping[int, float] | None = None
    ) -> SparseCodes:
        """These codes with some latents raised, lowered or removed: to steer a search.

        For example ``codes.boost({17: 3.0, 4: 0.0})``: three times as much of latent 17, none of
        latent 4. Rows of unit norm are scaled to unit norm again. A latent that a row does not have
        stays out whatever its factor; ``add={17: 0.3}`` brings it in. Residual bits are dropped.

        A removed latent no longer counts: documents that have it are still found by others.

        Args:
            factors: What to multiply the value of each latent by, 0..1e6; 0 removes it.
            add: What to add to its value after that, in the units of the values: of a row of unit
                norm, 0.3 is as much as a latent of value 0.3 has.

        Raises:
            TypeError: If a latent is not an integer, or a factor not a number.
            ValueError: If a latent is outside 0..hidden_dim-1, a number negative, NaN or above
                1e6, or a value beyond the codes' type.
        """
        arrays = self.indices, self.values, self.hidden_dim
        indices, values = code_arrays.boosted(*arrays, factors, {} if add is None else add)
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32 if self.normalized else self.values.dtype)
        order = np.argsort(-narrow, axis=1, kind="stable")[:, : self.hidden_dim]
        indices, narrow = (np.take_along_axis(array, order, axis=1) for array in (indices, narrow))
        codes = SparseCodes(indices, narrow, self.hidden_dim, fitted=self.fitted)
        if self.norms is None:
            return codes
        return codes._scaled(self.norms).astype(self.values.dtype)

    def astype(self, dtype: DTypeLike) -> SparseCodes:
        """The same codes with values as float32 or float16.

        Raises:
            TypeError: If dtype is another type.
            ValueError: If a value is beyond float16.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return replace(self, values=self.values.astype(dtype, copy=False))

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """(n, hidden_dim) compressed sparse row matrix, float32, zero values dropped."""
        keep = self.values > 0
        indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
        indices = self.indices[keep].astype(np.int32 if self.hidden_dim < 1 << 31 else np.int64)
        matrix = scipy.sparse.csr_matrix(
            (self.values[keep].astype(np.float32), indices, indptr), shape=self.shape
        )
        matrix.sort_indices()
        return matrix

    def to_torch(self) -> torch.Tensor:
        """(n, hidden_dim) coalesced sparse COO tensor, float32, zero values dropped."""
        import torch

        coo = self.to_scipy().tocoo()
        indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
        return torch.sparse_coo_tensor(
            indices,
            torch.from_numpy(coo.data),
            size=self.shape,
            is_coalesced=True,
            check_invariants=True,  # without a value torch warns
        )

    def to_dense(self) -> NDArray[np.float32]:
        """(n, hidden_dim) float32 array; for small n, as zeros take memory too."""
        dense: NDArray[np.float32] = self.to_scipy().toarray()
        return dense

    @classmethod
    def concatenate(cls, parts: Iterable[SparseCodes]) -> SparseCodes:
        """The codes of all parts, in order.

        Raises:
            ValueError: If there is no part, or if k, hidden_dim, normalisation, ``fitted`` or the
                residual's bits, seed or width differ.
            TypeError: If a part is not SparseCodes.
        """
        equal = "k", "hidden_dim", "normalized", "fitted"
        parts = code_arrays.joinable(
            parts, SparseCodes, equal, "bring them to one k with prefix(k)"
        )
        arrays = [part._arrays() for part in parts]
        joined: dict[str, Any] = {
            name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]
        }
        residuals = [part.residual for part in parts if part.residual is not None]
        residual = ResidualBits.concatenate(residuals) if residuals else None
        return parts[0]._with(**joined, residual=residual)

    def pack(self, value_bits: int = 4) -> PackedCodes:
        """These codes in about a third of the bytes, with values in 4 bits, or in 8.

        `PackedCodes` states what is lost.

        Raises:
            TypeError: If ``value_bits`` is not an integer.
            ValueError: If it is not 4 or 8.
        """
        from csr_st.packed_codes import PackedCodes

        return PackedCodes.from_codes(self, value_bits)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, completely or not at all."""
        arrays, about = self._arrays(), dict[str, Any](hidden_dim=self.hidden_dim)
        if self.residual is not None:
            arrays |= self.residual.arrays()
            about["residual"] = self.residual.kind
        if self.fitted:
            about["fitted"] = True
        code_files.write(Path(path), "SparseCodes", about, arrays)

    @classmethod
    def load(cls, path: str | Path) -> SparseCodes:
        """Read a file that `save` wrote, or a shard of a `CodeStore`.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file has no codes, is damaged, or is of a newer format.
        """
        needed = ["indices", "values"]
        about, arrays = code_files.read(path, "SparseCodes", ["hidden_dim"], needed)
        try:
            residual = ResidualBits.stored(arrays, about.pop("residual", None))
            values = arrays["indices"], arrays["values"]
            return cls(*values, norms=arrays.get("norms"), residual=residual, **about)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} has no valid codes: {error}") from error
