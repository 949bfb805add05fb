"""What engines store: the rows of a sparse matrix, made of codes or given as such."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse

from csr_st.codes import SparseCodes
from csr_st.search.documents import checked_unit_codes
from csr_st.search.engines.keys import Key

Vectors: TypeAlias = SparseCodes | scipy.sparse.spmatrix | scipy.sparse.sparray
Row: TypeAlias = dict[int, float]  # dimensions with a value above 0, rising, and their values


class Document(NamedTuple):
    """What an engine stores."""

    id: Key
    code: Row
    payload: dict[str, Any]


class Hit(NamedTuple):
    """One result of a query."""

    score: float
    id: Key


def checked_rows(vectors: Vectors, what: str) -> scipy.sparse.csr_matrix:
    """Codes of unit norm, or sparse vectors as they are: float32, sorted, without zeros.

    Raises:
        TypeError: If they are neither `SparseCodes` nor a real sparse matrix of SciPy.
        ValueError: If a value is negative, NaN or infinite in float32.
    """
    if isinstance(vectors, SparseCodes) or not scipy.sparse.issparse(vectors):
        return checked_unit_codes(vectors, what).to_scipy()
    if vectors.ndim != 2 or vectors.dtype.kind not in "biuf":
        raise TypeError(
            f"the {what} are a sparse array of {vectors.ndim} dimensions and type {vectors.dtype}; "
            "pass a matrix of floats with one row for each"
        )
    with np.errstate(over="ignore"):
        matrix = scipy.sparse.csr_matrix(vectors, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    wrong = ~(np.isfinite(matrix.data) & (matrix.data > 0))
    if wrong.any():
        place = int(np.argmax(wrong))
        row = int(np.searchsorted(matrix.indptr, place, "right")) - 1
        raise ValueError(
            f"row {row} of the {what} has the value {matrix.data[place]}; values must be finite "
            "and at least 0"
        )
    return matrix


def row_of(matrix: Any, row: int) -> Row:
    """One row of a matrix of `checked_rows`."""
    places = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return dict(zip(matrix.indices[places].tolist(), matrix.data[places].tolist(), strict=True))


def same_direction(a: Row, b: Row, least: float) -> bool:
    """Whether the cosine of two rows is at least ``least``, or both are empty."""
    product = sum(a.get(place, 0.0) * value for place, value in b.items())
    squares = (sum(value * value for value in row.values()) for row in (a, b))
    norms = float(np.prod(list(squares))) ** 0.5
    return product >= least * norms and bool(a) == bool(b)
