"""numba's ``njit`` for this package: the one place that decides whether compiled loops are cached.

numba keeps compiled code in the package's folder, in the home folder, or in NUMBA_CACHE_DIR. In a
container there may be none of them that can be written to; then each process compiles anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

_uncached = threading.Event()  # a loop of this process could not be cached
_held = threading.Event()  # `_hold_compiler_while_forking` was called
_FIX = "set NUMBA_CACHE_DIR to a writable folder"


def njit(cache: bool = False, **options: Any) -> Callable[[F], F]:
    """``numba.njit``, whose cache on disk is used where that is possible.

    Args:
        cache: Keep compiled code on disk.
        options: As for ``numba.njit``.

    Raises:
        ImportError: If numba is not installed.
    """
    import numba

    _hold_compiler_while_forking()

    def decorate(function: F) -> F:
        compiled: Any = numba.njit(**options)(function)
        if not cache:
            return cast(F, compiled)
        try:
            compiled.enable_caching()
        except (RuntimeError, OSError) as error:  # RuntimeError: "no locator available"
            _warn(error)
        else:
            _stamp(compiled._cache, function.__code__.co_filename)
            compiled._cache = _TolerantCache(compiled._cache)
        return cast(F, compiled)

    return decorate


def lasting() -> str:
    """How long the result of a compilation is kept, for messages."""
    if _uncached.is_set():
        return f"this happens once in each process; {_FIX} to keep the result"
    return "this happens once, the result is cached on disk"


class _TolerantCache:
    """A numba cache whose damaged, unreadable or unwritable files cost a compilation, not an error.

    numba itself raises what unpickling a damaged file raises, or the OSError of a full disk.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *arguments: Any) -> Any:
        """The compiled code; None if it is not cached or cannot be read."""
        try:
            return self._cache.load_overload(*arguments)
        except Exception as error:  # unpickling raises anything
            logger.info("a file of numba's cache in %s is damaged: %s", self.cache_path, error)
        try:
            self._cache.flush()  # so that it is written again
        except OSError as error:
            _warn(error)
        return None

    def save_overload(self, *arguments: Any) -> None:
        """Keep compiled code, if the disk allows."""
        try:
            self._cache.save_overload(*arguments)
        except Exception as error:  # it reads the damaged file again
            _warn(error)


def _stamp(cache: Any, source: str) -> None:
    """Make a cache good only for the sources of this moment.

    numba looks at the size and date of the function's own file. Installed files may all have one
    date, and a loop has the constants and the loops of other files compiled in.
    """
    index = cache._cache_file
    index._source_stamp = (index._source_stamp, _digest_of_sources(os.path.dirname(source)))


@lru_cache
def _digest_of_sources(folder: str) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".py"):
            with open(os.path.join(folder, name), "rb") as file:
                state.update(file.read())
    return state.hexdigest()


def _warn(error: Exception) -> None:
    if not _uncached.is_set():
        _uncached.set()
        logger.warning(
            "numba's cache cannot be written, so each process compiles again, which takes up to a "
            "minute: %s (%s)",
            _FIX,
            error,
        )


def _hold_compiler_while_forking() -> None:
    """Let a fork wait for another thread's compilation, whose lock the child could never take."""
    if _held.is_set() or not hasattr(os, "register_at_fork"):
        return
    _held.set()
    from numba.core.compiler_lock import global_compiler_lock as lock

    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
    )
