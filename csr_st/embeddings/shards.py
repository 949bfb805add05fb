"""One shard of a store: a safetensors file of consecutive rows with its checksum in the header."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as serialize_arrays

from csr_st._files import write_atomically
from csr_st.embeddings.parts import Part, map_array

SHARD_FORMAT = "csr_st.embeddings.shard"
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
        dtype: "float16" or "float32".
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
    number: int,
    vectors: NDArray[np.floating[Any]],
    items: str,
    labels: NDArray[np.int64] | None,
    label_names: list[str] | None,
) -> None:
    """Write a shard, whole or not at all.

    Raises:
        OSError: If the disk is full or refuses; nothing half-written stays.
    """
    arrays: dict[str, NDArray[Any]] = {"vectors": np.ascontiguousarray(vectors)}
    if labels is not None:
        arrays["labels"] = labels
    rows, dim = vectors.shape
    header = ShardHeader(
        number, rows, dim, str(vectors.dtype), items, digest(*arrays.values()), label_names
    )
    # One key alone: safetensors writes several in random order, and equal shards shall be equal.
    metadata = {SHARD_FORMAT: json.dumps(asdict(header))}
    path = shard_path(directory, number)
    try:
        write_atomically(path, serialize_arrays(arrays, metadata=metadata))
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path} ({vectors.nbytes:,} bytes): {error.strerror}. The shards before "
            "it are whole: make room and run the same call again to go on",
        ) from error


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


def map_tensor(path: Path, name: str) -> Part:
    """Map one tensor of a safetensors file.

    Raises:
        ValueError: If the file is damaged or the tensor's type is not a number that numpy has.
    """
    table, _, begin = read_tensor_table(path)
    entry = table[name]
    if entry["dtype"] not in TENSOR_DTYPES:
        raise ValueError(
            f"{name!r} in {path} is {entry['dtype']}; one of {', '.join(TENSOR_DTYPES)} is needed"
        )
    offset = begin + entry["data_offsets"][0]
    return map_array(path, TENSOR_DTYPES[entry["dtype"]], tuple(entry["shape"]), offset)


def read_shard_header(path: Path) -> ShardHeader:
    """What a shard says of itself; the file is whole in length, its bytes are not checked.

    Raises:
        ValueError: If the file is cut short or not a shard.
        FileNotFoundError: If there is no such file.
    """
    _, metadata, _ = read_tensor_table(path)
    if SHARD_FORMAT not in metadata:
        raise ValueError(f"{path} is not a shard of an embedding store")
    return ShardHeader(**json.loads(metadata[SHARD_FORMAT]))


def read_labels(path: Path) -> NDArray[np.int64]:
    """The labels of a shard, (rows,)."""
    return map_tensor(path, "labels").rows


def verify_shard(path: Path, checksum: str) -> None:
    """Read a shard and compare it with the checksum that the manifest keeps.

    Raises:
        ValueError: If it is cut short or altered.
    """
    table, _, _ = read_tensor_table(path)
    found = digest(
        *(map_tensor(path, name).rows for name in ("vectors", "labels") if name in table)
    )
    if found != checksum:
        raise ValueError(
            f"{path} was altered after it was written: checksum {found}, expected {checksum}; "
            "delete this file and manifest.json, then run embed again: only it is embedded anew"
        )
