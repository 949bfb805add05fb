"""One writer at a time on a store."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from pathlib import Path

LOCK = ".lock"


class WriterLock:
    """A lock file with the writer's process and host, held through the operating system.

    The system lets a dead process's lock go by itself, so one that a crash left behind is taken
    over. A file of another host is not: the system may not know whether that host still writes.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: If another process holds it, naming process and host.
        """
        while self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._hold(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            # A writer that ended between the two steps above has removed the file we now hold.
            if _is_file(descriptor, self._path):
                self._descriptor = descriptor
            else:
                os.close(descriptor)
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode()
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, owner)

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if self._descriptor is not None:
            # Removed before it is let go: nobody can hold the name and another file with it.
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _hold(self, descriptor: int) -> None:
        owner: dict[str, object] = {}
        with contextlib.suppress(ValueError):
            owner = dict(json.loads(os.read(descriptor, 4096) or b"{}"))
        host = owner.get("host", socket.gethostname())
        if not _try_lock(descriptor) or host != socket.gethostname():
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"another process writes this store: process {owner.get('pid', '?')} on host "
                f"{host}. Wait for it or pass another path; when it is surely gone, delete "
                f"{self._path}",
            )


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # only POSIX has it; elsewhere the file alone is a sign, not a lock
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
