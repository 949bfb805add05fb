"""Opening vectors: a directory that `embed` wrote, or a matrix file of another origin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.embeddings.manifest import EMBEDDINGS, Kind, Manifest, StoreInfo, read_complete
from csr_st.embeddings.parts import Part, PartedMatrix
from csr_st.embeddings.shards import digest, map_tensor, shard_path, verify_shard


class Opened(NamedTuple):
    """What a store is made of; the fields are those of `EmbeddingStore`."""

    matrix: PartedMatrix
    info: StoreInfo
    labels: NDArray[np.int64] | None = None
    label_names: list[str] | None = None
    pairs: NDArray[np.int64] | None = None
    scores: NDArray[np.float32] | None = None


def open_vectors(path: Path, column: str | None, label_column: str | None) -> Opened:
    """Open whatever ``path`` is; see `EmbeddingStore.open`."""
    if not path.exists():
        raise FileNotFoundError(f"there is no embedding store or file of vectors at {path}")
    if path.is_dir() and not (path / "dataset_info.json").exists():
        return open_directory(path)
    from csr_st.embeddings.formats import open_file

    return open_file(path, column, label_column)


def open_directory(path: Path) -> Opened:
    """Open a directory that `embed` wrote; reads its manifest and no shard.

    Raises:
        ValueError: If it is not a store, or not complete.
    """
    manifest = read_complete(path, EMBEDDINGS)
    return Opened(
        _shards_of(path, manifest),
        manifest.info,
        labels=_array(path, manifest, "labels"),
        label_names=manifest.label_names,
        pairs=_array(path, manifest, "pairs"),
        scores=_array(path, manifest, "scores"),
    )


def _shards_of(path: Path, manifest: Manifest) -> PartedMatrix:
    def load(number: int) -> Part:
        part = map_tensor(existing_shard(path, number, EMBEDDINGS), "vectors")
        expected = (manifest.sizes[number], manifest.dim)
        if part.rows.shape != expected:
            raise ValueError(
                f"{shard_path(path, number)} has shape {part.rows.shape}, the manifest says "
                f"{expected}"
            )
        return part

    def verify() -> None:
        verify_shards(path, manifest, EMBEDDINGS)
        for name, checksum in manifest.arrays.items():
            if digest(np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)) != checksum:
                raise ValueError(
                    f"{path / name}.npy was altered; delete manifest.json, embed again"
                )

    checksums = "".join(manifest.checksums)
    return PartedMatrix(
        manifest.sizes,
        manifest.dim,
        load,
        describe=str(path),
        identity=lambda: digest(np.frombuffer(checksums.encode(), np.uint8)),
        verify=verify,
    )


def existing_shard(path: Path, number: int, kind: Kind) -> Path:
    """The file of a shard that a complete store must have.

    Raises:
        ValueError: If it is missing.
    """
    shard = shard_path(path, number)
    if not shard.exists():
        raise ValueError(f"{shard} is missing; delete manifest.json and run {kind.call} again")
    return shard


def verify_shards(path: Path, manifest: Manifest, kind: Kind) -> None:
    """Compare every byte of every shard with the manifest.

    Raises:
        ValueError: If a shard is missing, cut short or altered.
    """
    for number, checksum in enumerate(manifest.checksums):
        verify_shard(existing_shard(path, number, kind), checksum, kind)


def _array(path: Path, manifest: Manifest, name: str) -> Any:
    if name not in manifest.arrays:
        return None
    file = path / f"{name}.npy"
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{file} is missing or damaged ({error}); delete {path / 'manifest.json'} and run "
            "embed again: no shard is embedded anew"
        ) from error


def file_identity(files: list[Path]) -> Callable[[], str]:
    """Identity of files: size, time of change, and up to 16 MiB of bytes spread over each."""

    def identity() -> str:
        return " ".join(_file_identity(file) for file in files)

    return identity


def _file_identity(file: Path) -> str:
    status = file.stat()
    span = 1 << 16
    places = np.unique(np.linspace(0, max(status.st_size - span, 0), 256).astype(np.int64))
    with file.open("rb") as stream:
        pieces = []
        for place in places.tolist():
            stream.seek(place)
            pieces.append(stream.read(span))
    sampled = digest(np.frombuffer(b"".join(pieces), np.uint8))
    return f"{file.name} {status.st_size} {status.st_mtime_ns} {sampled}"
