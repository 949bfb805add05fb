"""Ids of items in a shard of a store of codes: integers, or strings in UTF-8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.string_arrays import joined_strings, split_strings

NUMBERS, TEXT, ENDS = "ids", "id_text", "id_ends"


def ids_to_arrays(ids: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """The arrays of int64 or of an object array of strings; none of None."""
    if ids is None:
        return {}
    if ids.dtype == object:
        return dict(zip((TEXT, ENDS), joined_strings(ids), strict=True))
    return {NUMBERS: ids.astype(np.int64)}


def ids_from_arrays(arrays: Mapping[str, NDArray[Any]], rows: int) -> NDArray[Any] | None:
    """The ids of `ids_to_arrays`, None where there are none.

    Raises:
        ValueError: If they are damaged or not as many as rows.
    """
    ids = arrays.get(NUMBERS)
    if {TEXT, ENDS} <= arrays.keys():
        ids = np.array(split_strings(arrays[TEXT], arrays[ENDS], "ids"), dtype=object)
    if ids is not None and (ids.shape != (rows,) or ids.dtype not in (np.int64, object)):
        raise ValueError(f"the ids are {ids.dtype} of shape {ids.shape} for {rows} rows")
    return ids
