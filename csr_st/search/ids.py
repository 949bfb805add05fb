"""Document ids: integers or strings chosen by the caller; their checks and their look-up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_ID = 2**63 - 1
_SURROGATE = re.compile("[\ud800-\udfff]")

Ids: TypeAlias = Sequence[int] | Sequence[str] | NDArray[Any]


def as_array(ids: Any) -> NDArray[Any]:
    """Ids or bools in a list, array, Series, column or tensor, as an array of one dimension.

    Raises:
        TypeError: If they are one str, or nothing that can be listed.
        ValueError: If there is more than one dimension.
    """
    if isinstance(ids, str | bytes) or not (hasattr(ids, "__array__") or hasattr(ids, "__iter__")):
        raise TypeError(f"ids are the {type(ids).__name__} {ids!r}; pass a list, [{ids!r}]")
    if hasattr(ids, "to_pylist"):  # pyarrow
        ids = ids.to_pylist()
    elif hasattr(ids, "to_numpy"):  # pandas; polars, whose __array__ cuts strings at a NUL
        ids = ids.to_numpy()
    is_array = hasattr(ids, "__array__")
    array = np.asarray(ids) if is_array else np.array(list(ids), dtype=object)
    if array.ndim != 1:
        raise ValueError(f"ids have {array.ndim} dimensions; pass one id per document")
    return array


def as_id_array(ids: Ids | Iterable[int] | Iterable[str]) -> NDArray[Any]:
    """Ids as int64, or as an object array of strings.

    Raises:
        TypeError: If ids are one str, or neither all integers nor all strings.
        ValueError: If there is more than one dimension, an integer exceeds 64 bits, or a string is
            not Unicode that can be written to a file.
    """
    array = as_array(ids)
    if array.dtype.kind in "iu":
        return _as_int64(array)
    if array.dtype.kind not in "OUT" and len(array):
        row = int(np.argmax(array != array))  # the first that is NaN, or 0
        raise TypeError(
            f"ids are {array.dtype} (row {row} is {array[row]}); use only integers or only strings"
        )
    items = array.tolist()
    types = {_type(item) for item in items}
    if types <= {int}:
        return _as_int64(array)
    if types == {str}:
        return _as_text(items)
    wanted = int if _type(items[0]) is int else str
    row = next(row for row, item in enumerate(items) if _type(item) is not wanted)
    names = ", ".join(sorted(type_.__name__ for type_ in types))
    raise TypeError(
        f"ids are of type {names} (row {row} is {items[row]!r}); use only integers or only strings"
    )


def as_new_ids(ids: Ids | None, n: int) -> NDArray[Any]:
    """Ids of n documents to be added, as `as_id_array` gives them; 0..n-1 if None.

    Raises:
        TypeError: See `as_id_array`; or if ids have no order.
        ValueError: See `as_id_array`; or if their number is not n, or one repeats or is negative.
    """
    if isinstance(ids, set | frozenset):
        raise TypeError(
            f"ids are a {type(ids).__name__}; pass a list, in the order of the documents"
        )
    array = np.arange(n) if ids is None else as_id_array(ids)
    if len(array) != n:
        raise ValueError(f"there are {len(array)} ids for {n} documents; pass one id per document")
    # Strings not by sorting, which takes seconds per million and cannot be interrupted.
    distinct = set(array) if array.dtype == object else np.unique(array)
    if len(distinct) < n:
        twice = next(item for item, count in Counter(array.tolist()).items() if count > 1)
        raise ValueError(f"id {twice!r} is given twice; ids must differ")
    if array.dtype.kind == "i" and n and array.min() < 0:
        raise ValueError(f"id {array.min()} is negative; integer ids must be at least 0")
    return array


def _as_int64(ids: NDArray[Any]) -> NDArray[np.int64]:
    if len(ids) and ids.dtype.kind != "i":
        for item in (int(ids.min()), int(ids.max())):
            if not -MAX_ID <= item <= MAX_ID:
                raise ValueError(f"id {item} is outside 0..{MAX_ID}; pass smaller ones, or strings")
    return ids.astype(np.int64)


def _as_text(items: list[str]) -> NDArray[Any]:
    try:
        "".join(items).encode()
    except UnicodeEncodeError:
        row = next(row for row, item in enumerate(items) if _SURROGATE.search(item))
        raise ValueError(
            f"id {items[row]!r} of row {row} has a lone surrogate, which no file can hold; pass "
            "valid Unicode"
        ) from None
    return np.array([str.__str__(item) for item in items], dtype=object)


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
        self._order: NDArray[np.intp] | None = None
        self._table: dict[str, int] | None = None

    def extended(self, ids: NDArray[Any]) -> IdLookup:
        """The look-up of these ids, then others, which shares what was made for these.

        Args:
            ids: These and the others.
        """
        longer = IdLookup(ids)
        table, first = self._table, len(self._ids)
        if table is not None and ids.dtype == object:
            # Those that share a table skip what others have put there: see `_places`
            places = enumerate(ids[first:].tolist(), first)
            if all(table.setdefault(text, place) == place for place, text in places):
                longer._table = table
        return longer

    def _places(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        if self._table is None:
            self._table = {text: place for place, text in enumerate(self._ids)}
        table = self._table
        places = np.array([table.get(text, -1) for text in ids], np.int64)
        known = (places >= 0) & (places < len(self._ids))
        known[known] = self._ids[places[known]] == ids[known]
        return np.where(known, places, -1)

    @cached_property
    def _consecutive(self) -> bool:
        """Whether the ids are the positions."""
        ids = self._ids
        return ids.dtype.kind == "i" and bool((ids == np.arange(len(ids))).all())

    def positions(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Position of each id, -1 if it is unknown.

        Raises:
            TypeError: If integers are looked up among strings or the other way round.
        """
        if not len(self._ids) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        if ids.dtype != self._ids.dtype:
            stored, given = (
                "strings" if array.dtype == object else "integers" for array in (self._ids, ids)
            )
            raise TypeError(f"the ids of this index are {stored}, these are {given}")
        if self._consecutive:
            known = (ids >= 0) & (ids < len(self._ids))
            return np.where(known, ids, -1).astype(np.int64)
        if ids.dtype == object:
            return self._places(ids)
        if self._order is None:
            self._order = np.argsort(self._ids, kind="stable")
        places = np.searchsorted(self._ids, ids, side="right", sorter=self._order) - 1
        found = self._order[np.maximum(places, 0)]
        return np.where((places >= 0) & (self._ids[found] == ids), found, -1).astype(np.int64)
