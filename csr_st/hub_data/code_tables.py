"""Codes as rows of Parquet: a list of latents and one of values for each item, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from numpy.typing import NDArray

from csr_st.code_arrays import index_dtype
from csr_st.code_ids import ids_to_arrays
from csr_st.code_layout import CodeLayout
from csr_st.codes import SparseCodes
from csr_st.packed_codes import PackedCodes
from csr_st.residual import ResidualBits, row_bytes

ENTRIES_AT_ONCE = 1 << 22  # of a row group, which readers have in memory
MOST_SHARD_BYTES = 1 << 32
LISTS = ("indices", "values")


class Shard(NamedTuple):
    """What a shard of a store holds.

    Attributes:
        codes: Its codes.
        ids: (rows,) int64 or strings, or None.
    """

    codes: SparseCodes | PackedCodes
    ids: NDArray[Any] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of the shard's file, in the order in which it was written."""
        return {**self.codes._arrays(), **self._of_residual(), **ids_to_arrays(self.ids)}

    def _of_residual(self) -> dict[str, NDArray[Any]]:
        return {} if self.codes.residual is None else self.codes.residual.arrays()


def schema_of(layout: CodeLayout) -> pa.Schema:
    """The columns of a store's codes: id, indices, values, norms, residual_levels and _scales."""
    index = pa.from_numpy_dtype(index_dtype(layout.hidden_dim))
    value = pa.float16() if layout.dtype == "float16" else pa.float32()
    columns: list[tuple[str, pa.DataType]] = []
    if layout.ids is not None:
        columns.append(("id", pa.int64() if layout.ids == "int" else pa.large_string()))
    columns += [("indices", pa.list_(index)), ("values", pa.list_(value))]
    if layout.normalize:
        columns.append(("norms", pa.float32()))
    if layout.residual is not None:
        columns += [("residual_levels", pa.binary()), ("residual_scales", pa.uint16())]
    return pa.schema(columns)


def row_bytes_of(layout: CodeLayout) -> int:
    """Bytes of a row in memory, without its id."""
    value = 2 if layout.dtype == "float16" else 4
    n_bytes = layout.k * (index_dtype(layout.hidden_dim).itemsize + value)
    n_bytes += 4 if layout.normalize else 0
    if (kind := layout.residual) is not None:
        n_bytes += row_bytes(kind["bits"], kind["input_dim"]) + 2
    return n_bytes


def check_size(layout: CodeLayout, rows: int, name: str) -> None:
    """Refuse a shard that is too large to be a table in memory.

    Raises:
        ValueError: If it is.
    """
    n_bytes = rows * row_bytes_of(layout)
    if n_bytes > MOST_SHARD_BYTES:
        raise ValueError(
            f"{name} has {rows:,} rows, {n_bytes:,} bytes of codes, and a file on the Hub at most "
            f"{MOST_SHARD_BYTES:,}; encode with a smaller shard_rows"
        )


def write_table(path: Path, layout: CodeLayout, shard: Shard) -> None:
    """Write one shard as a Parquet file."""
    codes = shard.codes.unpack() if isinstance(shard.codes, PackedCodes) else shard.codes
    at_once = max(1, ENTRIES_AT_ONCE // codes.k)
    schema = schema_of(layout)
    # A latent is named in fewer bits by a dictionary. Values that are not packed have few equal
    # bytes next to each other, but their first bytes are much alike.
    options: dict[str, Any] = {"use_dictionary": ["indices.list.element"], "compression": "zstd"}
    if layout.dtype == "float32" and layout.value_bits is None:
        options["column_encoding"] = {"values.list.element": "BYTE_STREAM_SPLIT"}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, max(1, len(codes)), at_once):
            rows = slice(first, first + at_once)
            ids = None if shard.ids is None else shard.ids[rows]
            writer.write_table(pa.table(_columns(codes[rows], ids), schema=schema))


def _columns(codes: SparseCodes, ids: NDArray[Any] | None) -> dict[str, Any]:
    columns: dict[str, Any] = {} if ids is None else {"id": ids}
    ends = np.arange(len(codes) + 1, dtype=np.int32) * np.int32(codes.k)
    for name in LISTS:
        flat = np.ascontiguousarray(getattr(codes, name)).reshape(-1)
        columns[name] = pa.ListArray.from_arrays(ends, pa.array(flat))
    if codes.norms is not None:
        columns["norms"] = codes.norms
    if codes.residual is not None:
        levels = np.ascontiguousarray(codes.residual.levels)
        columns["residual_levels"] = pa.array([row.tobytes() for row in levels], pa.binary())
        columns["residual_scales"] = codes.residual.scales
    return columns


