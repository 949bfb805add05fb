"""Imports the compiled kernels: numba is optional, and its first compilation takes a while."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from csr_st._io.compiling import lasting

logger = logging.getLogger(__name__)

_compiled = threading.Event()


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


@contextlib.contextmanager
def announced_compilation() -> Iterator[None]:
    """Log what takes so long if the block has to compile first."""
    if _compiled.is_set():
        yield
        return
    timer = threading.Timer(
        2.0,  # seconds
        lambda: logger.warning("compiling the search kernels; %s", lasting()),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
        _compiled.set()
    finally:
        timer.cancel()
