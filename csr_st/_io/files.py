"""Files that appear completely or not at all, and the refusal of files of a newer format."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# What a file system answers that cannot flush a directory, or where one may write but not list
NO_DIRECTORY_SYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EPERM)

_LONGEST_NAME = 255  # bytes that a file system takes; fewer characters where it counts these


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which is flushed and renamed to ``path`` after the block.

    When the block raises, what it wrote is removed and ``path`` is as it was. A process that has
    the old file mapped keeps the old content. What a killed process wrote stays, see
    `target_of_part`.

    Raises:
        OSError: If the disk is full or refuses; names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.name}.{uuid.uuid4().hex}.part"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{uuid.uuid4().hex}.part"
    part = path.with_name(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        # A write that fails names no file, and an open that fails names the part
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def target_of_part(name: str) -> str | None:
    """The name of the file that an `atomic_path` of this name becomes, where it says so."""
    found = re.fullmatch(r"\.(.+)\.[0-9a-f]{32}\.part", name, re.DOTALL)
    return None if found is None else found[1]


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
    if os.name != "posix":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC:
            raise


class FileState(NamedTuple):
    """What changes when a file is replaced or written to.

    Attributes:
        inode: Number of the file; another one after it was replaced by a rename.
        size: In bytes.
        mtime_ns: Time of the last change.
    """

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """The state of a file; a FileNotFoundError if there is none."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


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
