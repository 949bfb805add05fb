"""Each file says which extra has the framework that it needs."""

from __future__ import annotations

import subprocess
import sys

PACKAGES = {
    "langchain": ("langchain_core", "langchain"),
    "llama_index": ("llama_index", "llama-index"),
    "haystack": ("haystack", "haystack"),
    "haystack_components": ("haystack", "haystack"),
    "haystack_metadata": ("haystack", "haystack"),
    "txtai": ("txtai", "txtai"),
}
PROGRAM = """
import importlib, sys
for room, package in zip(sys.argv[1::2], sys.argv[2::2]):
    sys.modules[package] = None  # as if it was not installed
    try:
        importlib.import_module(f"csr_st.frameworks.{room}")
    except ImportError as error:
        print(error)
"""


def test_the_extra_is_named():
    named = [part for room, (package, _) in PACKAGES.items() for part in (room, package)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *named], capture_output=True, text=True, check=True
    )
    fixes = [line.split(": ")[1] for line in done.stdout.splitlines()]
    assert fixes == [f'pip install "csr-st[{extra}]"' for _, extra in PACKAGES.values()]