WIDE = ("id", "residual_levels")  # columns of values of any length
ENCODINGS = frozenset({"PLAIN", "RLE"})  # of them, as `write_table` writes them


def read_table(path: Path, layout: CodeLayout, rows: int) -> Shard:
    """The shard that `write_table` wrote.

    Raises:
        ValueError: If the file is damaged, or has other columns or another number of rows.
        TypeError: If it has no valid codes.
    """
    expected = schema_of(layout)
    with pq.ParquetFile(path) as file:
        found = file.schema_arrow.remove_metadata()
        if found.names != expected.names or found.types != expected.types:
            raise ValueError(f"its columns are {_named(found)}, not {_named(expected)}")
        if file.metadata.num_rows != rows:
            raise ValueError(f"it has {file.metadata.num_rows} rows, not {rows}")
        _check_entries(file.metadata, layout)
        parts = [_shard(file.read_row_group(i), layout) for i in range(file.num_row_groups)]
    ids = None if layout.ids is None else np.concatenate([ids for _, ids in parts])
    codes = SparseCodes.concatenate(codes for codes, _ in parts)
    return Shard(codes if layout.value_bits is None else codes.pack(layout.value_bits), ids)


def _check_entries(metadata: Any, layout: CodeLayout) -> None:
    """Refuse columns that would be larger in memory than codes of so many rows."""
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            column = group.column(j)
            name = column.path_in_schema.split(".")[0]
            of_row = layout.k if name in LISTS else 1
            if column.num_values != group.num_rows * of_row:
                raise ValueError(
                    f"column {name!r} has {column.num_values} entries in {group.num_rows} rows, "
                    f"not {of_row} in each"
                )
            if name in WIDE and not set(column.encodings) <= ENCODINGS:
                raise ValueError(
                    f"column {name!r} is encoded as {', '.join(column.encodings)}, in which few "
                    f"bytes may stand for many; only {', '.join(sorted(ENCODINGS))} are read"
                )
            if column.total_uncompressed_size > MOST_SHARD_BYTES:
                raise ValueError(
                    f"column {name!r} has {column.total_uncompressed_size:,} bytes; the most is "
                    f"{MOST_SHARD_BYTES:,}"
                )


def _named(schema: pa.Schema) -> str:
    return ", ".join(
        f"{name} {kind}" for name, kind in zip(schema.names, schema.types, strict=True)
    )


def _shard(table: pa.Table, layout: CodeLayout) -> tuple[SparseCodes, NDArray[Any]]:
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    if missing := [name for name, column in columns.items() if column.null_count]:
        raise ValueError(f"column {missing[0]!r} has empty rows")
    arrays = {name: _matrix(name, columns[name], layout.k) for name in LISTS}
    norms = columns["norms"].to_numpy() if layout.normalize else None
    residual = None
    if (kind := layout.residual) is not None:
        width = row_bytes(kind["bits"], kind["input_dim"])
        levels = np.frombuffer(b"".join(columns["residual_levels"].to_pylist()), np.uint8)
        scales = columns["residual_scales"].to_numpy()
        stored = {"residual_levels": levels.reshape(-1, width), "residual_scales": scales}
        residual = ResidualBits.stored(stored, kind)
    codes = SparseCodes(
        arrays["indices"],
        arrays["values"],
        layout.hidden_dim,
        norms,
        residual=residual,
        fitted=layout.pursuit,
    )
    ids = np.empty(0) if layout.ids is None else _ids(columns["id"])
    return codes, ids


def _matrix(name: str, lists: pa.ListArray, k: int) -> NDArray[Any]:
    """(rows, k) of a column of lists."""
    lengths = np.diff(lists.offsets.to_numpy())
    if (lengths != k).any():
        row = int(np.argmax(lengths != k))
        raise ValueError(f"column {name!r} has {lengths[row]} entries in a row, not k={k}")
    flat = lists.flatten()
    if flat.null_count:
        raise ValueError(f"column {name!r} has empty entries")
    matrix: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(-1, k)
    return matrix


def _ids(column: pa.Array) -> NDArray[Any]:
    if pa.types.is_integer(column.type):
        numbers: NDArray[Any] = column.to_numpy()
        return numbers
    return np.array(column.to_pylist(), dtype=object)
