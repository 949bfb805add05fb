"""Payloads of documents: what every engine stores and returns alike, checked before a write."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MAX_INT = 2**63 - 1
MAX_DEPTH = 64  # of lists and mappings within each other


def checked_payloads(
    payloads: Iterable[Mapping[str, Any]], n: int, most: int | None = None
) -> list[dict[str, Any]]:
    """Payloads of n documents as dicts of JSON values; NumPy numbers and arrays become plain ones.

    Args:
        payloads: The payloads.
        n: Number of documents.
        most: Bytes that one may have as JSON.

    Raises:
        TypeError: If one is not a mapping, or has a key or a value that JSON does not have.
        ValueError: If their number is not n, a number is NaN, infinite or beyond 64 bits, a text
            cannot be stored, or one is too large.
    """
    refuse_one(payloads)
    listed = list(payloads)
    if len(listed) != n:
        raise ValueError(f"there are {len(listed)} payloads for {n} documents")
    found = [checked_payload(payload, row) for row, payload in enumerate(listed)]
    for row, payload in enumerate([] if most is None else found):
        size = len(json.dumps(payload, ensure_ascii=False).encode())
        if most is not None and size > most:
            raise ValueError(
                f"the payload of row {row} has {size} bytes as JSON; this database takes at most "
                f"{most}: keep large texts elsewhere, and their address in the payload"
            )
    return found


def refuse_one(payloads: Any) -> None:
    """Refuse one payload in the place of many.

    Raises:
        TypeError: If they are one mapping or string.
    """
    if isinstance(payloads, Mapping | str):
        raise TypeError(
            f"payloads are one {type(payloads).__name__}; pass a list with one mapping per document"
        )


def checked_payload(payload: Any, row: int) -> dict[str, Any]:
    """The payload of one document, as `checked_payloads` gives it; ``row`` is for the message.

    Raises:
        TypeError: As `checked_payloads`.
        ValueError: As `checked_payloads`.
    """
    if not isinstance(payload, Mapping):
        raise TypeError(
            f"the payload of row {row} is a {type(payload).__name__}; pass a mapping, {{}} for none"
        )
    return _mapping(payload, f"row {row}", 0)


def _mapping(values: Mapping[Any, Any], place: str, depth: int) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise TypeError(
                f"the payload of {place} has the key {key!r} of type {type(key).__name__}; keys "
                f"must be strings, such as {str(key)!r}"
            )
        name = _text(key, place)
        found[name] = _value(value, f"{place}, {name!r}", depth + 1)
    return found


def _value(value: Any, place: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"the payload of {place} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, place)
    if isinstance(value, int | float):
        return _number(value, place)
    if isinstance(value, Mapping):
        return _mapping(value, place, depth)
    if isinstance(value, list | tuple):
        return [_value(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise TypeError(
        f"the payload of {place} is a {type(value).__name__}, {value!r:.60}; pass a JSON value: a "
        "string, number, bool, None, list or mapping"
    )


def _number(value: float, place: str) -> int | float:
    if isinstance(value, int):
        if not -MAX_INT - 1 <= value <= MAX_INT:
            raise ValueError(
                f"the payload of {place} is {value}, beyond 64 bits; pass it as a string"
            )
        return int(value)
    if not math.isfinite(value):
        raise ValueError(
            f"the payload of {place} is {value}, which JSON does not have; pass None, or leave it "
            "out"
        )
    return float(value)


def _text(text: str, place: str) -> str:
    """Text that can be stored: PostgreSQL takes no NUL, and no file a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the payload of {place} has a lone surrogate in {text!r:.60}; pass valid Unicode"
        ) from None
    if "\0" in text:
        raise ValueError(f"the payload of {place} has a NUL character in {text!r:.60}; remove it")
    return str.__str__(text)
