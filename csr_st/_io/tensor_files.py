"""Files of named arrays in the safetensors format: memory-mapped, and written in a fixed order.

8 bytes of header length, a JSON header, then the arrays without gaps, the widest type first so
that each is aligned. Equal arrays and metadata give equal files, which safetensors itself does not
promise. Any reader of safetensors opens them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from csr_st._io.files import atomic_path

Mode = Literal["r", "c"]  # read-only, or copied on write
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: its bits
}
NAMES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
ALIGNMENT = 64
MAX_HEADER_BYTES = 10**8  # the limit of safetensors


class TensorFile(NamedTuple):
    """The header of a file.

    Attributes:
        path: The file.
        tensors: dtype, shape and data_offsets of each array.
        metadata: Strings that the header contains beside the arrays.
        begin: Where the data begins, in bytes; the data ends with the file.
    """

    path: Path
    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    begin: int

    def map(self, name: str, mode: Mode = "r") -> NDArray[Any]:
        """Map one array, read-only or copied on write; a ValueError if NumPy has no such type."""
        entry = self.tensors[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{name!r} in {self.path} is {entry['dtype']}; one of {', '.join(DTYPES)} is needed"
            )
        offset = self.begin + entry["data_offsets"][0]
        return map_array(self.path, DTYPES[entry["dtype"]], tuple(entry["shape"]), offset, mode)


def open_tensors(path: Path) -> TensorFile:
    """Read the header of a safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is cut short, damaged or not safetensors.
    """
    with path.open("rb") as file:
        return read_header(path, file)


def read_header(path: Path, file: BinaryIO) -> TensorFile:
    """`open_tensors` of a file that is open: what ``path`` names may be replaced meanwhile."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ValueError(f"{path} is cut short or not a safetensors file ({size} bytes)")
    content = file.read(length)
    begin = 8 + length
    try:
        tensors = dict(json.loads(content))
        metadata = dict(tensors.pop("__metadata__", {}))
        end = begin
        for entry in tensors.values():
            if missing := {"dtype", "shape", "data_offsets"}.difference(entry):
                raise KeyError(*missing)
            end = max(end, begin + entry["data_offsets"][1])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error!r}") from error
    if size != end:
        raise ValueError(f"{path} is cut short or altered: {size} bytes where {end} are needed")
    _check_places(path, tensors)
    return TensorFile(path, tensors, metadata, begin)


def _check_places(path: Path, tensors: Mapping[str, dict[str, Any]]) -> None:
    """Refuse a header whose arrays do not lie one after the other, as long as their shapes say."""
    end = 0
    try:
        for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            numbers = [first, last, *entry["shape"]]
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError(f"{name!r} has the shape or place {numbers}")
            length = last - first
            if entry["dtype"] in DTYPES:
                length = math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize
            if (first, last) != (end, end + length):
                raise ValueError(f"{name!r} is at {first}..{last}, not at {end}..{end + length}")
            end = last
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error


def map_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, mode: Mode = "r"
) -> NDArray[Any]:
    """Map an array that begins at byte ``offset``; a ValueError if the file ends within it."""
    try:
        if 0 in shape:  # nothing to map
            empty: NDArray[Any] = np.empty(shape, dtype)
            return empty
        return np.asarray(np.memmap(path, dtype, mode, offset, shape))
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}; write it again") from error


def tensor_header(
    arrays: Mapping[str, NDArray[Any] | ArrayShape], metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The header of a file of these arrays, which it names in the order of the file."""
    header: dict[str, dict[str, Any]] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        offsets = [offset, offset + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": NAMES[array.dtype], "shape": shape, "data_offsets": offsets}
        offset += array.nbytes
    return header


class ArrayShape(NamedTuple):
    """What a header says of an array that is written piece by piece."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorWriter:
    """Writes a file of arrays piece by piece; several threads may write at once.

    Args:
        path: The file, made anew.
        header: From `tensor_header`.

    Attributes:
        begin: Where the data begins, in bytes.
    """

    def __init__(self, path: Path, header: Mapping[str, dict[str, Any]]) -> None:
        self._header = header
        self._lock = threading.Lock()
        self._file = path.open("wb+")
        self.begin = self._write_header(header)
        self._file.truncate(self.begin + max(_end(entry) for entry in header.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, first: int, rows: NDArray[Any]) -> None:
        """Write rows of an array from row ``first`` on."""
        begin = self.begin + self._header[name]["data_offsets"][0]
        size = math.prod(rows.shape[1:]) * rows.dtype.itemsize
        data = array_bytes(rows)
        with self._lock:
            self._file.seek(begin + first * size)
            self._file.write(data)

    def content(self) -> NDArray[np.uint8]:
        """All that was written, mapped."""
        self._file.flush()
        if self._file.seek(0, os.SEEK_END) == self.begin:
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(self._file, np.uint8, "r", self.begin))

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header once more, with other metadata that takes as many bytes."""
        self._write_header({**self._header, "__metadata__": dict(metadata)})
        self._file.flush()

    def _write_header(self, header: Mapping[str, Any]) -> int:
        content = _header_bytes(header)
        self._file.seek(0)
        self._file.write(content)
        return len(content)


def _end(entry: Mapping[str, Any]) -> int:
    return int(entry["data_offsets"][1]) if "data_offsets" in entry else 0


def _header_bytes(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write a file completely, or leave what was there."""
    header = tensor_header(arrays, metadata)
    with atomic_path(path) as part, part.open("wb") as file:
        file.write(_header_bytes(header))
        for name in list(header)[1:]:
            file.write(array_bytes(arrays[name]))


def array_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in row-major order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def digest(*pieces: NDArray[Any] | bytes) -> str:
    """A 128-bit checksum of the bytes of arrays."""
    state = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        state.update(piece if isinstance(piece, bytes) else array_bytes(piece))
    return state.hexdigest()
