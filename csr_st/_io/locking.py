"""A lock between processes that ends with its holder, survives Ctrl-C, and is not inherited."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PAUSE = 0.02  # seconds between attempts, where the system has no call that waits

_held: dict[object, int] = {}  # descriptors; a number is used again once it is closed


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is made if it is missing.

    A thread that holds it must not ask again.

    Args:
        path: The file.
        wait: Whether to wait while another process, or thread, holds it.

    Raises:
        BlockingIOError: If another one holds it and ``wait`` is False.
        OSError: If the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    holder = object()
    _held[holder] = descriptor
    try:
        _lock(descriptor, wait)
        yield
    finally:
        if holder in _held:  # not in a fork, which has closed it
            try:
                os.close(descriptor)
            finally:
                del _held[holder]


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:
                if not wait:
                    raise BlockingIOError(error.errno, "another process holds it") from error
            time.sleep(_PAUSE)

else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _close_in_child() -> None:
    """After a fork, let go of the locks of the parent: closing does not unlock them there."""
    for descriptor in _held.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
