"""Rows on their way from a file of text to Arrow, in a temporary file that is mapped into memory.

So a corpus larger than the memory can be read. The file has no name and goes with the last table.
"""

from __future__ import annotations

import itertools
import json
import mmap
import tempfile
from collections.abc import Iterable
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

BATCH_ROWS = 10_000
BATCH_CHARACTERS = 1 << 24


def spooled(tables: Iterable[Any]) -> Any:
    """Arrow tables one after the other as one table, whose columns are those of all.

    A column of numbers is of the widest type; one that mixes types is JSON (`datasets.Json`).

    Raises:
        ValueError: If a column mixes types and this version of `datasets` has no JSON columns.
        OSError: If the disk for temporary files is full.
    """
    with tempfile.TemporaryFile(prefix="csr-st-") as file:
        ends = [0]
        for table in tables:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
            ends.append(file.tell())
        file.flush()
        content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    places = itertools.pairwise(ends)
    parts = [pa.ipc.open_stream(content[start:end]).read_all() for start, end in places]
    return united(parts)


def united(parts: list[Any]) -> Any:
    """Tables one below the other as one, as `spooled` describes, with metadata of the first."""
    names = dict.fromkeys(name for part in parts for name in part.column_names)
    columns = {name: _united_column(name, parts) for name in names}
    return pa.table(columns, metadata=parts[0].schema.metadata)


def _united_column(name: str, parts: list[Any]) -> Any:
    tables = [
        part.select([name]) if name in part.column_names else _nulls(name, len(part))
        for part in parts
    ]
    try:
        return pa.concat_tables(tables, promote_options="permissive").column(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        why = " and ".join(sorted({str(table.schema[0].type) for table in tables}))
        columns = [table.column(0) for table in tables]
        return pa.chunked_array(
            [
                chunk if _is_json(chunk.type) else as_json(name, chunk.to_pylist(), why)
                for column in columns
                for chunk in column.chunks
            ]
        )


def _is_json(kind: Any) -> bool:
    return getattr(kind, "extension_name", "") == "arrow.json"


def _nulls(name: str, n: int) -> Any:
    return pa.table({name: pa.nulls(n)})


def column_of(name: str, values: list[Any]) -> Any:
    """Python values as an Arrow array; as JSON where no other type has them all."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        return as_json(name, values, str(error))


def as_json(name: str, values: list[Any], why: str) -> Any:
    """Values of several types as an Arrow array of JSON.

    Raises:
        ValueError: If this version of `datasets` has no such columns.
    """
    import datasets

    if not hasattr(datasets, "Json"):
        raise ValueError(
            f"column {name!r} mixes types ({why}); write its values as one type, or "
            "`pip install -U datasets`"
        )
    texts = [None if value is None else json.dumps(_readable(value)) for value in values]
    return pa.array(texts, pa.string()).cast(pa.json_())


def _readable(value: Any) -> Any:
    """A value as `datasets` reads it from JSON: a number beyond 64 bits, which it cuts, as text."""
    if isinstance(value, dict):
        return {name: _readable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_readable(part) for part in value]
    if isinstance(value, int) and not -(2**63) < value < 2**63:
        return str(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)
