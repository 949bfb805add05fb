"""Checks of what an evaluation is told: classes of rows, and relevant documents of queries.

Figures from a missing class, or from a gain for a document that is not there, would mean nothing,
so such input is refused.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_count(name: str, given: Any, expected: int) -> None:
    """Raise a ValueError unless there is one entry for each row."""
    if given is not None and len(given) != expected:
        raise ValueError(f"{name} has {len(given)} entries; give one for each of {expected} rows")


def as_classes(name: str, labels: Any, n: int) -> NDArray[Any] | None:
    """Labels of n rows as an (n,) array of integers or strings; None gives None.

    Args:
        name: What errors call them.
        labels: A list, array or column of whole numbers, bools or strings.
        n: Number of rows.

    Raises:
        ValueError: If there is not one for each row, or one is missing: None, NaN, "", or a number
            below 0.
        TypeError: If one is of another type, or types are mixed.
    """
    if labels is None:
        return None
    # As objects, a list keeps its numbers beside strings.
    array = np.asarray(labels, object if isinstance(labels, list | tuple) else None)
    if array.ndim != 1:
        raise ValueError(f"{name} have shape {array.shape}; give one class for each of {n} rows")
    check_count(name, array, n)
    entries = [e.item() if isinstance(e, np.generic) else e for e in array.tolist()]
    _refuse_rows(name, "without a class", [_is_missing(entry) for entry in entries])
    for row, entry in enumerate(entries):
        whole = isinstance(entry, int) or (isinstance(entry, float) and entry.is_integer())
        if not whole and not isinstance(entry, str):
            raise TypeError(
                f"{name}, row {row}: {entry!r} ({type(entry).__name__}) is no class; classes are "
                "whole numbers, bools or strings"
            )
        if isinstance(entry, str) != isinstance(entries[0], str):
            raise TypeError(f"{name} mix {entries[0]!r} and {entry!r}: use numbers or strings")
    if not entries or isinstance(entries[0], str):
        return np.array(entries, str)
    below = [entry < 0 for entry in entries]
    reason = "below 0, which mean an unknown class"
    fix = "; if they are classes, such as -1 of -1 and +1, number the classes from 0"
    _refuse_rows(name, reason, below, fix)
    return np.array(entries, np.int64)


def _refuse_rows(name: str, reason: str, bad: list[bool], fix: str = "") -> None:
    if any(bad):
        raise ValueError(
            f"{name} has {sum(bad)} entries {reason}, first in row {bad.index(True)}; leave these "
            f"rows out{fix}"
        )


def _is_missing(entry: Any) -> bool:
    """Whether an entry is None, NaN, an empty string, or the NA or NaT of pandas."""
    is_nan = isinstance(entry, float) and math.isnan(entry)
    is_empty = isinstance(entry, str) and not entry
    return entry is None or is_nan or is_empty or type(entry).__name__ in ("NAType", "NaTType")


def check_classes(documents: NDArray[Any] | None, queries: NDArray[Any] | None) -> None:
    """Refuse classes whose accuracy is known before anything is measured.

    Raises:
        ValueError: If all documents are of one class, or queries have another type of class.
    """
    if documents is None or queries is None:
        return
    if len(known := np.unique(documents)) < 2:
        raise ValueError(
            f"document_labels has one class only ({known[0]}), so that accuracy would be the same "
            "for any codes; give documents of at least two, or leave labels out"
        )
    if documents.dtype.kind != queries.dtype.kind:
        raise ValueError(
            f"document_labels, such as {documents[0]!r}, and query_labels, such as {queries[0]!r}, "
            "are never equal: use numbers or strings in both"
        )


def check_relevant(
    relevant: Sequence[Mapping[int, float]] | None, queries: int, documents: int
) -> None:
    """Refuse judgements of other documents than those that are there, and without a figure.

    Raises:
        ValueError: If there is not one entry for each query, a row number or gain is out of
            bounds, or no gain is above 0.
        TypeError: If an entry is not a mapping of row numbers to gains.
    """
    if relevant is None:
        return
    check_count("relevant", relevant, queries)
    for query, gains in enumerate(relevant):
        if not isinstance(gains, Mapping):
            raise TypeError(
                f"relevant[{query}] is {gains!r:.60} ({type(gains).__name__}); give a dict of the "
                "relevant documents' row numbers and gains, such as {3: 1.0}"
            )
        for row, gain in gains.items():
            _check_gain(query, row, gain, documents)
    if not any(gain > 0 for gains in relevant for gain in gains.values()):
        raise ValueError("relevant has no gain above 0: there is no query that nDCG could count")


def _check_gain(query: int, row: Any, gain: Any, documents: int) -> None:
    try:
        inside = 0 <= operator.index(row) < documents
        value = float(gain)
    except (TypeError, ValueError):
        raise TypeError(
            f"relevant[{query}] has {row!r}: {gain!r}; give row numbers and gains, such as "
            "{3: 1.0}"
        ) from None
    if not inside:
        raise ValueError(
            f"relevant[{query}] names document {row}; documents are numbered 0..{documents - 1}"
        )
    if not math.isfinite(value):
        raise ValueError(f"relevant[{query}][{row}] is {value}; a gain must be a finite number")
