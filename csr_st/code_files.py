"""Files of codes, packed or not: safetensors with a format, a version and a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize_arrays

from csr_st._io.files import refuse_newer_format, write_atomically
from csr_st._io.tensor_files import digest, open_tensors

FORMATS = {"SparseCodes": "csr_st.codes", "PackedCodes": "csr_st.packed_codes"}  # by class
FORMAT_VERSION = 1  # of both
OPTIONAL = ("residual", "fitted")  # attributes that not all codes have


def metadata(owner: str, about: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file.

    Args:
        owner: The class whose ``load`` reads it.
        about: Attributes beside the arrays, by name.
    """
    header = {"format": FORMATS[owner], "version": FORMAT_VERSION, **about}
    return {name: json.dumps(value) for name, value in header.items()}


def write(
    path: Path, owner: str, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a file of a class, completely or not at all; see `metadata`."""
    stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = metadata(owner, {**about, "checksum": _checksum(stored, about)})
    write_atomically(path, serialize_arrays(stored, metadata=header))


def read(
    path: str | Path, owner: str, about: Sequence[str], needed: Sequence[str]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The attributes and arrays of a file that `write` wrote, or of a shard of a `CodeStore`.

    Args:
        path: The file.
        owner: The class that it must be of.
        about: Names of its attributes.
        needed: Names of arrays that it must have; others are read too.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of another class, not complete, altered or of a newer format.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, TypeError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f"{path} is not a complete safetensors file of codes: {error}") from error
    for other, format_ in FORMATS.items():
        if header.get("format") == format_ and other != owner:
            raise ValueError(f"{path} has {other}, not {owner}; open it with {other}.load")
    if header.get("format") != FORMATS[owner]:
        raise ValueError(f"{path} has no codes; write such a file with {owner}.save")
    refuse_newer_format(path, header.get("version", FORMAT_VERSION), FORMAT_VERSION)
    if missing := sorted({*about, *needed} - {*header, *arrays}):
        raise ValueError(f"{path} lacks {missing}; write such a file with {owner}.save")
    found = {name: header[name] for name in [*about, *OPTIONAL] if name in header}
    if header.get("checksum") not in (None, _checksum(arrays, found)):
        raise ValueError(f"{path} was altered after it was written; encode again")
    return found, arrays


def is_packed(path: Path) -> bool:
    """Whether a file has `PackedCodes`; not if it cannot be read."""
    try:
        return open_tensors(path).metadata.get("format") == json.dumps(FORMATS["PackedCodes"])
    except ValueError:
        return False


def _checksum(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> str:
    """A digest of the arrays, their types and shapes, and the attributes."""
    names = sorted(arrays)
    shapes = [(name, arrays[name].dtype.str, arrays[name].shape) for name in names]
    return digest(
        json.dumps([*about.values(), *shapes]).encode(), *(arrays[name] for name in names)
    )
