"""The arrays of sparse codes: their types, what makes them valid, and what selects rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.model.settings import MAX_HIDDEN_DIM, integer
from csr_st.residual import check_alike

T = TypeVar("T")

MAX_LATENTS = 1 << 32
ENTRIES_AT_ONCE = 1 << 22
MAX_BOOST = 1e6  # beyond it the other latents of a row are lost to rounding


def index_dtype(hidden_dim: int) -> np.dtype[Any]:
    """The smallest unsigned integer type that can name every latent of ``hidden_dim``.

    >>> index_dtype(256), index_dtype(257)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.min_scalar_type(max(hidden_dim - 1, 0))


def checked(indices: Any, values: Any, hidden_dim: Any, norms: Any = None) -> dict[str, Any]:
    """The attributes of `SparseCodes`, in its types, rows sorted by falling value.

    Raises:
        ValueError: If shapes do not fit, an index is out of bounds or twice in a row, or a value or
            norm is negative, NaN or Inf.
        TypeError: If an array is of another type.
    """
    hidden_dim = integer("hidden_dim", hidden_dim, 1, MAX_LATENTS, "the largest supported, ")
    indices, values = np.asarray(indices), np.asarray(values)
    if indices.ndim != 2 or indices.shape != values.shape:
        raise ValueError(
            f"indices {indices.shape} and values {values.shape} must be two arrays of one shape "
            "(n, k)"
        )
    if not 1 <= (k := indices.shape[1]) <= hidden_dim:
        raise ValueError(f"codes have k={k}; k must be in 1..hidden_dim={hidden_dim}")
    if values.dtype not in (np.float32, np.float16):
        raise TypeError(
            f"values are {values.dtype}; use float32 or float16, e.g. values.astype('float32')"
        )
    if indices.dtype.kind not in "ui":
        raise TypeError(f"indices are {indices.dtype}; use an integer type")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    _check_values(values)
    _check_range(indices, hidden_dim)
    indices = indices.astype(index_dtype(hidden_dim), copy=False)
    if (values[:, 1:] > values[:, :-1]).any():
        order = np.argsort(-values, axis=1, kind="stable")
        indices, values = (np.take_along_axis(array, order, axis=1) for array in (indices, values))
    _check_distinct(indices, values, hidden_dim)
    if norms is not None:
        norms = _checked_norms(norms, len(indices))
    return {"indices": indices, "values": values, "hidden_dim": hidden_dim, "norms": norms}


def selection(rows: Any, n: int) -> slice | NDArray[Any]:
    """What selects some rows of arrays of n: of a slice, a mask, row numbers or one number.

    Raises:
        IndexError: If a single row is outside the arrays.
        TypeError: If rows are not numbers.
    """
    if isinstance(rows, int | np.integer) and not isinstance(rows, bool):
        row = range(n)[int(rows)]
        return slice(row, row + 1)
    if isinstance(rows, slice):
        return rows
    array = np.asarray(rows)
    if array.shape == (0,) and array.dtype == float:  # an empty list
        array = array.astype(int)
    if isinstance(rows, tuple) or array.ndim != 1 or array.dtype.kind not in "iub":
        raise TypeError(
            f"codes[{rows!r:.60}]: rows are a number, a slice, a mask or a list of numbers"
        )
    return array


