"""The file of an index: named arrays with a SHA-256 checksum in their header."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from csr_st._io.files import refuse_newer_format
from csr_st._io.tensor_files import array_bytes, open_tensors, tensor_header, write_tensors

_READ_BYTES = 2**22


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> None:
    """Write a file completely, or leave what was there."""
    header = tensor_header(arrays, metadata)
    digest = hashlib.sha256(_canonical(header))
    for name in list(header)[1:]:
        digest.update(array_bytes(arrays[name]))
    write_tensors(path, arrays, {**metadata, "sha256": digest.hexdigest()})


def read_arrays(
    path: Path, file_format: str, newest: int, verify: bool = True
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Map the arrays of a file into memory.

    They can be written to without changing the file, as pages are copied when written.

    Args:
        path: A file that `write_arrays` wrote.
        file_format: The ``format`` that its metadata must name.
        newest: The newest ``version`` that the caller reads.
        verify: Read the complete file once and compare the checksum.

    Returns:
        Arrays and metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another format, newer, cut short or altered.
    """
    file = open_tensors(path)
    metadata = dict(file.metadata)
    if metadata.get("format") != file_format:
        raise ValueError(
            f"{path} is not a {file_format} file; its format is {metadata.get('format')!r}"
        )
    version = str(metadata.get("version"))
    refuse_newer_format(path, int(version) if version.isdecimal() else version, newest)
    expected = metadata.pop("sha256", "")
    if verify:
        digest = hashlib.sha256(_canonical({"__metadata__": metadata, **file.tensors}))
        with path.open("rb") as content:
            content.seek(file.begin)
            while piece := content.read(_READ_BYTES):
                digest.update(piece)
        if digest.hexdigest() != expected:
            raise ValueError(
                f"{path} is altered: its checksum is {digest.hexdigest()[:12]}, it was written "
                f"with {expected[:12]}; build or copy it again"
            )
    # Copy-on-write rather than read-only: a read-only array is another type to numba.
    return {name: file.map(name, mode="c") for name in file.tensors}, metadata


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
