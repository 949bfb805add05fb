"""One file of named arrays: memory-mapped, checksummed, laid out as safetensors.

8 bytes of header length, a JSON header, then the arrays without gaps, the widest type first so
that each is aligned. The header's metadata holds a SHA-256 of everything else. Knows nothing of
search; any reader of safetensors can open the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from csr_st._io.files import atomic_path

_TYPES: dict[str, np.dtype[Any]] = {
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_ALIGNMENT = 64
_READ_BYTES = 2**22
_MAX_HEADER_BYTES = 2**20


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a file, whole or not at all."""
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, array in ordered:
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    digest = hashlib.sha256(_canonical(header))
    for _, array in ordered:
        digest.update(_bytes(array).data)
    header["__metadata__"] = {**metadata, "sha256": digest.hexdigest()}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, array in ordered:
            file.write(_bytes(array).data)


def read_arrays(
    path: Path, kind: str, max_version: int, verify: bool = True
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Map the arrays of a file into memory.

    They can be written to without changing the file, as pages are copied when written.

    Args:
        path: A file that `write_arrays` wrote.
        kind: The ``format`` its metadata must name.
        max_version: The newest ``version`` the caller reads.
        verify: Read the whole file once and compare the checksum.

    Returns:
        Arrays and metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another kind, newer, truncated or altered.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header, data_start = _read_header(file, path, size)
        try:
            return _read_checked(file, path, header, data_start, kind, max_version, verify)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{path} is damaged: its header lacks something ({error})") from error


def _read_checked(
    file: BinaryIO,
    path: Path,
    header: dict[str, Any],
    data_start: int,
    kind: str,
    max_version: int,
    verify: bool,
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    metadata = dict(header.get("__metadata__", {}))
    if metadata.get("format") != kind:
        raise ValueError(f"{path} is no {kind} file; its format is {metadata.get('format')!r}")
    version = metadata["version"]
    if not version.isdecimal() or int(version) > max_version:
        raise ValueError(
            f"{path} has format version {version}, this csr_st reads up to {max_version}: "
            "pip install -U csr-st"
        )
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    end = data_start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if path.stat().st_size != end:
        raise ValueError(
            f"{path} is truncated or altered: it has {path.stat().st_size} bytes, its header says "
            f"{end}; build or copy it again"
        )
    expected = metadata.pop("sha256", "")
    if verify:
        _check_digest(file, path, {**header, "__metadata__": metadata}, expected)
    arrays = {name: _mapped(path, entry, data_start) for name, entry in entries.items()}
    return arrays, metadata


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"{path} is truncated, or no file of arrays: it has no whole header")
    try:
        header = json.loads(file.read(length))
        assert isinstance(header, dict)
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{path} is damaged: its header cannot be read ({error})") from error
    return header, 8 + length


def _check_digest(file: BinaryIO, path: Path, header: dict[str, Any], expected: str) -> None:
    digest = hashlib.sha256(_canonical(header))
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path} is altered: its checksum is {digest.hexdigest()[:12]}, it was written with "
            f"{expected[:12]}; build or copy it again"
        )


def _mapped(path: Path, entry: dict[str, Any], data_start: int) -> NDArray[Any]:
    shape = tuple(entry["shape"])
    dtype = _TYPES[entry["dtype"]]
    if 0 in shape:
        empty: NDArray[Any] = np.empty(shape, dtype)
        return empty
    offset = data_start + entry["data_offsets"][0]
    # Copy-on-write rather than read-only: a read-only array is another type to numba.
    mapped: NDArray[Any] = np.memmap(path, dtype, mode="c", offset=offset, shape=shape)
    return np.asarray(mapped)
