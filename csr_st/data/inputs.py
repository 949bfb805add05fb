"""Inputs to encode, as lists: columns of pandas, polars, Arrow and NumPy, views, checked by row."""

from __future__ import annotations

import math
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Set, ValuesView
from numbers import Number
from typing import Any

import numpy as np

TEXT_KINDS = "SUTO"  # of NumPy: bytes, strings of fixed and of any width, objects
MISSING = ("NAType", "NaTType")  # pandas, which need not be installed


def as_inputs(inputs: Any) -> Any:
    """One column of any library, or a view of a dict, as a list; anything else as it is.

    Raises:
        TypeError: If it is a set, which has no order, or a table.
    """
    if isinstance(inputs, KeysView | ValuesView | ItemsView):
        return list(inputs)
    if isinstance(inputs, Set):
        raise TypeError(
            f"the inputs are a {type(inputs).__name__}, which has no order for codes to follow; "
            "pass a list, such as sorted(inputs)"
        )
    if isinstance(inputs, np.ndarray):
        return inputs.tolist() if inputs.dtype.kind in TEXT_KINDS or not inputs.size else inputs
    if hasattr(inputs, "column_names") or hasattr(inputs, "columns"):
        raise TypeError(
            f"the inputs are a table ({type(inputs).__module__}.{type(inputs).__qualname__}); pass "
            "one of its columns, such as table['text']"
        )
    for method in ("to_pylist", "to_list"):  # Arrow; pandas and polars
        if hasattr(inputs, method):
            return getattr(inputs, method)()
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes | list | tuple):
        return inputs if hasattr(inputs, "column_name") else list(inputs)  # `datasets` has one
    return inputs


def check_input(item: Any, place: int, *, vectors: bool = False) -> None:
    """Refuse an input that is missing, or that no model takes.

    Args:
        item: The input.
        place: Its number, which the error names.
        vectors: Whether the model takes vectors, such as lists of numbers.

    Raises:
        ValueError: If it is None, NaN, or pandas' NA.
        TypeError: If it is a number, bytes, or a list that is neither a pair of texts nor messages.
    """
    if item is None or _is_nan(item) or type(item).__name__ in MISSING:
        raise ValueError(f"input {place} is {item!r}; drop or fill missing inputs first")
    bad = isinstance(item, Number | bytes | np.generic) or (
        isinstance(item, list | tuple) and not _is_pair(item) and not _is_messages(item)
    )
    if bad and not isinstance(item, str) and not vectors:
        raise TypeError(
            f"input {place} is {item!r:.60} ({type(item).__name__}); pass what the model embeds, "
            "such as one str for each text"
        )


def _is_nan(item: Any) -> bool:
    return isinstance(item, float | np.floating) and math.isnan(item)


def _is_pair(item: Sequence[Any]) -> bool:
    return len(item) == 2 and all(isinstance(part, str) for part in item)


def _is_messages(item: Sequence[Any]) -> bool:
    return bool(item) and all(isinstance(part, Mapping) for part in item)
