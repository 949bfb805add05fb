"""Labels: what is a class and what means "no class".

In a file every value is a class, and an empty field or null means none. In whole numbers that a
program passes, a negative number means none, as -1 does in `datasets` and scikit-learn.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)


def is_missing(label: Any) -> bool:
    """Whether a label is None, NaN, or pandas' NA or NaT."""
    if label is None or (isinstance(label, float | np.floating) and math.isnan(label)):
        return True
    return type(label).__name__ in ("NAType", "NaTType")


def classes_of_file(values: Sequence[Any]) -> Sequence[Any]:
    """Labels of a file as labels for a store: as text where a number would not count as a class.

    Negative numbers and fractions become text, such as "-1" and "1"; empty text becomes None.
    """
    there = [value for value in values if not is_missing(value)]
    if any(isinstance(value, str) for value in there):
        return [None if is_missing(value) or value == "" else value for value in values]
    numbers = [value for value in there if isinstance(value, int | float)]
    if all(value >= 0 and value == int(value) for value in numbers if math.isfinite(value)):
        return values
    return [None if is_missing(value) else str(value) for value in values]


def check_numbers(labels: NDArray[np.int64]) -> None:
    """Refuse numbers whose negative ones look like classes; warn of the rows that they unlabel.

    Raises:
        ValueError: If only one class is not negative, as with labels -1 and 1, or there are several
            negative numbers.
    """
    distinct = np.unique(labels)
    negative, classes = distinct[distinct < 0], distinct[distinct >= 0]
    if len(negative) > 1 or (len(negative) and len(classes) == 1):
        raise ValueError(
            f"labels {', '.join(map(str, distinct[:5].tolist()))}: a negative number means that a "
            "row has no class; pass strings, or numbers from 0, for classes and None for rows "
            "without one"
        )
    if len(negative) and len(classes):
        n = int(np.count_nonzero(labels < 0))
        logger.warning(
            "%d of %d labels are %d: these rows have no class", n, len(labels), negative[0]
        )
