"""Files of vectors from elsewhere, one or many shards, as one matrix.

Mapped without a copy where the format stores a plain array; otherwise read into memory once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.files import FileState
from csr_st._io.tensor_files import digest
from csr_st.data.labels import classes_of_file
from csr_st.data.streams import ending_of
from csr_st.embeddings.array_files import open_npy, open_npz, open_safetensors
from csr_st.embeddings.arrays import as_labels
from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.matrix import PartedMatrix
from csr_st.embeddings.shards import (
    COMPRESSIONS,
    TEXTS,
    compression_of,
    files_of,
    refuse_misnamed,
)
from csr_st.embeddings.table_files import (
    open_arrow,
    open_csv,
    open_json,
    open_parquet,
    open_saved_dataset,
)
from csr_st.embeddings.vector_file import VectorFile, choose_column, reading

Opener = Callable[[Path, "str | None"], VectorFile]
OPENERS: dict[str, Opener] = {
    ".npy": open_npy,
    ".npz": open_npz,
    ".safetensors": open_safetensors,
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".csv": open_csv,
    ".tsv": open_csv,
    ".jsonl": open_json,
    ".ndjson": open_json,
    ".json": open_json,
}
STREAMED = (".npy", *TEXTS)  # read when compressed too
STREAMS = (".gz", ".bz2", ".zst", ".lz4")
SAMPLED_PLACES = 256
SAMPLED_BYTES = 1 << 16


def open_file(path: Path, column: str | None, label_column: str | None) -> dict[str, Any]:
    """Fields of `EmbeddingStore` for a file, shards, or a directory of ``Dataset.save_to_disk``.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If the format is unknown or unsafe, or the column missing or not a matrix.
    """
    saved = any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    paths = [path] if saved else files_of(path, tuple(OPENERS))
    states = [_states(part) for part in paths]
    files, parts, given = [], [], []
    for part in paths:
        with reading(part):
            opener = open_saved_dataset if saved else _opener_of(part)
            file = opener(part, label_column)
            column = choose_column(file, part, column, label_column)
            files.append(file)
            parts.append(_vectors_of(part, file, column))
            given.append(None if label_column is None else file.labels(label_column))
    _refuse_unlike(paths, parts)
    arrays = [array for part in parts for array in part]
    matrix = PartedMatrix(
        [len(array) for array in arrays],
        arrays[0].shape[1],
        arrays.__getitem__,
        name=str(path),
        identity=lambda: _identity(paths, states),
        unchanged=(lambda: _refuse_changed(states)) if any(f.mapped for f in files) else None,
        reopen=(_reopen, (path.absolute(), column, label_column, states)),
    )
    labels, names = None, None
    if label_column is not None:
        labels = _one_after_the_other(given)
        names = files[0].label_names(label_column)
        if names is None and isinstance(labels, list):  # a table, which has null for no class
            labels = classes_of_file(labels)
    codes, names = as_labels(labels, len(matrix), names)
    dtype = "bfloat16" if arrays[0].dtype == np.uint16 else arrays[0].dtype.name
    info = StoreInfo(n=len(matrix), dim=matrix.dim, dtype=dtype)
    return {"matrix": matrix, "info": info, "labels": codes, "label_names": names}


def _one_after_the_other(labels: list[Any]) -> Any:
    if isinstance(labels[0], np.ndarray):
        return np.concatenate(labels) if len(labels) > 1 else labels[0]
    return [label for part in labels for label in part]


def _opener_of(path: Path) -> Opener:
    """The reader of a file by its suffix, after a look at its first bytes."""
    suffix, compression = ending_of(path), compression_of(path)
    if suffix not in OPENERS:
        raise ValueError(
            f"{path} is not of a format that can be opened: {', '.join(OPENERS)}, or a directory. "
            "Pickled files (.pt, .pkl) are never loaded: save the array with numpy.save or "
            "safetensors"
        )
    refuse_misnamed(path)
    if compression and (suffix not in STREAMED or compression not in STREAMS):
        raise ValueError(
            f"{path} is compressed: run `{COMPRESSIONS[compression]} '{path}'`, then pass "
            f"{path.with_suffix('')}"
        )
    return OPENERS[suffix]


def _vectors_of(path: Path, file: VectorFile, column: str) -> list[NDArray[Any]]:
    """The parts of a file that have rows, after a look at their shape and type."""
    parts = file.load(column)
    for part in parts:
        if part.ndim != 2 or not part.shape[1]:
            raise ValueError(
                f"{path} contains an array of shape {part.shape}; (n, dim) with n, dim >= 1 is "
                "needed"
            )
        bits = part.dtype == np.uint16 and file.bfloat16
        if part.dtype.kind != "f" and part.dtype not in (np.int8, np.uint8) and not bits:
            raise ValueError(
                f"{path} contains {part.dtype}; floating-point vectors are needed, or int8 or uint8"
            )
    return [part for part in parts if len(part)]


def _refuse_unlike(paths: Sequence[Path], parts: Sequence[Sequence[NDArray[Any]]]) -> None:
    """Raise a ValueError if there is no row, or parts are of several widths or types."""
    kinds: dict[tuple[int, str], Path] = {}
    for path, arrays in zip(paths, parts, strict=True):
        for array in arrays:
            kinds.setdefault((array.shape[1], array.dtype.name), path)
    if not kinds:
        raise ValueError(
            f"{paths[0]} has no rows; vectors of shape (n, dim) with n, dim >= 1 are needed"
        )
    if len(kinds) > 1:
        named = "; ".join(f"{p} has width {w} and type {t}" for (w, t), p in kinds.items())
        raise ValueError(f"vectors are not alike: {named}")


def _states(path: Path) -> dict[Path, FileState]:
    """The state of a file, or of each file of a saved data set."""
    files = sorted(path.glob("*.arrow")) if path.is_dir() else [path]
    return {file.absolute(): FileState.of(file) for file in files}


def _refuse_changed(states: Sequence[dict[Path, FileState]]) -> None:
    """Raise a ValueError if a mapped file was written to; one that was replaced stays mapped."""
    for path, state in (item for part in states for item in part.items()):
        try:
            now = FileState.of(path)
        except FileNotFoundError:
            continue
        if now.inode == state.inode and now != state:
            raise ValueError(
                f"{path} was written to after it was opened; open it again. To replace it while "
                "it is in use, write another file and rename it"
            )


def _identity(paths: Sequence[Path], states: Sequence[dict[Path, FileState]]) -> str:
    """Size, time of change, and up to 16 MiB of bytes spread over each file."""
    if [_states(path) for path in paths] != list(states):
        raise ValueError(f"{paths[0]} was changed after it was opened; open it again")
    found = []
    for file, state in (item for part in states for item in part.items()):
        last = max(state.size - SAMPLED_BYTES, 0)
        pieces = []
        with file.open("rb") as stream:
            for place in np.unique(np.linspace(0, last, SAMPLED_PLACES).astype(np.int64)).tolist():
                stream.seek(place)
                pieces.append(stream.read(SAMPLED_BYTES))
        found.append(f"{file.name} {state.size} {state.mtime_ns} {digest(*pieces)}")
    return " ".join(found)


def _reopen(
    path: Path,
    column: str,
    label_column: str | None,
    states: Sequence[dict[Path, FileState]],
) -> PartedMatrix:
    """The matrix of a store that was pickled, in this or another process."""
    matrix: PartedMatrix = open_file(path, column, label_column)["matrix"]
    if matrix.reopen[1][-1] != states:
        raise ValueError(f"{path} was changed after the store was pickled; open it again")
    return matrix
