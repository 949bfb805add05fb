"""Files that appear completely or not at all, and the refusal of files of a newer format."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which is flushed and renamed to ``path`` after the block.

    When the block raises, what it wrote is removed and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make a folder and try to write into it, before hours of work that shall be kept there.

    Raises:
        OSError: If that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        reason = error.strerror or error
        raise type(error)(
            f"{folder} cannot be written to ({reason}); name another folder"
        ) from error


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a complete file, or leave what was there."""
    with atomic_path(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: str | Path, kind: type[Any] = dict) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it is damaged, or not an object (or a list, for ``kind=list``).
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{path} must contain a JSON {kind.__name__}, not {type(found).__name__}")
    return found


def refuse_newer_format(path: str | Path, version: Any, newest: int) -> None:
    """Raise a ValueError if a file's format version is not one that this csr_st reads."""
    if not isinstance(version, int) or version > newest:
        raise ValueError(
            f"{path} has format version {version!r}, this csr_st reads up to {newest}: "
            "pip install -U csr-st"
        )
