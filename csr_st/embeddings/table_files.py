"""Vectors in files of tables: Parquet, Arrow, CSV, JSON lines, and saved data sets.

A vector is a list in one column, or one column a dimension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.data.streams import ending_of
from csr_st.embeddings.vector_file import VectorFile

NUMBERED = re.compile(r"(.*?)(\d+)")
BLOCK_BYTES = 1 << 25  # a line of text must fit in a block
FIRST_BYTES = 1 << 20  # of which the first two lines are looked at


def open_parquet(path: Path, label: str | None = None) -> VectorFile:
    """A Parquet file, read."""
    from pyarrow import parquet  # type: ignore[import-untyped]  # it ships no type information

    file = parquet.ParquetFile(path, memory_map=True)
    schema = file.schema_arrow
    return _columns(path, schema, lambda name: file.read([name]).column(name), label)


def open_arrow(path: Path, label: str | None = None) -> VectorFile:
    """An Arrow file or stream, or a Feather file; mapped, where not compressed."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:  # `datasets` and streams write the format without a footer
        source.seek(0)
        table = pa.ipc.open_stream(source).read_all()
    return _columns(path, table.schema, table.column, label)._replace(mapped=True)


def open_saved_dataset(path: Path, label: str | None = None) -> VectorFile:
    """The folder of ``Dataset.save_to_disk``, mapped.

    Raises:
        ValueError: If it is damaged, or has splits.
    """
    import datasets

    if (path / "dataset_dict.json").exists():
        splits = sorted(folder.parent.name for folder in path.glob("*/state.json"))
        raise ValueError(
            f"{path} is a data set with the splits {splits}: pass the folder of one"
            + (f", such as {path / splits[0]}" if splits else "")
        )
    data = datasets.load_from_disk(str(path.absolute()))
    table = data.data.table
    columns = _columns(path, table.schema, table.column, label)
    names = {name: getattr(feature, "names", None) for name, feature in data.features.items()}
    return columns._replace(label_names=names.get, mapped=True)


def open_csv(path: Path, label: str | None = None) -> VectorFile:
    """A .csv or .tsv file, with or without a line of names; read."""
    import pyarrow as pa
    from pyarrow import csv

    with pa.input_stream(str(path), compression="detect") as stream:
        start = stream.read(FIRST_BYTES).decode("utf-8-sig", errors="replace")
    first, second = (*start.splitlines(), "", "")[:2]
    delimiter = "\t" if ending_of(path) == ".tsv" else ";" if ";" in first else ","
    headless = _is_headless([field.strip(' "') for field in first.split(delimiter)])
    with pa.input_stream(str(path), compression="detect") as stream:
        table = csv.read_csv(
            stream,
            csv.ReadOptions(block_size=BLOCK_BYTES, autogenerate_column_names=headless),
            csv.ParseOptions(delimiter=delimiter),
            csv.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                column_types={} if label is None else {label: pa.string()},
                decimal_point="," if delimiter == ";" and "," in second else ".",
            ),
        )
    return _text_columns(path, table, label)


