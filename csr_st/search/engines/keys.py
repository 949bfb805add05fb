"""Ids of documents in an engine: integers or strings, one kind for a collection."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from csr_st.search.ids import Ids, as_id_array, as_new_ids

IdType: TypeAlias = Literal["int", "str"]
Key: TypeAlias = int | str

MAX_BYTES = 1024  # PostgreSQL indexes strings of up to 2,704 bytes, Milvus takes up to 65,535
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")  # PostgreSQL, Milvus Lite: no such character
_NAMES = {"int": "integer", "str": "string"}


def check_id_type(id_type: Any) -> IdType:
    """``id_type`` as it is.

    Raises:
        ValueError: If it is neither "int" nor "str".
    """
    if id_type not in get_args(IdType):
        raise ValueError(f"id_type={id_type!r} is unknown; pass 'int' or 'str'")
    return cast(IdType, id_type)


def wrong_id_type(collection: str, stored: IdType) -> ValueError:
    """The error for a collection whose ids are of the other kind."""
    return ValueError(
        f"{collection!r} has {_NAMES[stored]} ids; open it with id_type={stored!r}, or "
        "choose another name"
    )


def keys_of(ids: Ids, id_type: IdType) -> list[Key]:
    """Ids of documents that may be stored.

    Raises:
        TypeError: If they are not ids, or of the other kind.
        ValueError: If an integer is beyond 64 bits or a string cannot be an id.
    """
    return _checked(as_id_array(ids), id_type)


def new_keys(ids: Ids | None, n: int, id_type: IdType) -> list[Key]:
    """Ids of n documents to be stored; 0..n-1 if None.

    Raises:
        TypeError: As `keys_of`; or if there are none, and the collection has strings.
        ValueError: As `keys_of`; or if their number is not n, or one repeats or is negative.
    """
    if ids is None and id_type == "str" and n:
        raise TypeError("this collection has string ids; pass ids, one string for each document")
    return _checked(as_new_ids(ids, n), id_type)


def no_ids(shape: tuple[int, int], id_type: IdType) -> NDArray[Any]:
    """An array of results without hits: -1, or None where ids are strings."""
    if id_type == "str":
        return np.full(shape, None, object)
    return np.full(shape, -1, np.int64)


def _checked(array: NDArray[Any], id_type: IdType) -> list[Key]:
    keys: list[Key] = array.tolist()
    if not keys:
        return keys
    given: IdType = "str" if array.dtype == object else "int"
    if given != id_type:
        fix = (
            "pass strings, such as '7'"
            if id_type == "str"
            else "open a new one with id_type='str', or keep strings in the payload"
        )
        raise TypeError(f"this collection takes {_NAMES[id_type]} ids, not {given}; {fix}")
    for row, key in enumerate(keys if id_type == "str" else []):
        assert isinstance(key, str)
        if (length := len(key.encode())) > MAX_BYTES:
            raise ValueError(
                f"id {key[:40]!r}... of row {row} has {length} bytes; engines take at most "
                f"{MAX_BYTES}: keep it in the payload, and a hash of it as the id"
            )
        if _CONTROL.search(key):
            raise ValueError(
                f"id {key!r} of row {row} has a control character, which databases do not store; "
                "remove it"
            )
    return keys
