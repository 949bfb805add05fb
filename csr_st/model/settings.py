"""What a head's settings may be: checks that give the value as it is kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

MAX_HIDDEN_DIM = 2**24  # above it float32 no longer holds every latent's number
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def positive(name: str, value: int) -> int:
    """A width. Raises ValueError if it is no whole number within 1..MAX_HIDDEN_DIM."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    if value > MAX_HIDDEN_DIM:
        raise ValueError(f"{name}={value} is above the largest supported, {MAX_HIDDEN_DIM}")
    return value


def distinct_names(name: str, value: Any) -> list[str] | None:
    """Names, or None. Raises ValueError if the list is empty or one of them is, or stands twice."""
    if value is None:
        return None
    good = isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value)
    if not good or not value or len(set(value)) != len(value):
        raise ValueError(f"{name}={value!r} must be a list of distinct names, or None")
    return list(value)


def rising(name: str, value: Any, highest: int) -> list[int]:
    """Whole numbers, none where None. Raises ValueError if one is not above that before it."""
    numbers = [] if value is None else value
    good = isinstance(numbers, list | tuple) and all(type(number) is int for number in numbers)
    if not good or any(not a < b for a, b in pairwise([0, *numbers, highest + 1])):
        raise ValueError(f"{name}={value!r} must be a rising list of integers in 1..{highest}")
    return list(numbers)


def flag(name: str, value: bool) -> bool:
    """A switch. Raises TypeError if it is neither True nor False."""
    # bool() would read the string "false" of a config written by hand as True.
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be True or False")
    return value


def power_within(value: float) -> float:
    """An exponent. Raises TypeError if it is no number, ValueError if not within 0..1 or 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"power={value!r} must be a number")
    if not 0 < value <= 1:
        raise ValueError(f"power={value} must be above 0 and at most 1; 1 leaves magnitudes")
    return float(value)


def floating_dtype(name: str) -> torch.dtype:
    """The type of one of the names `DTYPES`. Raises ValueError if it is none of them."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"dtype={name!r} is not one of {', '.join(map(repr, DTYPES))}")
    return DTYPES[name]
