"""The corpus of the demonstration: docstrings of the installed Python packages.

The summary line of a docstring is a query, the rest its document. Files are parsed, not imported.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (  # dependencies of this package, from the fastest to the slowest to parse
    "numpy",
    "huggingface_hub",
    "datasets",
    "accelerate",
    "sentence_transformers",
    "scipy",
    "sklearn",
    "pandas",
    "torch",
    "transformers",
)
SKIPPED = {"tests", "test", "testing", "_vendor", "site-packages", "idlelib", "turtledemo"}
MIN_SUMMARY_WORDS = 4
MIN_DOCUMENT_CHARACTERS = 120
MAX_DOCUMENT_CHARACTERS = 400


@dataclass(frozen=True)
class Entry:
    """One documented function or class.

    Attributes:
        name: Dotted path of the file and the object's name, such as "shutil.copytree".
        summary: First line of the docstring.
        document: The rest, at most 400 characters.
    """

    name: str
    summary: str
    document: str


def gather(limit: int = 8000) -> list[Entry]:
    """The first ``limit`` documented functions and classes, distinct in summary and document."""
    entries: list[Entry] = []
    seen: set[str] = set()
    for path, place in _files():
        for entry in _documented(path, place):
            if entry.summary not in seen and entry.document not in seen:
                seen.update((entry.summary, entry.document))
                entries.append(entry)
        if len(entries) >= limit:
            break
    return entries[:limit]


def _files() -> Iterator[tuple[Path, str]]:
    """Every source file with its dotted path."""
    roots = {Path(sysconfig.get_path("stdlib")): ""}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            roots[Path(spec.origin).parent] = f"{name}."
    for root, prefix in roots.items():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if not SKIPPED & set(parts):
                yield path, (prefix + ".".join(parts)).removesuffix(".__init__")


def _documented(path: Path, place: str) -> Iterator[Entry]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        summary, _, rest = (ast.get_docstring(node) or "").partition("\n")
        document = " ".join(rest.split())[:MAX_DOCUMENT_CHARACTERS]
        if len(summary.split()) >= MIN_SUMMARY_WORDS and len(document) >= MIN_DOCUMENT_CHARACTERS:
            yield Entry(f"{place}.{node.name}", summary.strip(), document)
