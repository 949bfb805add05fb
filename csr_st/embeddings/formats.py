"""Files of vectors from elsewhere: NumPy, safetensors, Arrow, parquet and saved data sets.

Mapped without a copy where the format stores a plain array; otherwise read into memory once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from csr_st._io.tensor_files import digest, map_array, open_tensors
from csr_st.embeddings.arrays import as_labels
from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.matrix import PartedMatrix

USUAL_COLUMNS = ("vectors", "embeddings", "embedding")
FLOATS = ("F16", "BF16", "F32", "F64")
SAMPLED_PLACES = 256
SAMPLED_BYTES = 1 << 16


def open_file(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    """Fields of `EmbeddingStore` for a file, or a directory of ``Dataset.save_to_disk``.

    Raises:
        ValueError: If the format is unknown or unsafe, or the column missing or not a matrix.
    """
    if path.is_dir():
        return _open_dataset(path, column, label_column)
    openers = {
        ".npy": _open_npy,
        ".npz": _open_npz,
        ".safetensors": _open_safetensors,
        ".parquet": _open_arrow,
        ".arrow": _open_arrow,
        ".feather": _open_arrow,
    }
    suffix = path.suffix.lower()
    if suffix not in openers:
        raise ValueError(
            f"{path} is not of a format that can be opened: {', '.join(openers)}, or a directory. "
            "Pickled files (.pt, .pkl) are never loaded: save the array with numpy.save or "
            "safetensors"
        )
    return openers[suffix](path, column, label_column)


def _store_of(
    path: Path,
    parts: Sequence[NDArray[Any]],
    labels: Any = None,
    label_names: list[str] | None = None,
    bfloat16: bool = False,
) -> dict[str, Any]:
    """Fields of `EmbeddingStore` for parts that are mapped or in memory."""
    first = parts[0]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != first.shape[-1] or not first.size:
            raise ValueError(
                f"{path} contains an array of shape {part.shape}; (n, dim) with n, dim >= 1 is "
                "needed"
            )
    if first.dtype.kind != "f" and not bfloat16:
        raise ValueError(f"{path} contains {first.dtype}; floating-point vectors are needed")
    matrix = PartedMatrix(
        [len(part) for part in parts],
        first.shape[1],
        parts.__getitem__,
        name=str(path),
        identity=lambda: _identity(path),
    )
    dtype = "bfloat16" if bfloat16 else str(first.dtype)
    codes, names = as_labels(labels, len(matrix), label_names)
    info = StoreInfo(n=len(matrix), dim=matrix.dim, dtype=dtype)
    return {"matrix": matrix, "info": info, "labels": codes, "label_names": names}


def _identity(path: Path) -> str:
    """Size, time of change, and up to 16 MiB of bytes spread over each file."""
    found = []
    for file in sorted(path.glob("*.arrow")) if path.is_dir() else [path]:
        status = file.stat()
        last = max(status.st_size - SAMPLED_BYTES, 0)
        pieces = []
        with file.open("rb") as stream:
            for place in np.unique(np.linspace(0, last, SAMPLED_PLACES).astype(np.int64)).tolist():
                stream.seek(place)
                pieces.append(stream.read(SAMPLED_BYTES))
        found.append(f"{file.name} {status.st_size} {status.st_mtime_ns} {digest(*pieces)}")
    return " ".join(found)


def _check_columns(path: Path, names: list[str], *wanted: str | None) -> None:
    for name in wanted:
        if name is not None and name not in names:
            raise ValueError(f"{name!r} is not a column of {path}; it has {names}")


def _only_column(path: Path, candidates: list[str], names: list[str]) -> str:
    """The only column that can contain vectors, or the only one with a usual name."""
    usual = [name for name in candidates if name in USUAL_COLUMNS]
    chosen = candidates if len(candidates) == 1 else usual
    if len(chosen) != 1:
        raise ValueError(
            f"name the column of vectors in {path}: it has {names}, of which "
            f"{candidates or 'none'} can be vectors"
        )
    return chosen[0]


def _open_npy(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    if column is not None or label_column is not None:
        raise ValueError(f"{path} is one array without columns; leave out column={column!r}")
    with path.open("rb") as file:
        return _store_of(path, [_map_npy(path, file, 0)])


def _map_npy(path: Path, file: BinaryIO, begin: int) -> NDArray[Any]:
    """Map an array in npy format that begins at byte ``begin`` of a file."""
    file.seek(begin)
    first = npy_format.read_magic(file) == (1, 0)
    read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{path} has Python objects; save an array of floating-point numbers")
    array = map_array(path, dtype, shape[::-1] if fortran else shape, file.tell())
    return array.T if fortran else array


def _open_npz(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    """Arrays of np.savez are mapped; those of np.savez_compressed are read."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or not an npz file: {error}") from error
    with archive, path.open("rb") as file:

        def load(name: str) -> NDArray[Any]:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type == zipfile.ZIP_STORED:
                # A member's bytes follow its local header: 30 bytes, its name, its extra field.
                file.seek(member.header_offset + 26)
                lengths = np.frombuffer(file.read(4), "<u2").astype(int)
                return _map_npy(path, file, member.header_offset + 30 + int(lengths.sum()))
            with archive.open(member) as stream:
                return npy_format.read_array(stream, allow_pickle=False)

        names = [name.removesuffix(".npy") for name in archive.namelist()]
        _check_columns(path, names, column, label_column)
        if column is None:
            several = len(names) > 1
            matrices = [name for name in names if load(name).ndim == 2] if several else names
            column = _only_column(path, matrices, names)
        labels = None if label_column is None else load(label_column)
        return _store_of(path, [load(column)], labels)