def _is_headless(first: list[str]) -> bool:
    """Whether the fields of the first line are data: numbers, but not 0, 1, 2, ... as in pandas."""
    numbers = [field for field in first if _is_number(field)]
    return bool(numbers) and numbers != [str(number) for number in range(len(numbers))]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def open_json(path: Path, label: str | None = None) -> VectorFile:
    """A .jsonl or .ndjson file of objects or lists, or a .json file with one list of them; read."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    with pa.input_stream(str(path), compression="detect") as stream:
        content = stream.read().removeprefix(b"\xef\xbb\xbf").lstrip()
    rows = _whole_list(content) if ending_of(path) == ".json" else None
    if rows is not None:
        table = pa.Table.from_pylist(
            [row if isinstance(row, dict) else {"vectors": row} for row in rows]
        )
    else:
        if content.startswith(b"["):
            content = b"".join(_as_object(*line) for line in enumerate(content.split(b"\n")))
        options = arrow_json.ReadOptions(block_size=BLOCK_BYTES)
        table = arrow_json.read_json(pa.BufferReader(content), options)
    return _text_columns(path, table, label)


def _whole_list(content: bytes) -> list[Any] | None:
    """The rows of a document that is one list of lists or objects, or None if it is lines."""
    try:
        rows = json.loads(content) if content.startswith(b"[") else None
    except ValueError:
        return None
    return rows if rows and isinstance(rows[0], list | dict) else None


def _as_object(number: int, line: bytes) -> bytes:
    """A line that is a list of numbers, as an object with it."""
    line = line.strip()
    is_list = line.startswith(b"[") and line.endswith(b"]") and b"}" not in line
    if line and not is_list:
        raise ValueError(f"line {number + 1} is {line[:60]!r}, not a list of numbers as line 1 is")
    return b'{"vectors":%s}\n' % line if line else b""


def _text_columns(path: Path, table: Any, label: str | None) -> VectorFile:
    """Columns of text, whose types were inferred: whole numbers may be meant as vectors."""
    import pyarrow as pa

    names = table.schema.names
    if not len(table):
        raise ValueError(f"{path} has no rows below its names {names[:20]}")
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has two columns of one name: {names[:20]}")
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            parse = _whole_numbers if field.name == label else _lists
            table = table.set_column(place, field.name, parse(path, field.name, table[place]))
    return _columns(path, table.schema, table.column, label, any_number=True)


def _whole_numbers(_path: Path, _name: str, column: Any) -> Any:
    """A column of texts as whole numbers, if they all are, or as it is: "01" is not 1."""
    import pyarrow as pa

    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column
    return numbers if numbers.cast(pa.string()).equals(column) else column


def _lists(path: Path, name: str, column: Any) -> Any:
    """A column of texts such as "[0.1, 0.2]", as pandas writes lists, as a column of lists."""
    import pyarrow as pa
    from pyarrow import compute

    if (
        column.null_count == len(column)
        or not compute.all(compute.starts_with(column, "[")).as_py()
    ):
        return column
    rows = []
    for row, text in enumerate(column.to_pylist()):
        try:
            rows.append(None if text is None else [float(number) for number in json.loads(text)])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"column {name!r} of {path}, row {row}: {text!r:.60} is not a list of numbers "
                f"({error}); write the vectors with numpy.save or to Parquet"
            ) from error
    return pa.chunked_array([pa.array(rows, pa.list_(pa.float32()))])


def _columns(
    path: Path,
    schema: Any,
    read: Callable[[str], Any],
    label: str | None,
    any_number: bool = False,
) -> VectorFile:
    """The columns of a table; with ``any_number`` lists of whole numbers can be vectors too."""
    import pyarrow as pa

    lists = {
        field.name: field.type.value_type
        for field in schema
        if isinstance(field.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    }
    floats = [name for name, kind in lists.items() if pa.types.is_floating(kind)]
    whole = pa.types.is_integer if any_number else lambda kind: kind in (pa.int8(), pa.uint8())
    others = [name for name, kind in lists.items() if whole(kind)]
    wide = _wide_columns([field for field in schema if field.name != label])

    def checked(name: str) -> Any:
        column = read(name)
        column.validate(full=True)  # the offsets of a damaged file may point anywhere
        return column

    def load(name: str) -> list[NDArray[Any]]:
        if name in wide and name not in schema.names:
            return [_side_by_side(path, wide[name], checked)]
        if name not in (*floats, *others):
            raise ValueError(
                f"column {name!r} of {path} is {schema.field(name).type}; a list of "
                "floating-point numbers is needed"
            )
        chunks = [chunk for chunk in checked(name).chunks if len(chunk)]
        parts = [_numbers_of(f"column {name!r} of {path}", chunk) for chunk in chunks]
        return [part.astype(np.float32) for part in parts] if any_number else parts

    return VectorFile(
        schema.names,
        lambda: floats or others or list(wide),
        load,
        lambda name: checked(name).to_pylist(),
    )


def _numbers_of(column: str, chunk: Any) -> NDArray[Any]:
    """(n, dim) numbers of one chunk of a list column, in Arrow's own buffer."""
    from pyarrow import compute

    if chunk.null_count:
        row = int(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{column} has no vector in row {row}; drop such rows")
    numbers = chunk.flatten()  # the numbers of the rows of this chunk alone, not a copy
    if numbers.null_count:
        raise ValueError(f"{column} has nulls inside vectors; drop such rows")
    widths = compute.unique(compute.list_value_length(chunk)).to_pylist()
    if len(widths) > 1:
        raise ValueError(f"{column} has vectors of different widths: {sorted(widths)[:5]}")
    return np.asarray(numbers.to_numpy()).reshape(len(chunk), widths[0])


def _wide_columns(fields: Sequence[Any]) -> dict[str, list[str]]:
    """Groups of columns that have one dimension each, by "dim_*" for dim_0, dim_1, ...

    The numbers begin with 0 or 1 and have no gap. Without such a group all columns are one, "*",
    if all are of floating-point numbers. One column alone is no group.
    """
    import pyarrow as pa

    groups: dict[str, list[tuple[int, str]]] = {}
    for field in fields:
        if match := NUMBERED.fullmatch(field.name):
            groups.setdefault(f"{match[1]}*", []).append((int(match[2]), field.name))
    numeric = {field.name for field in fields if _is_numeric(field.type)}
    found = {}
    for prefix, group in groups.items():
        numbers, names = zip(*sorted(group), strict=True)
        whole = numbers[0] in (0, 1) and numbers == tuple(range(numbers[0], numbers[-1] + 1))
        if whole and len(group) > 1 and numeric.intersection(names):
            found[prefix] = list(names)
    if not found and len(fields) > 1 and all(pa.types.is_floating(field.type) for field in fields):
        return {"*": [field.name for field in fields]}
    return found


def _is_numeric(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _side_by_side(path: Path, names: list[str], read: Callable[[str], Any]) -> NDArray[np.float32]:
    """(n, dim) numbers of one column a dimension."""
    out = None
    for place, name in enumerate(names):
        column = read(name)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise ValueError(f"column {name!r} of {path} is empty in row {row}; drop such rows")
        if not _is_numeric(column.type):
            values = enumerate(map(str, column.to_pylist()))
            row, value = next(((r, v) for r, v in values if not _is_number(v)), (0, ""))
            raise ValueError(
                f"column {name!r} of {path} is {column.type}: {value!r:.60} in row {row}; it must "
                "be a number, as in the columns beside it"
            )
        out = np.empty((len(column), len(names)), np.float32) if out is None else out
        with np.errstate(over="ignore"):  # Inf, which is refused with its row
            out[:, place] = column.to_numpy()
    assert out is not None
    return out
