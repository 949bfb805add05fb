"""Files of rows as Arrow tables: .jsonl, .json, .csv, .tsv, .txt and .parquet, also compressed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
from pyarrow import parquet

from csr_st.data.delimited import read_delimited
from csr_st.data.header import is_known
from csr_st.data.json_rows import read_json
from csr_st.data.spool import BATCH_ROWS, spooled, united
from csr_st.data.streams import COMPRESSIONS, ending_of, lines, open_bytes

IMAGES = b"csr_st.images"  # in a table's metadata: names of its columns of images, as JSON
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")


def read_tables(paths: Sequence[Path], wanted: Collection[str] = ()) -> Any:
    """The rows of files of one kind, one file after the other, as one pyarrow Table.

    Columns that `datasets` wrote to .parquet as images are named in the metadata, see `IMAGES`.

    Args:
        paths: The files; a file without an ending is JSON lines or one text a line.
        wanted: Names of columns that the caller will ask for; see `read_delimited`.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file cannot be read, naming it, its line and the fix, or files have
            different columns.
    """
    tables = [read_table(path, wanted) for path in paths]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if ending_of(path) in (".csv", ".tsv", ".parquet") and (
            sorted(table.column_names) != sorted(tables[0].column_names)
        ):
            raise ValueError(
                f"{path} has the columns {table.column_names}, {paths[0]} has "
                f"{tables[0].column_names}; pass files of the same columns"
            )
    return tables[0] if len(tables) == 1 else united(tables)


def read_table(path: Path, wanted: Collection[str] = ()) -> Any:
    """The rows of one file as a pyarrow Table with at least one row; raises as `read_tables`."""
    ending = ending_of(path)
    if ending not in ("", *ENDINGS):
        raise ValueError(
            f"{path}: {ending!r} is not one of {sorted(ENDINGS)}, which may be compressed "
            f"({', '.join(COMPRESSIONS)}){_advice(ending)}"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; it must have at least one row")
    if ending in (".csv", ".tsv"):
        table = read_delimited(path, wanted)
    elif ending == ".parquet":
        table = spooled(_parquet(path))
    elif ending == ".txt" or (not ending and _is_text(path)):
        table = spooled(_texts(path))
    else:
        table = read_json(path)
    if not table.column_names:
        raise ValueError(f"{path} has rows without any column")
    if not len(table):
        raise ValueError(
            f"{path} has the columns {table.column_names} and no rows; it must have at least one"
        )
    return table


def _advice(ending: str) -> str:
    if ending in (".xlsx", ".xls", ".ods"):
        return "; save the sheet as CSV (UTF-8)"
    return "; unpack it" if ending in (".zip", ".tar", ".tgz", ".7z") else ""


def _is_text(path: Path) -> bool:
    """Whether a file without an ending is one text a line, not JSON; refuses a table."""
    first = next((line for line in lines(path) if line.strip()), "")
    if first.lstrip().startswith(("{", "[")):
        return False
    for separator, ending in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv")):
        if separator in first and is_known(first.split(separator)):
            raise ValueError(
                f"standard input looks like a table, as its first line is {first!r:.80}; pass "
                f"-{ending} instead of -"
            )
    return True


def _texts(path: Path) -> Iterator[Any]:
    """One text a line; an empty line is a text without words."""
    batch: list[str] = []
    blank = True
    for line in lines(path):
        batch.append(line)
        blank = blank and not line.strip()
        if len(batch) == BATCH_ROWS:
            yield pa.table({"text": pa.array(batch, pa.string())})
            batch = []
    if blank:
        raise ValueError(f"{path} has only blank lines; it must have at least one text")
    yield pa.table({"text": pa.array(batch, pa.string())})


def _parquet(path: Path) -> Iterator[Any]:
    with open_bytes(path) as content:
        as_a_whole = path.suffix.lower() in COMPRESSIONS
        source = pa.BufferReader(content.read()) if as_a_whole else str(path)
    try:
        file = parquet.ParquetFile(source)
        names = file.schema_arrow.names
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{path} has two columns {repeated!r}; rename one")
        yield _plain(file.schema_arrow.empty_table())
        for batch in file.iter_batches(BATCH_ROWS):
            yield _plain(pa.Table.from_batches([batch]))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as .parquet: {error}") from error


def _plain(table: Any) -> Any:
    """The table with plain strings in place of dictionaries and views, which `datasets` lacks."""
    kinds = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}
    for place, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        kind = kinds.get(str(kind), kind)
        if kind != field.type:
            column = table.column(place).cast(kind)
            table = table.set_column(place, field.with_type(kind), column)
    names = _images(table.schema)
    return table.replace_schema_metadata({IMAGES: json.dumps(names)} if names else None)


def _images(schema: Any) -> list[str]:
    """Columns that `datasets` wrote as images, which it says in the metadata of the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [name for name in schema.names if features[name]["_type"] == "Image"]
    except (ValueError, TypeError, KeyError, RecursionError):  # written by another program
        return []