def _open_safetensors(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    file = open_tensors(path)
    _check_columns(path, list(file.tensors), column, label_column)
    if column is None:
        entries = file.tensors.items()
        floats = [(name, entry["shape"]) for name, entry in entries if entry["dtype"] in FLOATS]
        matrices = [name for name, shape in floats if len(shape) == 2]
        column = _only_column(path, matrices, list(file.tensors))
    labels = None if label_column is None else file.map(label_column)
    bfloat16 = file.tensors[column]["dtype"] == "BF16"
    return _store_of(path, [file.map(column)], labels, bfloat16=bfloat16)


def _open_arrow(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    """Open a parquet, Arrow or feather file."""
    import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no type information

    try:
        schema, read = _arrow_reader(path)
        column = _vector_column(path, schema, column, label_column)
        table = read([name for name in (column, label_column) if name is not None])
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is cut short or not such a file: {error}") from error
    return _store_of_table(path, table, column, label_column)


def _arrow_reader(path: Path) -> tuple[Any, Callable[[list[str]], Any]]:
    """The schema of a file and a function from column names to their table."""
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        file = parquet.ParquetFile(path, memory_map=True)
        return file.schema_arrow, file.read
    source = pa.memory_map(str(path))
    try:
        table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:  # `datasets` and streams write the format without a footer
        source.seek(0)
        table = pa.ipc.open_stream(source).read_all()
    return table.schema, table.select


def _open_dataset(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    from datasets import load_from_disk

    dataset = load_from_disk(str(path))
    table = dataset.data.table
    column = _vector_column(path, table.schema, column, label_column)
    names = getattr(dataset.features[label_column], "names", None) if label_column else None
    return _store_of_table(path, table, column, label_column, names)


def _vector_column(path: Path, schema: Any, column: str | None, label_column: str | None) -> str:
    import pyarrow as pa

    _check_columns(path, schema.names, column, label_column)
    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    candidates = [
        field.name
        for field in schema
        if isinstance(field.type, lists) and pa.types.is_floating(field.type.value_type)
    ]
    if column is None:
        return _only_column(path, candidates, schema.names)
    if column not in candidates:
        raise ValueError(
            f"column {column!r} of {path} is {schema.field(column).type}; a list of floating-point "
            "numbers is needed"
        )
    return column


def _store_of_table(
    path: Path,
    table: Any,
    column: str,
    label_column: str | None,
    label_names: list[str] | None = None,
) -> dict[str, Any]:
    chunks = [chunk for chunk in table.column(column).chunks if len(chunk)]
    if not chunks:
        raise ValueError(f"column {column!r} of {path} is empty")
    parts = [_matrix_of(path, column, chunk) for chunk in chunks]
    labels = None if label_column is None else table.column(label_column).to_pylist()
    return _store_of(path, parts, labels, label_names)


def _matrix_of(path: Path, column: str, chunk: Any) -> NDArray[Any]:
    """(n, dim) numbers of one chunk of a list column, in Arrow's own buffer."""
    from pyarrow import compute

    if chunk.null_count:
        row = int(np.flatnonzero(chunk.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"column {column!r} of {path} has no vector in row {row}; drop such rows")
    numbers = chunk.flatten()  # the numbers of the rows of this chunk alone, not a copy
    if numbers.null_count:
        raise ValueError(f"column {column!r} of {path} has nulls inside vectors; drop such rows")
    widths = compute.unique(compute.list_value_length(chunk)).to_pylist()
    if len(widths) > 1:
        raise ValueError(
            f"column {column!r} of {path} has vectors of different widths: {sorted(widths)[:5]}"
        )
    return np.asarray(numbers.to_numpy()).reshape(len(chunk), -1)
