"""Rows of JSON: an object a line (.jsonl, .ndjson), or one array of objects (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

from csr_st.data.spool import BATCH_CHARACTERS, BATCH_ROWS, column_of, spooled
from csr_st.data.streams import ending_of, lines, open_text


def read_json(path: Path) -> Any:
    """The rows of a file of JSON as a pyarrow Table; texts alone are a column "text".

    Rows may have different keys: what a row lacks is None.

    Raises:
        ValueError: If a line is not a JSON object, naming it.
    """
    return spooled(_tables(path))


def objects(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value of a file of JSON with its place, such as "line 3" or "entry 2".

    Raises:
        ValueError: If a line is not JSON.
    """
    start = next((line.lstrip() for line in lines(path) if line.strip()), "")
    if start.startswith("[") or start.rstrip() == "{":
        with open_text(path) as text:
            content = text.read()
        try:
            whole = json.loads(content)
        except (ValueError, RecursionError):
            whole = None  # one value a line, or not JSON: said below, with the line
        if whole is not None:
            whole = whole if isinstance(whole, list) else [whole]
            yield from ((f"entry {place}", item) for place, item in enumerate(whole))
            return
    for number, line in enumerate(lines(path), start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{path} cannot be read as {ending_of(path) or '.jsonl'}: line {number} is not "
                    f"JSON: {error}"
                ) from error


def _tables(path: Path) -> Iterator[Any]:
    batch: list[dict[str, Any]] = []
    size = 0
    kind = None
    for place, item in objects(path):
        row = {"text": item} if isinstance(item, str) else item
        kind = kind or type(item)
        if not isinstance(row, dict) or type(item) is not kind:
            raise ValueError(
                f"{path}, {place} is {item!r:.60} ({type(item).__name__}); each row must be an "
                'object, as in {"text": "..."}'
            )
        _check_text(path, place, row)
        batch.append(row)
        size += sum(len(value) if isinstance(value, str | list) else 1 for value in row.values())
        if len(batch) == BATCH_ROWS or size > BATCH_CHARACTERS:
            yield _table(batch)
            batch, size = [], 0
    if kind is None:
        raise ValueError(f"{path} has no rows; it must have at least one")
    if batch:
        yield _table(batch)


def _check_text(path: Path, place: str, row: dict[str, Any]) -> None:
    """Refuse half of a character: JSON may have it, no text in UTF-8 can."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path}, {place} has half of a surrogate pair ({error.object[error.start]!r}), which "
            "is no character; remove it"
        ) from None


def _table(rows: list[dict[str, Any]]) -> Any:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: column_of(name, [row.get(name) for row in rows]) for name in names})
