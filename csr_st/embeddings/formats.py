"""Vectors of other origin: numpy, safetensors, Arrow, parquet and saved datasets.

What the format allows is mapped without a copy; the rest is read into memory once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from csr_st.embeddings.arrays import as_labels
from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.opening import Opened, file_identity
from csr_st.embeddings.parts import Part, PartedMatrix, map_array
from csr_st.embeddings.shards import TENSOR_DTYPES, map_tensor, read_tensor_table

DTYPE_NAMES = {"uint16": "bfloat16"}


def open_file(path: Path, column: str | None, label_column: str | None) -> Opened:
    """Open a file of vectors, or a directory that ``Dataset.save_to_disk`` wrote.

    Raises:
        ValueError: If the format is unknown or unsafe, or the column missing or no matrix.
    """
    if path.is_dir():
        from csr_st.embeddings.arrow import open_dataset

        return open_dataset(path, column, label_column)
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".arrow", ".feather"):
        from csr_st.embeddings.arrow import open_arrow

        return open_arrow(path, column, label_column)
    openers = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors}
    if suffix not in openers:
        raise ValueError(
            f"{path} is not of a format that can be opened: .npy, .npz, .safetensors, .parquet, "
            ".arrow, .feather, or a directory. Pickled files (.pt, .pkl) are never loaded: save "
            "the array with numpy.save or safetensors"
        )
    return openers[suffix](path, column, label_column)


def opened(
    path: Path,
    parts: list[Part],
    labels: Any = None,
    label_names: list[str] | None = None,
    files: list[Path] | None = None,
) -> Opened:
    """A store of parts that are mapped or in memory already."""
    first = parts[0].rows
    for part in parts:
        if part.rows.ndim != 2 or part.rows.shape[1] != first.shape[-1] or not first.size:
            raise ValueError(
                f"{path} holds an array of shape {part.rows.shape}; (n, dim) with n, dim >= 1 is "
                "needed"
            )
    # safetensors' bfloat16 comes as uint16, which is no tensor type that is accepted otherwise
    packed = path.suffix.lower() == ".safetensors" and first.dtype == np.uint16
    if first.dtype.kind != "f" and not packed:
        raise ValueError(f"{path} holds {first.dtype}; floating-point vectors are needed")
    sizes = [len(part.rows) for part in parts]
    matrix = PartedMatrix(
        sizes,
        first.shape[1],
        parts.__getitem__,
        describe=str(path),
        identity=file_identity(files or [path]),
    )
    dtype = DTYPE_NAMES.get(str(first.dtype), str(first.dtype))
    codes, names = as_labels(labels, len(matrix), label_names)
    info = StoreInfo(n=len(matrix), dim=matrix.dim, dtype=dtype)
    return Opened(matrix, info, labels=codes, label_names=names)


def _open_npy(path: Path, column: str | None, label_column: str | None) -> Opened:
    if column is not None or label_column is not None:
        raise ValueError(f"{path} holds one array and no columns; leave out column={column!r}")
    with path.open("rb") as file:
        part = _map_npy(path, file, 0)
    return opened(path, [part])


def _map_npy(path: Path, file: Any, begin: int) -> Part:
    """Map an array in npy format that begins at byte ``begin`` of a file.

    Raises:
        ValueError: If it is no array of numbers, or cut short.
    """
    file.seek(begin)
    version = npy_format.read_magic(file)
    read_header = (
        npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError(f"{path} holds Python objects; save an array of floating-point numbers")
    part = map_array(path, dtype, shape[::-1] if fortran else shape, file.tell())
    return part._replace(rows=part.rows.T) if fortran else part


def _open_npz(path: Path, column: str | None, label_column: str | None) -> Opened:
    """Arrays of np.savez lie in the file as they are and are mapped; compressed ones are read."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is cut short or not an npz file: {error}") from error
    with archive, path.open("rb") as file:

        def load(name: str) -> Part:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type == zipfile.ZIP_STORED:
                # A member's bytes follow its local header: 30 bytes, its name, its extra field.
                file.seek(member.header_offset + 26)
                lengths = np.frombuffer(file.read(4), "<u2").astype(int)
                return _map_npy(path, file, member.header_offset + 30 + int(lengths.sum()))
            with archive.open(member) as stream:
                return Part(npy_format.read_array(stream, allow_pickle=False))

        names = [name.removesuffix(".npy") for name in archive.namelist()]
        return _open_named(path, names, load, column, label_column)


def _open_safetensors(path: Path, column: str | None, label_column: str | None) -> Opened:
    table, _, _ = read_tensor_table(path)

    def load(name: str) -> Part:
        return map_tensor(path, name)

    matrices = [
        name
        for name, entry in table.items()
        if len(entry["shape"]) == 2 and entry["dtype"] in TENSOR_DTYPES
    ]
    return _open_named(path, list(table), load, column, label_column, matrices)


def _open_named(
    path: Path,
    names: list[str],
    load: Callable[[str], Part],
    column: str | None,
    label_column: str | None,
    matrices: list[str] | None = None,
) -> Opened:
    """The matrix, and labels when asked for, of a file of named arrays."""
    for wanted in (column, label_column):
        if wanted is not None and wanted not in names:
            raise ValueError(f"{wanted!r} is not in {path}; it holds {names}")
    if column is None:
        candidates = matrices if matrices is not None else _matrices(names, load)
        column = choose_column(path, candidates, names)
    labels = None if label_column is None else as_numbers(load(label_column).rows)
    return opened(path, [load(column)], labels)


def _matrices(names: list[str], load: Callable[[str], Part]) -> list[str]:
    return names if len(names) == 1 else [name for name in names if load(name).rows.ndim == 2]


def choose_column(path: Path, candidates: list[str], names: list[str]) -> str:
    """The only column that can hold vectors, or the only one that is named for it.

    Raises:
        ValueError: If there is none, or several.
    """
    usual = [name for name in candidates if name in ("vectors", "embeddings", "embedding")]
    chosen = candidates if len(candidates) == 1 else usual
    if len(chosen) != 1:
        raise ValueError(
            f"name the column of vectors in {path}: it holds {names}, of which "
            f"{candidates or 'none'} can be vectors"
        )
    return chosen[0]


def as_numbers(labels: NDArray[Any]) -> Any:
    """Labels of a file as an array of numbers, or a list of strings."""
    return labels if labels.dtype.kind in "iub" else labels.tolist()
