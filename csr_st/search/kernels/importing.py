"""Imports the compiled kernels: numba is optional, and its first compilation takes a while."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from csr_st._io.compiling import lasting

logger = logging.getLogger(__name__)

_compiled: set[str] = set()
_NOTHING = contextlib.nullcontext()


@lru_cache
def load_kernels(name: str) -> Any:
    """The module ``name`` of `csr_st.search.kernels`.

    Raises:
        ImportError: If numba is not installed.
    """
    try:
        return importlib.import_module(f"csr_st.search.kernels.{name}")
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != "numba":
            raise
        raise ImportError(
            'the search needs numba: pip install "csr-st[search]"', name="numba"
        ) from error


def announced_compilation(what: str) -> contextlib.AbstractContextManager[None]:
    """Log what takes so long if the block, which has a name, has to compile first."""
    return _NOTHING if what in _compiled else _announced(what)


@contextlib.contextmanager
def _announced(what: str) -> Iterator[None]:
    timer = threading.Timer(
        2.0,  # seconds
        lambda: logger.warning("compiling the search kernels; %s", lasting()),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
        _compiled.add(what)
    finally:
        timer.cancel()
