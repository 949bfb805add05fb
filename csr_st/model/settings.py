"""Checks of settings, shared by the head, the configuration of training and vector models."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

MAX_HIDDEN_DIM = 2**24  # above it float32 no longer represents every latent's number exactly
LEVELS = ("text", "token")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def integer(name: str, value: Any, low: int = 1, high: int | None = None, limit: str = "") -> int:
    """``value``, of any integer type, as an int within ``low``..``high``.

    ``limit`` says in the error what the largest value is, such as "hidden_dim=".

    Raises:
        TypeError: If it is not an integer; a bool is none.
        ValueError: If it is out of bounds.
    """
    fix = f"pass {name} >= {low}" if high is None else f"pass {low} <= {name} <= {high}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name}={value!r} is not an integer; {fix}")
    if number < low:
        raise ValueError(f"{name}={number} is below {low}; {fix}")
    if high is not None and number > high:
        raise ValueError(f"{name}={number} exceeds {limit}{high}; {fix}")
    return number


def width(name: str, value: Any) -> int:
    """A width within 1..MAX_HIDDEN_DIM. Raises TypeError and ValueError as `integer` does."""
    return integer(name, value, 1, MAX_HIDDEN_DIM, "the largest supported, ")


def number(name: str, value: Any, high: float = math.inf) -> Any:
    """A number within 0..``high``. Raises TypeError if it is not a number, ValueError if beyond."""
    value = _plain(name, value)
    if not 0 <= value <= high:
        raise ValueError(f"{name}={value} must be within 0..{high:g}")
    return value


def above_zero(name: str, value: Any) -> Any:
    """A finite number above 0. Raises TypeError for another type, ValueError for another value."""
    value = _plain(name, value)
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value} must be above 0, and finite")
    return value


def _plain(name: str, value: Any) -> Any:
    """A number; one of NumPy as Python's, which JSON can have."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"{name}={value!r} must be a number")
    return plain


def one_of(name: str, value: Any, choices: Sequence[str]) -> Any:
    """One of some names. Raises ValueError if it is none of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")
    return value


def distinct_names(name: str, value: Any) -> list[str] | None:
    """Names, or None. Raises ValueError if the list or a name is empty, or a name occurs twice."""
    if value is None:
        return None
    good = isinstance(value, list | tuple) and all(isinstance(v, str) and v for v in value)
    if not good or not value or len(set(value)) != len(value):
        raise ValueError(f"{name}={value!r} must be a list of distinct names, or None")
    return list(value)


def checksum(name: str, value: Any) -> str | None:
    """16 hexadecimal digits, or None. Raises ValueError if it is neither."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 16 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{name}={value!r} must be 16 hexadecimal digits, or None")
    return value


def token_ids(name: str, value: Any) -> list[int]:
    """Ids of tokens, none where None. Raises ValueError if they are not integers from 0."""
    ids = [] if value is None else value
    if not isinstance(ids, list | tuple) or any(type(i) is not int or i < 0 for i in ids):
        raise ValueError(f"{name}={value!r} must be a list of integers from 0, or None")
    return sorted(set(ids))


def rising(name: str, value: Any, highest: int) -> list[int]:
    """Integers, none where None. Raises ValueError if one is not above the one before it."""
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


def exponent(name: str, value: Any) -> float:
    """A number in (0, 1]. Raises TypeError if it is not a number, ValueError if out of bounds."""
    value = _plain(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} must be above 0 and at most 1; 1 leaves magnitudes")
    return float(value)


def floating_dtype(name: str) -> torch.dtype:
    """The type of one of the names `DTYPES`. Raises ValueError if it is none of them."""
    return DTYPES[one_of("dtype", name, tuple(DTYPES))]
