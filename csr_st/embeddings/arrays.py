"""Checks of the arrays that a user passes, and their conversion to the types of a store.

Each function raises a ValueError for a wrong shape or value, a TypeError for a wrong type, and an
IndexError for a row number outside the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.data.labels import check_numbers, is_missing


def as_labels(
    labels: Sequence[Any] | NDArray[Any] | None, n: int, names: Sequence[str] | None
) -> tuple[NDArray[np.int64] | None, list[str] | None]:
    """Labels of n rows as (n,) classes with -1 for none, and their names.

    None, NaN and negative numbers mean none. Strings are numbered in the order in which they first
    occur.
    """
    if labels is None:
        return None, None
    if len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} rows; pass one per row")
    found = given = None
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iub":
        codes = labels.astype(np.int64)
    else:
        values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        codes, found = number_labels(values)
        given = np.array([not is_missing(value) for value in values], bool)
    if found is None and names is None:
        check_numbers(codes[given] if given is not None else codes)
    codes = np.maximum(codes, -1)
    if found is not None:
        return codes, found
    if names is not None and codes.size and int(codes.max()) >= len(names):
        raise ValueError(
            f"label {int(codes.max())} has no name: there are {len(names)} label_names"
        )
    return codes, None if names is None else list(names)


def number_labels(labels: Iterable[Any]) -> tuple[NDArray[np.int64], list[str] | None]:
    """Classes of whole-number or string labels, -1 for None and NaN; names of strings."""
    known: dict[str, int] = {}
    codes: list[int] = []
    numbers = False
    for place, label in enumerate(labels):
        if isinstance(label, float | np.floating) and label.is_integer():
            label = int(label)  # whole numbers with a gap, in pandas and in JSON
        if is_missing(label):
            codes.append(-1)
        elif isinstance(label, str):
            codes.append(known.setdefault(label, len(known)))
        elif isinstance(label, int | np.integer):
            numbers = True
            codes.append(int(label))
        else:
            raise TypeError(
                f"label {place} is {label!r} ({type(label).__name__}); labels must be whole "
                "numbers, strings or None"
            )
    if known and numbers:
        raise TypeError(
            f"labels mix strings ({next(iter(known))!r}) and numbers; use one type of label"
        )
    try:
        return np.array(codes, np.int64), list(known) or None
    except OverflowError:
        raise ValueError(f"label {max(codes, key=abs)} is beyond 64 bits") from None


def as_pairs(pairs: Any, n: int) -> NDArray[np.int64] | None:
    """Positive pairs as (m, 2) row numbers."""
    if pairs is None:
        return None
    array = np.asarray(pairs)
    if array.size == 0:
        return np.empty((0, 2), np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"pairs are {array.dtype} of shape {array.shape}; (m, 2) row numbers are needed"
        )
    outside = ((array < 0) | (array >= n)).any(axis=1)
    if outside.any():
        bad = int(outside.argmax())
        raise ValueError(f"pair {bad} is {array[bad].tolist()}, outside the rows 0..{n - 1}")
    return array.astype(np.int64)


def as_scores(scores: Any, pairs: NDArray[np.int64] | None) -> NDArray[np.float32] | None:
    """Scores of the pairs as (m,) float32."""
    if scores is None:
        return None
    array = np.asarray(scores, np.float32)
    m = 0 if pairs is None else len(pairs)
    if array.shape != (m,) or not np.isfinite(array).all():
        raise ValueError(
            f"scores of shape {array.shape} for {m} pairs; pass one finite number each"
        )
    return array


def as_matrix(vectors: Any) -> NDArray[Any]:
    """Vectors as an (n, dim) array of floating-point numbers, int8 or uint8; shared if possible.

    Takes an array, a tensor, a table or column of pandas, polars or Arrow, or vectors one after
    the other: a list, a generator, the values of a dict.
    """
    array = _as_array(vectors)
    if array is None or array.dtype == object:
        array = _stacked(vectors if array is None else array)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"vectors have shape {array.shape}; (n, dim) with n, dim >= 1 is needed")
    if array.dtype.kind != "f" and array.dtype not in (np.int8, np.uint8):
        raise TypeError(
            f"vectors are {array.dtype}; pass floating-point numbers, as with .astype('float32'), "
            "int8 or uint8"
        )
    return array


def _as_array(vectors: Any) -> NDArray[Any] | None:
    """What a library has as one array or column; None for vectors one after the other."""
    if isinstance(vectors, str | bytes | PathLike):
        raise TypeError(f"vectors are {vectors!r:.80}; to open a file, use EmbeddingStore.open")
    if isinstance(vectors, Set):
        raise TypeError(f"vectors are a {type(vectors).__name__}, which has no order; pass a list")
    if isinstance(vectors, Mapping):
        raise TypeError("vectors are a dict; pass its values, as list(vectors.values())")
    if hasattr(vectors, "detach"):
        tensor = vectors.detach().cpu()
        bfloat16 = str(tensor.dtype) == "torch.bfloat16"  # which NumPy does not have
        return np.asarray((tensor.float() if bfloat16 else tensor).numpy())
    if np.ma.is_masked(vectors):
        row = int(np.argwhere(np.ma.getmaskarray(vectors))[0][0])
        raise ValueError(f"vector {row} has masked numbers; fill or drop such rows")
    if hasattr(vectors, "to_numpy"):
        arrow = type(vectors).__module__.startswith("pyarrow")
        return np.asarray(vectors.to_numpy(**({"zero_copy_only": False} if arrow else {})))
    return np.asarray(vectors) if hasattr(vectors, "__array__") else None


def _stacked(vectors: Iterable[Any]) -> NDArray[Any]:
    """Vectors one after the other as one array."""
    if not isinstance(vectors, Iterable):
        raise TypeError(f"vectors are {type(vectors).__name__}; pass an (n, dim) array")
    rows: list[NDArray[Any]] = []
    for place, vector in enumerate(vectors):
        try:
            row = _as_array(vector)
            row = np.asarray(
                vector if row is None else row.tolist() if row.dtype == object else row
            )
        except (ValueError, TypeError) as error:
            raise TypeError(f"vector {place} is not a list of numbers: {error}") from error
        if row.dtype.kind not in "fiu" or row.ndim != 1:
            raise TypeError(
                f"vector {place} is {vector!r:.60} ({type(vector).__name__}); it must be a list of "
                "numbers: drop or fill such rows"
            )
        if row.shape != (rows or [row])[0].shape:
            raise ValueError(f"vector {place} has {len(row)} numbers, vector 0 has {len(rows[0])}")
        rows.append(row)
    return np.stack(rows) if rows else np.empty((0, 0))


def as_row_numbers(rows: NDArray[Any] | Sequence[int], n: int) -> NDArray[np.int64]:
    """(m,) int64 row numbers within 0..n-1."""
    index = np.asarray(rows)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise ValueError(
            f"row numbers must be a 1-D array of whole numbers, not {index.dtype} of shape "
            f"{index.shape}"
        )
    if index.size and (index.min() < 0 or index.max() >= n):
        outside = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"row {outside} is outside 0..{n - 1}")
    return index.astype(np.int64, copy=False)
