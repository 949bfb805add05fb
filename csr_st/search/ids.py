"""Document ids: integers or strings chosen by the caller; their checks and their look-up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_ID = 2**63 - 1

Ids: TypeAlias = Sequence[int] | Sequence[str] | NDArray[Any]


def as_id_array(ids: Ids | Iterable[int] | Iterable[str]) -> NDArray[Any]:
    """Ids as int64, or as an object array of strings.

    Raises:
        TypeError: If ids are one str, or neither all integers nor all strings.
        ValueError: If there is more than one dimension, or an integer exceeds 64 bits.
    """
    if isinstance(ids, str | bytes):
        raise TypeError(f"ids are the {type(ids).__name__} {ids!r}; pass a list, [{ids!r}]")
    array = ids if isinstance(ids, np.ndarray) else np.array(list(ids), dtype=object)
    if array.ndim != 1:
        raise ValueError(f"ids have {array.ndim} dimensions; pass one id per document")
    if array.dtype.kind in "iu":
        return _as_int64(array)
    types = {_type(item) for item in array.tolist()}
    if types <= {int}:
        return _as_int64(array)
    if types == {str}:
        return np.array([str(item) for item in array], dtype=object)
    names = sorted(type_.__name__ for type_ in types)
    raise TypeError(f"ids are of type {', '.join(names)}; use only integers or only strings")


def as_new_ids(ids: Ids | None, n: int) -> NDArray[Any]:
    """Ids of n documents to be added, as `as_id_array` gives them; 0..n-1 if None.

    Raises:
        TypeError: See `as_id_array`.
        ValueError: See `as_id_array`; or if their number is not n, or one repeats or is negative.
    """
    array = np.arange(n) if ids is None else as_id_array(ids)
    if len(array) != n:
        raise ValueError(f"there are {len(array)} ids for {n} documents; pass one id per document")
    unique, counts = np.unique(array, return_counts=True)
    if len(unique) < n:
        raise ValueError(f"id {unique[counts > 1].tolist()[0]!r} is given twice; ids must differ")
    if array.dtype.kind == "i" and n and unique[0] < 0:
        raise ValueError(f"id {unique[0]} is negative; integer ids must be at least 0")
    return array


def _as_int64(ids: NDArray[Any]) -> NDArray[np.int64]:
    if len(ids) and ids.dtype.kind != "i":
        for item in (int(ids.min()), int(ids.max())):
            if not -MAX_ID <= item <= MAX_ID:
                raise ValueError(f"id {item} is outside 0..{MAX_ID}; pass smaller ones, or strings")
    return ids.astype(np.int64)


def _type(item: Any) -> type:
    if isinstance(item, str):
        return str
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return int
    return type(item)


class IdLookup:
    """Finds the position of ids; where an id was removed and added again, the later one."""

    def __init__(self, ids: NDArray[Any]) -> None:
        self._ids = ids
        self._consecutive = ids.dtype.kind == "i" and bool((ids == np.arange(len(ids))).all())
        self._order: NDArray[np.intp] | None = None

    def positions(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Position of each id, -1 if it is unknown.

        Raises:
            TypeError: If integers are looked up among strings or the other way round.
        """
        if len(ids) and len(self._ids) and ids.dtype != self._ids.dtype:
            stored, given = (
                "strings" if array.dtype == object else "integers" for array in (self._ids, ids)
            )
            raise TypeError(f"the ids of this index are {stored}, these are {given}")
        if self._consecutive:
            known = (ids >= 0) & (ids < len(self._ids))
            return np.where(known, ids, -1).astype(np.int64)
        if not len(self._ids):
            return np.full(len(ids), -1, np.int64)
        if self._order is None:
            self._order = np.argsort(self._ids, kind="stable")
        places = np.searchsorted(self._ids, ids, side="right", sorter=self._order) - 1
        found = self._order[np.maximum(places, 0)]
        return np.where((places >= 0) & (self._ids[found] == ids), found, -1).astype(np.int64)
