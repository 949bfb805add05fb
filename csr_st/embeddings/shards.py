"""One shard of a store: a safetensors file of consecutive rows with its checksum in the header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize_arrays

from csr_st._io.files import write_atomically
from csr_st.embeddings.manifest import Kind
from csr_st.embeddings.parts import Part, map_array

TENSOR_DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),  # numpy has no bfloat16: its bits
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class ShardHeader:
    """What a shard says of itself.

    Attributes:
        number: Its place in the store.
        rows: Rows that it holds.
        dim: Their width.
        dtype: "float16" or "float32", of the first array.
        items: Digest of the items that were embedded, so that changed data is noticed.
        checksum: Digest of the tensors' bytes.
        label_names: Names of the string labels seen in this shard, or None.
    """

    number: int
    rows: int
    dim: int
    dtype: str
    items: str
    checksum: str
    label_names: list[str] | None = None


def digest(*arrays: NDArray[Any]) -> str:
    """Checksum of the bytes of contiguous arrays."""
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def shard_path(directory: Path, number: int) -> Path:
    """Where shard ``number`` of a store lies."""
    return directory / f"shard-{number:06d}.safetensors"


def write_shard(
    directory: Path,
    kind: Kind,
    number: int,
    arrays: Mapping[str, NDArray[Any]],
    items: str,
    label_names: list[str] | None,
    metadata: Mapping[str, str],
) -> None:
    """Write a shard, whole or not at all.

    Args:
        directory: Of the store.
        kind: What kind of store it is.
        number: Place of the shard in the store.
        arrays: (rows, ...) each; the first, (rows, dim), gives width and type.
        items: Digest of what the rows were made from.
        label_names: Names of the labels in this shard, or None.
        metadata: What the file says of itself beside its header.

    Raises:
        OSError: If the disk is full or refuses; nothing half-written stays.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    first = next(iter(arrays.values()))
    rows, dim = first.shape
    checksum = digest(*(arrays[name] for name in sorted(arrays, reverse=True)))
    header = ShardHeader(number, rows, dim, str(first.dtype), items, checksum, label_names)
    told = {**metadata, _header_key(kind): json.dumps(asdict(header))}
    path = shard_path(directory, number)
    content = _in_fixed_order(serialize_arrays(arrays, metadata=told))
    try:
        write_atomically(path, content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path} ({len(content):,} bytes): {error.strerror}. The shards before "
            "it are whole: make room and run the same call again to go on",
        ) from error


def _header_key(kind: Kind) -> str:
    return f"{kind.format}.shard"


def _in_fixed_order(content: bytes) -> bytes:
    """A safetensors file with its header sorted.

    safetensors writes metadata in random order, and equal shards shall be equal files.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # data begins at a multiple of 8
    return b"".join([len(header).to_bytes(8, "little"), header, content[8 + length :]])


def read_tensor_table(path: Path) -> tuple[dict[str, Any], dict[str, str], int]:
    """The tensors of a safetensors file, its metadata, and where its data begins.

    Raises:
        ValueError: If the file is cut short or not safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"{path} is cut short or not a safetensors file ({size} bytes)")
        try:
            table = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    metadata = table.pop("__metadata__", {})
    begin = 8 + length
    needed = begin + max((entry["data_offsets"][1] for entry in table.values()), default=0)
    if size < needed:
        raise ValueError(f"{path} is cut short: {size} bytes where {needed} are needed")
    return table, metadata, begin


def map_tensor(path: Path, name: str, dtypes: Mapping[str, np.dtype[Any]] = TENSOR_DTYPES) -> Part:
    """Map one tensor of a safetensors file.

    Args:
        path: The file.
        name: The tensor.
        dtypes: numpy's type for each type of tensor that is accepted.

    Raises:
        ValueError: If the file is damaged or the tensor's type is not a number that numpy has.
    """
    table, _, begin = read_tensor_table(path)
    entry = table[name]
    if entry["dtype"] not in dtypes:
        raise ValueError(
            f"{name!r} in {path} is {entry['dtype']}; one of {', '.join(dtypes)} is needed"
        )
    offset = begin + entry["data_offsets"][0]
    return map_array(path, dtypes[entry["dtype"]], tuple(entry["shape"]), offset)


def read_shard_header(path: Path, kind: Kind) -> ShardHeader:
    """What a shard says of itself; the file is whole in length, its bytes are not checked.

    Raises:
        ValueError: If the file is cut short or not a shard.
        FileNotFoundError: If there is no such file.
    """
    _, metadata, _ = read_tensor_table(path)
    if _header_key(kind) not in metadata:
        raise ValueError(f"{path} is not a shard of {kind.format!r}")
    return ShardHeader(**json.loads(metadata[_header_key(kind)]))


def read_labels(path: Path) -> NDArray[np.int64]:
    """The labels of a shard, (rows,)."""
    return map_tensor(path, "labels").rows


def verify_shard(path: Path, checksum: str, kind: Kind) -> None:
    """Read a shard and compare it with the checksum that the manifest keeps.

    Raises:
        ValueError: If it is cut short or altered.
    """
    table, _, begin = read_tensor_table(path)
    pieces = []
    for name in sorted(table, reverse=True):
        first, end = table[name]["data_offsets"]
        pieces.append(map_array(path, np.dtype(np.uint8), (end - first,), begin + first).rows)
    found = digest(*pieces)
    if found != checksum:
        raise ValueError(
            f"{path} was altered after it was written: checksum {found}, expected {checksum}; "
            f"delete this file and manifest.json, then run {kind.call} again: only this shard is "
            "made anew"
        )
