"""Files of vectors from elsewhere: NumPy, safetensors, Arrow, parquet and saved data sets.

Mapped without a copy where the format stores a plain array; otherwise read into memory once.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class _Columns(NamedTuple):
    """The columns, or named arrays, of a file.

    Attributes:
        names: All of them; none in a file of one array.
        matrices: Gives those that can be vectors.
        load: Opens one of vectors as consecutive parts.
        labels: Reads one of labels.
        label_names: Gives the names of its classes, or None.
    """

    names: list[str]
    matrices: Callable[[], list[str]]
    load: Callable[[str], Sequence[NDArray[Any]]]
    labels: Callable[[str], Any] = lambda _: None
    label_names: Callable[[str], list[str] | None] = lambda _: None


def open_file(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    """Fields of `EmbeddingStore` for a file, or a directory of ``Dataset.save_to_disk``.

    Raises:
        ValueError: If the format is unknown or unsafe, or the column missing or not a matrix.
    """
    openers = {
        ".npy": _npy,
        ".npz": _npz,
        ".safetensors": _safetensors,
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".feather": _arrow,
    }
    opener = _saved_dataset if path.is_dir() else openers.get(path.suffix.lower())
    if opener is None:
        raise ValueError(
            f"{path} is not of a format that can be opened: {', '.join(openers)}, or a directory. "
            "Pickled files (.pt, .pkl) are never loaded: save the array with numpy.save or "
            "safetensors"
        )
    file = opener(path)
    for name in (column, label_column):
        if name is not None and name not in file.names:
            raise ValueError(f"{name!r} is not a column of {path}; it has {file.names}")
    if column is None:
        candidates = file.matrices()
        usual = [name for name in candidates if name in USUAL_COLUMNS]
        chosen = candidates if len(candidates) == 1 else usual
        if len(chosen) != 1:
            raise ValueError(
                f"name the column of vectors in {path}: it has {file.names}, of which "
                f"{candidates or 'none'} can be vectors"
            )
        column = chosen[0]
    matrix, dtype = _matrix_of(path, file.load(column))
    labels, names = None, None
    if label_column is not None:
        labels, names = file.labels(label_column), file.label_names(label_column)
    codes, names = as_labels(labels, len(matrix), names)
    info = StoreInfo(n=len(matrix), dim=matrix.dim, dtype=dtype)
    return {"matrix": matrix, "info": info, "labels": codes, "label_names": names}


def _matrix_of(path: Path, parts: Sequence[NDArray[Any]]) -> tuple[PartedMatrix, str]:
    """A matrix of parts that are mapped or in memory, and the name of its type."""
    first = parts[0]
    for part in parts:
        if part.ndim != 2 or part.shape[1] != first.shape[-1] or not first.size:
            raise ValueError(
                f"{path} contains an array of shape {part.shape}; (n, dim) with n, dim >= 1 is "
                "needed"
            )
    # NumPy has no bfloat16; `_safetensors` loads no other uint16.
    bfloat16 = first.dtype == np.uint16 and path.suffix.lower() == ".safetensors"
    if first.dtype.kind != "f" and not bfloat16:
        raise ValueError(f"{path} contains {first.dtype}; floating-point vectors are needed")
    matrix = PartedMatrix(
        [len(part) for part in parts],
        first.shape[1],
        parts.__getitem__,
        name=str(path),
        identity=lambda: _identity(path),
    )
    return matrix, "bfloat16" if bfloat16 else str(first.dtype)


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


def _npy(path: Path) -> _Columns:
    return _Columns([], lambda: ["the array"], lambda _: [_map_npy(path, 0)])


def _map_npy(path: Path, begin: int) -> NDArray[Any]:
    """Map an array in npy format that begins at byte ``begin`` of a file."""
    with path.open("rb") as file:
        file.seek(begin)
        first = npy_format.read_magic(file) == (1, 0)
        read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        begin = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{path} has Python objects; save an array of floating-point numbers")
    array = map_array(path, dtype, shape[::-1] if fortran else shape, begin)
    return array.T if fortran else array


def _npz(path: Path) -> _Columns:
    """Arrays of np.savez are mapped; those of np.savez_compressed are read."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or not an npz file: {error}") from error

    def load(name: str) -> NDArray[Any]:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with archive.open(member) as stream:
                return npy_format.read_array(stream, allow_pickle=False)
        # A member's bytes follow its local header: 30 bytes, its name, its extra field.
        lengths = map_array(path, np.dtype("<u2"), (2,), member.header_offset + 26)
        return _map_npy(path, member.header_offset + 30 + int(lengths.sum(dtype=int)))

    names = [name.removesuffix(".npy") for name in archive.namelist()]

    def matrices() -> list[str]:
        return names if len(names) == 1 else [name for name in names if load(name).ndim == 2]

    return _Columns(names, matrices, lambda name: [load(name)], load)


def _safetensors(path: Path) -> _Columns:
    file = open_tensors(path)
    floats = [name for name, entry in file.tensors.items() if entry["dtype"] in FLOATS]

    def load(name: str) -> list[NDArray[Any]]:
        if name not in floats:
            found = file.tensors[name]["dtype"]
            raise ValueError(f"{name!r} in {path} is {found}; one of {', '.join(FLOATS)} is needed")
        return [file.map(name)]

    def matrices() -> list[str]:
        return [name for name in floats if len(file.tensors[name]["shape"]) == 2]

    return _Columns(list(file.tensors), matrices, load, file.map)


@contextlib.contextmanager
def _reading_arrow(path: Path) -> Iterator[None]:
    import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no type information

    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is cut short or not such a file: {error}") from error


def _parquet(path: Path) -> _Columns:
    from pyarrow import parquet

    with _reading_arrow(path):
        file = parquet.ParquetFile(path, memory_map=True)
    return _arrow_columns(path, file.schema_arrow, lambda name: file.read([name]).column(0))


def _arrow(path: Path) -> _Columns:
    import pyarrow as pa

    with _reading_arrow(path):
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # `datasets` and streams write the format without a footer
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    return _arrow_columns(path, table.schema, table.column)


def _saved_dataset(path: Path) -> _Columns:
    from datasets import load_from_disk

    data = load_from_disk(str(path))
    table = data.data.table
    columns = _arrow_columns(path, table.schema, table.column)
    return columns._replace(label_names=lambda name: getattr(data.features[name], "names", None))


def _arrow_columns(path: Path, schema: Any, read: Callable[[str], Any]) -> _Columns:
    import pyarrow as pa

    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    matrices = [
        field.name
        for field in schema
        if isinstance(field.type, lists) and pa.types.is_floating(field.type.value_type)
    ]

    def load(name: str) -> list[NDArray[Any]]:
        if name not in matrices:
            raise ValueError(
                f"column {name!r} of {path} is {schema.field(name).type}; a list of "
                "floating-point numbers is needed"
            )
        with _reading_arrow(path):
            chunks = [chunk for chunk in read(name).chunks if len(chunk)]
        if not chunks:
            raise ValueError(f"column {name!r} of {path} is empty")
        return [_numbers_of(f"column {name!r} of {path}", chunk) for chunk in chunks]

    return _Columns(schema.names, lambda: matrices, load, lambda name: read(name).to_pylist())


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
    return np.asarray(numbers.to_numpy()).reshape(len(chunk), -1)
