"""Sparse vectors as frameworks pass them, as codes: of equally many values, padded with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes, index_dtype


class Embedding(Protocol):
    """A sparse vector: its indices, in any order, and its values."""

    indices: list[int]
    values: list[float]


def codes_of_embeddings(
    embeddings: Sequence[tuple[str, Embedding | None]], hidden_dim: int, k: int | None = None
) -> SparseCodes:
    """Codes of embeddings, each with a name for messages; one that is None has no values.

    Args:
        embeddings: Names and sparse vectors.
        hidden_dim: Their width.
        k: Values of each code; as many as the longest needs, when None.

    Raises:
        ValueError: If an index is out of bounds or twice in a vector, a value negative or no
            number, or there are more than k values above 0.
    """
    rows = [
        None if embedding is None else _row(name, embedding, hidden_dim, k)
        for name, embedding in embeddings
    ]
    longest = max((len(row[0]) for row in rows if row is not None), default=0)
    k = max(longest, 1) if k is None else k
    indices = np.zeros((len(rows), k), index_dtype(hidden_dim))
    values = np.zeros((len(rows), k), np.float32)
    for place, row in enumerate(rows):
        if row is not None:
            indices[place, : len(row[0])], values[place, : len(row[1])] = row
    return SparseCodes(indices, values, hidden_dim)


def _row(
    name: str, embedding: Embedding, hidden_dim: int, k: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Indices and values above 0 of a sparse embedding, as arrays."""
    indices, values = np.asarray(embedding.indices), np.asarray(embedding.values, np.float32)
    if len(indices) and not (indices.min() >= 0 and indices.max() < hidden_dim):
        raise ValueError(
            f"the sparse embedding of {name} has indices {indices.min()}..{indices.max()}, the "
            f"store hidden_dim={hidden_dim}; make it with the width of the model"
        )
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"the sparse embedding of {name} has values that are negative or no numbers"
        )
    if len(np.unique(indices)) < len(indices):
        raise ValueError(f"the sparse embedding of {name} has an index twice")
    kept = values > 0
    if k is not None and kept.sum() > k:
        raise ValueError(
            f"the sparse embedding of {name} has {kept.sum()} values, the store k={k}; make the "
            f"store with k={kept.sum()} or more, or embed with fewer"
        )
    return indices[kept].astype(index_dtype(hidden_dim)), values[kept]


def codes_of_matrix(matrix: scipy.sparse.csr_matrix, k: int) -> SparseCodes:
    """Rows of a sparse matrix as codes of k values each.

    Raises:
        ValueError: If a row has more than k values, or one that is negative or no number.
    """
    matrix = scipy.sparse.csr_matrix(matrix, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    counts = np.diff(matrix.indptr)
    if (counts > k).any():
        row = int(np.argmax(counts))
        raise ValueError(
            f"vector {row} has {counts[row]} values, the index k={k}; make it anew with "
            f"'k': {counts[row]} in its settings"
        )
    shape = len(counts), k
    indices = np.zeros(shape, index_dtype(matrix.shape[1]))
    values = np.zeros(shape, np.float32)
    rows = np.repeat(np.arange(len(counts)), counts)
    places = np.arange(len(matrix.data)) - np.repeat(matrix.indptr[:-1], counts)
    indices[rows, places], values[rows, places] = matrix.indices, matrix.data
    return SparseCodes(indices, values, matrix.shape[1])
