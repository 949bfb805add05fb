"""Sparse codes as arrays: the k latents and values of each item, never the dense matrix.

``SparseCodes`` is what `csr_st.encode` returns, what an index stores and what a file holds. It
knows nothing of models or of search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import DTypeLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize_arrays

from csr_st._io.files import refuse_newer_format, write_atomically

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1


def index_dtype(hidden_dim: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that can name every latent of ``hidden_dim``.

    >>> index_dtype(256), index_dtype(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(max(hidden_dim - 1, 0))


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """The codes of n items at most k active latents each, sorted by falling value.

    Because rows are sorted, the code at a smaller k is a prefix of the code at a larger one
    (`prefix`). A row with fewer than k positive activations ends in zero values; their indices
    mean nothing.

    >>> indices, values = np.array([[4, 1]]), np.array([[3.0, 1.0]], np.float32)
    >>> codes = SparseCodes(indices, values, hidden_dim=5)
    >>> codes.to_dense()
    array([[0., 1., 0., 0., 3.]], dtype=float32)
    >>> codes.prefix(1).to_dense()
    array([[0., 0., 0., 0., 3.]], dtype=float32)

    Attributes:
        indices: (n, k) unsigned integers, the latents of each item, distinct within a row.
        values: (n, k) float32 or float16, falling along a row, never negative.
        hidden_dim: Number of latents that the head has.
        norms: (n,) float32, the L2 norm that each row had before it was scaled to unit length, or
            None when the values are raw magnitudes. ``values * norms`` is what the decoder takes.
    """

    indices: NDArray[np.unsignedinteger[Any]]
    values: NDArray[np.floating[Any]]
    hidden_dim: int
    norms: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.values.shape:
            raise ValueError(
                f"indices {self.indices.shape} and values {self.values.shape} must be two arrays "
                "of one shape (n, k)"
            )
        if not 1 <= self.k <= self.hidden_dim:
            raise ValueError(
                f"codes have k={self.k}; k must lie in 1..hidden_dim={self.hidden_dim}"
            )
        if self.values.dtype not in (np.float32, np.float16):
            raise TypeError(
                f"values are {self.values.dtype}; use float32 or float16, e.g. "
                "values.astype('float32')"
            )
        if self.indices.dtype.kind not in "ui":
            raise TypeError(f"indices are {self.indices.dtype}; use an integer type")
        if self.indices.size:
            for index in (int(self.indices.min()), int(self.indices.max())):
                if not 0 <= index < self.hidden_dim:
                    raise ValueError(
                        f"index {index} is outside hidden_dim={self.hidden_dim}; latents are "
                        f"numbered 0..{self.hidden_dim - 1}"
                    )
        if self.norms is not None and self.norms.shape != (len(self.indices),):
            raise ValueError(f"norms {self.norms.shape} must have shape ({len(self.indices)},)")
        object.__setattr__(
            self, "indices", self.indices.astype(index_dtype(self.hidden_dim), copy=False)
        )

    @property
    def k(self) -> int:
        """Latents stored for each item."""
        return int(self.indices.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, hidden_dim) of the matrix these codes stand for."""
        return len(self.indices), self.hidden_dim

    @property
    def normalized(self) -> bool:
        """Whether rows have unit L2 norm."""
        return self.norms is not None

    @property
    def nbytes(self) -> int:
        """Bytes held by the arrays."""
        norms = 0 if self.norms is None else self.norms.nbytes
        return self.indices.nbytes + self.values.nbytes + norms

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> SparseCodes:
        """The codes of some items: a slice, a boolean mask or row numbers; an int keeps n = 1."""
        if isinstance(rows, int | np.integer):
            row = range(len(self))[int(rows)]
            rows = slice(row, row + 1)
        return replace(
            self,
            indices=self.indices[rows],
            values=self.values[rows],
            norms=None if self.norms is None else self.norms[rows],
        )

    def __repr__(self) -> str:
        return (
            f"SparseCodes(n={len(self)}, k={self.k}, hidden_dim={self.hidden_dim}, "
            f"normalized={self.normalized}, {self.nbytes:,} bytes)"
        )

    def prefix(self, k: int) -> SparseCodes:
        """The codes at a smaller k: the first k latents of each row, scaled to unit norm again.

        Args:
            k: Latents to keep, 1 <= k <= ``self.k``.

        Returns:
            Codes equal to encoding the same items at k.

        Raises:
            ValueError: If k is outside 1..``self.k``.
        """
        if not 1 <= k <= self.k:
            raise ValueError(
                f"k={k} is not within 1..{self.k}, the latents stored for each item; encode with a "
                "larger k to have more"
            )
        if k == self.k:
            return self
        shorter = replace(self, indices=self.indices[:, :k], values=self.values[:, :k])
        if self.norms is None:
            return shorter
        return replace(shorter, norms=None)._scaled(self.norms)

    def _scaled(self, norms: NDArray[np.float32]) -> SparseCodes:
        """Raw or partly scaled rows to unit norm; ``norms`` is what they were divided by so far."""
        values = self.values.astype(np.float32)
        # By the largest first, as the square of 1e20 is no float32, and that of 1e-25 is 0.
        largest = values.max(axis=1, initial=0)
        values /= np.where(largest > 0, largest, 1)[:, None]
        length = np.sqrt(np.einsum("nk,nk->n", values, values))
        values /= np.where(length > 0, length, 1)[:, None]
        scaled = norms * largest * length
        return replace(self, values=values.astype(self.values.dtype), norms=scaled)

    def normalize(self) -> SparseCodes:
        """Rows scaled to unit L2 norm, their norms kept; empty rows stay empty."""
        return self if self.normalized else self._scaled(np.ones(len(self), np.float32))

    def raw(self) -> SparseCodes:
        """Rows with the magnitudes that the encoder gave, which the decoder needs."""
        if self.norms is None:
            return self
        values = self.values.astype(np.float32) * self.norms[:, None]
        return replace(self, values=values, norms=None)

    def astype(self, dtype: DTypeLike) -> SparseCodes:
        """The same codes with values as float32 or float16."""
        return replace(self, values=self.values.astype(dtype, copy=False))

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """(n, hidden_dim) compressed sparse row matrix, float32, zero values dropped."""
        keep = self.values > 0
        indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
        matrix = scipy.sparse.csr_matrix(
            (self.values[keep].astype(np.float32), self.indices[keep].astype(np.int32), indptr),
            shape=self.shape,
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
            check_invariants=True,  # left unsaid, torch warns
        )

    def to_dense(self) -> NDArray[np.float32]:
        """(n, hidden_dim) float32 array; for small n, as it holds every zero."""
        dense: NDArray[np.float32] = self.to_scipy().toarray()
        return dense

    @classmethod
    def concatenate(cls, parts: Sequence[SparseCodes]) -> SparseCodes:
        """One set of codes out of several, in order.

        Raises:
            ValueError: If there is no part, or if k, hidden_dim or normalisation differ.
        """
        if not parts:
            raise ValueError("there are no codes to concatenate; pass at least one SparseCodes")
        kinds = {(part.k, part.hidden_dim, part.normalized) for part in parts}
        if len(kinds) > 1:
            raise ValueError(
                f"codes of different kinds cannot be joined: (k, hidden_dim, normalized) are "
                f"{sorted(kinds)}; bring them to one k with prefix(k)"
            )
        norms = [part.norms for part in parts if part.norms is not None]
        return cls(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
            parts[0].hidden_dim,
            np.concatenate(norms) if norms else None,
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        arrays = {
            "indices": np.ascontiguousarray(self.indices),
            "values": np.ascontiguousarray(self.values),
        }
        if self.norms is not None:
            arrays["norms"] = np.ascontiguousarray(self.norms)
        header = {
            "format": "csr_st.codes",
            "version": FORMAT_VERSION,
            "hidden_dim": self.hidden_dim,
        }
        metadata = {key: json.dumps(value) for key, value in header.items()}
        write_atomically(Path(path), serialize_arrays(arrays, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> SparseCodes:
        """Read a file that `save` wrote.

        Raises:
            ValueError: If the file is not one of codes, is damaged, or is of a newer format.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a whole safetensors file of codes: {error}") from error
        if metadata.get("format") != "csr_st.codes":
            raise ValueError(f"{path} holds no codes; write such a file with SparseCodes.save")
        refuse_newer_format(path, metadata.get("version", FORMAT_VERSION), FORMAT_VERSION)
        if missing := sorted({"hidden_dim", "indices", "values"} - {*metadata, *arrays}):
            raise ValueError(f"{path} lacks {missing}; write such a file with SparseCodes.save")
        if not isinstance(metadata["hidden_dim"], int):
            raise ValueError(f"{path} has hidden_dim={metadata['hidden_dim']!r}, no integer")
        return cls(arrays["indices"], arrays["values"], metadata["hidden_dim"], arrays.get("norms"))
