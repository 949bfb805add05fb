"""Clients of databases: their import, and the versions of their servers."""

from __future__ import annotations

import importlib
import re
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an engine's client.

    Raises:
        ImportError: If it is not installed, naming the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} is missing: pip install "csr-st[{extra}]"') from error


def check_version(server: str, version: str, least: tuple[int, int], fix: str) -> None:
    """Refuse a server that is too old.

    Args:
        server: The server, for the message.
        version: As the server reports it, such as "v2.4.1".
        least: Major and minor number of the oldest supported version.
        fix: What the user can do.

    Raises:
        ValueError: If the version is older, or not a version.
    """
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < least:
        raise ValueError(
            f"{server} is version {version}; csr-st needs {least[0]}.{least[1]} or newer: {fix}"
        )
