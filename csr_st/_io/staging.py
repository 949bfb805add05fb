"""Folders of several files that appear together: written beside, then moved into place."""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = ".lock"  # held while its folder is in use, and free once the process has ended


@contextmanager
def staging(
    place: Path, prefix: str, needed: Callable[[Path], bool] = lambda _: False
) -> Iterator[Path]:
    """A new hidden folder in ``place`` to write to, which is removed after the block.

    What killed processes left there under the same prefix is removed too.

    Args:
        place: Where to make it; made when missing, and removed again when the block raises.
        prefix: Begin of the folder's name.
        needed: Whether a folder must stay.
    """
    is_new = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place, prefix, needed)
    folder = place / f"{prefix}{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir()
        with FileLock(folder / LOCK_NAME):
            yield folder
    finally:
        if not needed(folder):
            shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it has files: the block succeeded
                place.rmdir()


def _remove_abandoned(place: Path, prefix: str, needed: Callable[[Path], bool]) -> None:
    for left in place.glob(f"{glob.escape(prefix)}*"):
        with suppress(Timeout, OSError), FileLock(left / LOCK_NAME, timeout=0):
            if not needed(left):
                shutil.rmtree(left, ignore_errors=True)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and its folders, relative to it, without the lock."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if path != Path(LOCK_NAME)]


def sync_files(folder: Path) -> None:
    """Make the files of a folder survive a power cut."""
    for name in files_in(folder):
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