def boosted(
    indices: NDArray[Any],
    values: NDArray[Any],
    hidden_dim: int,
    factors: Mapping[int, float],
    add: Mapping[int, float],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Indices and values with the values of some latents multiplied, then added to.

    Rows get wider by the latents in ``add``, and are not sorted.

    Raises:
        TypeError: If a latent is not an integer, or a factor or what is added not a number.
        ValueError: If a latent is outside the codes, or a number negative, NaN or infinite.
    """
    changed = values.astype(np.float64)
    latents, numbers = _checked_boost("factor", factors, hidden_dim)
    if len(latents):
        places = np.minimum(np.searchsorted(latents, indices), len(latents) - 1)
        changed *= np.where(latents[places] == indices, numbers[places], 1.0)
    latents, numbers = _checked_boost("add", add, hidden_dim)
    for latent, number in zip(latents, numbers, strict=True):
        there = (indices == latent) & (changed > 0)
        new = np.where(there.any(axis=1), 0.0, number)
        changed = np.column_stack([changed + there * number, new])
        indices = np.column_stack([indices, np.full(len(indices), latent, indices.dtype)])
    return indices, changed


def _checked_boost(
    name: str, given: Mapping[int, float], hidden_dim: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Latents in order, and the number of each."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{name}={given!r:.60} must be a dict from latents to numbers, as {{17: 2.0}}"
        )
    found = {}
    for key, number in given.items():
        latent = integer("latent", key, 0, hidden_dim - 1, "the last one, ")
        if isinstance(number, bool) or not isinstance(number, int | float | np.number):
            raise TypeError(f"the {name} of latent {latent} is {number!r:.60}; pass a number >= 0")
        if not 0 <= number <= MAX_BOOST:
            raise ValueError(
                f"the {name} of latent {latent} is {number}; pass one within 0..{MAX_BOOST:g}"
            )
        found[latent] = float(number)
    latents = np.array(sorted(found), np.int64)
    return latents, np.array([found[latent] for latent in latents.tolist()])


def joinable(given: Iterable[Any], kind: type[T], names: Sequence[str], fix: str) -> list[T]:
    """The parts, which are of one kind and have equal attributes.

    Args:
        given: What is to be concatenated.
        kind: The class of codes.
        names: Attributes that must be equal.
        fix: What to do where they are not.

    Raises:
        ValueError: If there is no part, or attributes or the kind of residual differ.
        TypeError: If a part is of another class.
    """
    parts: list[Any] = list(given)
    if not parts:
        raise ValueError(f"there are no codes to concatenate; pass at least one {kind.__name__}")
    for place, part in enumerate(parts):
        if not isinstance(part, kind):
            raise TypeError(f"part {place} is {type(part).__name__}, not {kind.__name__}")
    found = {tuple(getattr(part, name) for name in names) for part in parts}
    if len(found) > 1:
        raise ValueError(
            f"these codes cannot be concatenated: ({', '.join(names)}) are {sorted(found)}; {fix}"
        )
    for part in parts[1:]:
        check_alike(parts[0].residual, part.residual)
    return parts


def _check_values(values: NDArray[Any]) -> None:
    for row in np.flatnonzero(~((values >= 0) & (values < np.inf)).all(axis=1))[:1]:
        raise ValueError(
            f"row {row} has the values {values[row].tolist()!s:.80}; magnitudes are finite and "
            "never negative"
        )


def _check_range(indices: NDArray[Any], hidden_dim: int) -> None:
    if not indices.size:
        return
    for index in (int(indices.min()), int(indices.max())):
        if not 0 <= index < hidden_dim:
            raise ValueError(
                f"index {index} is outside hidden_dim={hidden_dim}; latents are numbered "
                f"0..{hidden_dim - 1}"
            )


def _check_distinct(indices: NDArray[Any], values: NDArray[Any], hidden_dim: int) -> None:
    n, k = indices.shape
    rows = max(1, ENTRIES_AT_ONCE // k)
    for first in range(0, n, rows):
        block = indices[first : first + rows]
        for row in first + _rows_with_one_twice(block, hidden_dim):
            active = indices[row][values[row] > 0]  # indices of zero values mean nothing
            if len(np.unique(active)) < len(active):
                raise ValueError(
                    f"row {row} has the indices {active.tolist()!s:.80}, one of them twice; add "
                    "their values up"
                )


def _rows_with_one_twice(indices: NDArray[Any], hidden_dim: int) -> NDArray[np.integer[Any]]:
    """The rows of (n, k) indices in which one occurs more than once."""
    if hidden_dim > MAX_HIDDEN_DIM:  # a list by latent would claim much memory
        ordered = np.sort(indices, axis=1)
        return np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
    n, k = indices.shape
    ends = np.arange(n + 1, dtype=np.int32) * np.int32(k)
    entries = np.ones(indices.size, np.int8), indices.reshape(-1).astype(np.int32), ends
    # By latent, in linear time: a row that has one twice is there twice, side by side.
    latents = scipy.sparse.csr_array(entries, shape=(n, hidden_dim)).tocsc()
    twice = latents.indices[1:] == latents.indices[:-1]
    starts = latents.indptr[1:-1]
    twice[starts[(starts > 0) & (starts <= len(twice))] - 1] = False
    return np.unique(latents.indices[1:][twice])


def _checked_norms(norms: Any, n: int) -> NDArray[np.float32]:
    array = np.asarray(norms)
    if array.shape != (n,):
        raise ValueError(f"norms {array.shape} must have shape ({n},)")
    if array.dtype.kind != "f":
        raise TypeError(f"norms are {array.dtype}; use float32")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not ((array >= 0) & (array < np.inf)).all():
        raise ValueError("norms must be finite and never negative")
    return array
