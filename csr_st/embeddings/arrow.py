"""Columns of vectors in Arrow and parquet files and in datasets saved to disk.

Arrow keeps a list column's numbers in one buffer, which is used where it lies; parquet encodes
them, so they are decoded into memory once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.embeddings.formats import choose_column, opened
from csr_st.embeddings.opening import Opened
from csr_st.embeddings.parts import Part


def open_arrow(path: Path, column: str | None, label_column: str | None) -> Opened:
    """Open a parquet, Arrow or feather file.

    Raises:
        ValueError: If the file is damaged, or the column missing or no matrix.
    """
    import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no type information

    try:
        schema, read = _reader(path)
        column = _column_of(path, schema, column, label_column)
        table = read([name for name in (column, label_column) if name is not None])
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is cut short or not such a file: {error}") from error
    return _of_table(path, table, column, label_column, None, [path])


def open_dataset(path: Path, column: str | None, label_column: str | None) -> Opened:
    """Open a directory that ``datasets.Dataset.save_to_disk`` wrote.

    Raises:
        ValueError: If the column is missing or no matrix.
    """
    from datasets import load_from_disk

    dataset = load_from_disk(str(path))
    table = dataset.data.table
    column = _column_of(path, table.schema, column, label_column)
    names = getattr(dataset.features.get(label_column), "names", None) if label_column else None
    files = sorted(path.glob("*.arrow"))
    return _of_table(path, table, column, label_column, names, files)


def _reader(path: Path) -> tuple[Any, Any]:
    """The schema of a file and a function from column names to their table."""
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        file = parquet.ParquetFile(path, memory_map=True)
        return file.schema_arrow, lambda names: file.read(columns=names)
    source = pa.memory_map(str(path))
    try:
        batches = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:  # `datasets` and streams write the format without a footer
        source.seek(0)
        batches = pa.ipc.open_stream(source).read_all()
    return batches.schema, batches.select


def _column_of(path: Path, schema: Any, column: str | None, label_column: str | None) -> str:
    import pyarrow as pa

    for wanted in (column, label_column):
        if wanted is not None and wanted not in schema.names:
            raise ValueError(f"{wanted!r} is not a column of {path}; it has {schema.names}")
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    candidates = [
        field.name
        for field in schema
        if any(kind(field.type) for kind in lists) and pa.types.is_floating(field.type.value_type)
    ]
    if column is None:
        return choose_column(path, candidates, list(schema.names))
    if column not in candidates:
        raise ValueError(
            f"column {column!r} of {path} is {schema.field(column).type}; a list of floating-point "
            "numbers is needed"
        )
    return column


def _of_table(
    path: Path,
    table: Any,
    column: str,
    label_column: str | None,
    names: list[str] | None,
    files: list[Path],
) -> Opened:
    chunks = [chunk for chunk in table.column(column).chunks if len(chunk)]
    if not chunks:
        raise ValueError(f"column {column!r} of {path} is empty")
    parts = [Part(_matrix_of(path, column, chunk)) for chunk in chunks]
    labels = None
    if label_column is not None:
        labels = table.column(label_column).to_pylist()
    return opened(path, parts, labels, names, files)


def _matrix_of(path: Path, column: str, chunk: Any) -> NDArray[Any]:
    """(n, dim) numbers of one chunk of a list column, where they lie.

    Raises:
        ValueError: If a row or number is null, or rows differ in length.
    """
    if chunk.null_count:
        row = int(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"column {column!r} of {path} has no vector in row {row}; drop such rows")
    numbers = chunk.flatten()  # the numbers of the rows of this chunk alone, not a copy
    if numbers.null_count:
        raise ValueError(f"column {column!r} of {path} has nulls inside vectors; drop such rows")
    if len(numbers) % len(chunk) or not _even(chunk):
        lengths = np.unique(chunk.value_lengths().to_numpy(zero_copy_only=False))
        raise ValueError(
            f"column {column!r} of {path} has vectors of different widths: {lengths[:5].tolist()}"
        )
    return np.asarray(numbers.to_numpy()).reshape(len(chunk), -1)


def _even(chunk: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(chunk.type):
        return True
    return len(np.unique(np.diff(chunk.offsets.to_numpy()))) == 1
