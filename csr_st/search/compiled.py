"""The way to the compiled kernels of the search: numba is optional."""

from __future__ import annotations

import importlib
from typing import Any


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
