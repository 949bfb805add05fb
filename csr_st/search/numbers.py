"""Checks of the whole numbers that a search takes: top_k, k, rescore, threads."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any, most: int | None = None, what: str = "") -> int:
    """``value``, of any integer type, as an int of at least 1.

    Args:
        name: Name of the argument, for the message.
        value: The argument.
        most: The largest that it may be.
        what: What ``most`` counts, for the message.

    Raises:
        TypeError: If it is not an integer; a bool is none.
        ValueError: If it is not within 1..most.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; pass an integer, such as {name}=10"
        )
    if most is None and number < 1:
        raise ValueError(f"{name}={number} must be at least 1")
    if most is not None and not 1 <= number <= most:
        raise ValueError(f"{name}={number} is not within 1..{most}, {what}")
    return number
