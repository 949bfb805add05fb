"""The files of a store: plan.json, shards with checksums, arrays beside them, manifest.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.lib import format as npy_format
from numpy.typing import NDArray

from csr_st._io.files import read_json, refuse_newer_format, write_atomically
from csr_st._io.tensor_files import TensorFile, digest, open_tensors, write_tensors
from csr_st.embeddings.manifest import EMBEDDINGS, Manifest, Plan, StoreType
from csr_st.embeddings.matrix import PartedMatrix

FORMAT_VERSION = 1
PLAN = "plan.json"
MANIFEST = "manifest.json"
SHARDS = "shard-*.safetensors"

T = TypeVar("T")


@dataclass(frozen=True)
class ShardHeader:
    """Header of a shard.

    Attributes:
        number: Its place in the store.
        rows: Its number of rows.
        dim: Their width.
        dtype: "float16" or "float32"; "uint8" of packed codes.
        items: Digest of the items that were embedded, so that changed data is noticed.
        checksum: Digest of the arrays.
        label_names: Names of the string labels in this shard, or None.
    """

    number: int
    rows: int
    dim: int
    dtype: str
    items: str
    checksum: str
    label_names: list[str] | None = None


def checksum_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The digest of a shard's arrays."""
    return digest(*(arrays[name] for name in sorted(arrays, reverse=True)))


@dataclass(frozen=True)
class StoreDirectory:
    """A directory with a store of one type, complete or not.

    Attributes:
        path: The directory.
        type: What is stored.
    """

    path: Path
    type: StoreType

    def write(self, content: Plan | Manifest) -> None:
        """Begin a store with its plan, or complete it with its manifest."""
        path = self.path / (PLAN if isinstance(content, Plan) else MANIFEST)
        header = {"format": self.type.format, "version": FORMAT_VERSION}
        write_atomically(path, json.dumps({**header, **asdict(content)}, ensure_ascii=False))

    def read_plan(self) -> Plan | None:
        """The plan of a store that was begun, or None; raises as `read_complete` does."""
        content = self._read(PLAN)
        return None if content is None else self._checked(PLAN, lambda: Plan(**content))

    def read_manifest(self) -> Manifest | None:
        """The manifest of a store that is complete, or None; raises as `read_complete` does."""
        content = self._read(MANIFEST)
        if content is None:
            return None
        return self._checked(
            MANIFEST, lambda: Manifest(**{**content, "plan": Plan(**content["plan"])})
        )

    def read_complete(self) -> Manifest:
        """The manifest of a store that must be complete.

        Raises:
            FileNotFoundError: If there is no such directory.
            ValueError: If it has no complete store of this type, a damaged one, or one of a newer
                format.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no {self.type.noun} at {self.path}")
        manifest = self.read_manifest()
        if manifest is not None:
            return manifest
        plan = self.read_plan()
        if plan is None:
            raise ValueError(f"{self.path} contains no {self.type.noun}: it has no {PLAN}")
        expected = "?" if plan.rows is None else -(-plan.rows // plan.shard_rows)
        raise ValueError(
            f"{self.path} is not complete: {len(self.shards())} of {expected} shards; run the same "
            f"{self.type.call} call again to finish it"
        )

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        content: dict[str, Any] = self._checked(name, lambda: read_json(path))
        found, version = content.pop("format", None), content.pop("version", None)
        if found != self.type.format:
            raise ValueError(
                f"{path} is of {found!r}, not of {self.type.format!r}; pass another path"
            )
        refuse_newer_format(path, version, FORMAT_VERSION)
        return content

    def _checked(self, name: str, parse: Callable[[], T]) -> T:
        """What ``parse`` makes of a file; a ValueError that names the file if it cannot."""
        try:
            return parse()
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self.path / name} is damaged: {error!r}; delete it and run {self.type.call} "
                "again"
            ) from error

    def shard(self, number: int) -> Path:
        """Path of shard ``number``."""
        return self.path / f"shard-{number:06d}.safetensors"

    def shards(self) -> list[int]:
        """Numbers of the shards that were written, in rising order."""
        numbers = (file.stem.removeprefix("shard-") for file in self.path.glob(SHARDS))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def write_shard(
        self,
        number: int,
        shape: tuple[int, int],
        arrays: Mapping[str, NDArray[Any]],
        items: str,
        label_names: list[str] | None,
        metadata: Mapping[str, str],
    ) -> None:
        """Write a shard completely or not at all.

        Args:
            number: Place of the shard in the store.
            shape: (rows, dim).
            arrays: What is written; the first gives the type.
            items: Digest of what the rows were made from.
            label_names: Names of the labels in this shard, or None.
            metadata: Further metadata of the file.

        Raises:
            OSError: If the disk is full or refuses.
        """
        first = next(iter(arrays.values()))
        n, dim = shape
        checksum = checksum_of(arrays)
        header = ShardHeader(number, n, dim, str(first.dtype), items, checksum, label_names)
        further = {f"{self.type.format}.shard": json.dumps(asdict(header))}
        try:
            write_tensors(self.shard(number), arrays, {**metadata, **further})
        except OSError as error:
            size = sum(array.nbytes for array in arrays.values())
            raise OSError(
                error.errno,
                f"{error.strerror} ({size:,} bytes). The shards before it are complete: make room "
                "and run the same call again to resume",
            ) from error

    def open_shard(self, number: int) -> TensorFile:
        """A shard, mapped; its length is checked, its bytes are not.

        Raises:
            ValueError: If it is missing, cut short or damaged.
        """
        path = self.shard(number)
        if not path.exists():
            raise ValueError(f"{path} is missing; delete {MANIFEST} and run {self.type.call} again")
        return open_tensors(path)

    def read_header(self, number: int) -> ShardHeader:
        """Header of a shard; raises as `open_shard` does."""
        return self._header_of(self.open_shard(number))

    def _header_of(self, file: TensorFile) -> ShardHeader:
        key = f"{self.type.format}.shard"
        if key not in file.metadata:
            raise ValueError(f"{file.path} is not a shard of {self.type.format!r}")
        name = file.path.name
        return self._checked(name, lambda: ShardHeader(**json.loads(file.metadata[key])))

    def map_shard(
        self, number: int, shapes: Mapping[str, tuple[int, ...]], checksum: str | None = None
    ) -> dict[str, NDArray[Any]]:
        """Arrays of a shard, mapped; ``shapes`` and ``checksum`` are those of the manifest.

        Raises:
            ValueError: If the shard is missing, cut short, of other shapes, or of another store
                that replaced this one meanwhile.
        """
        file = self.open_shard(number)
        if checksum is not None and self._header_of(file).checksum != checksum:
            raise ValueError(
                f"{file.path} is not the shard that {MANIFEST} names: the store was replaced after "
                "it was opened, or damaged; open it again"
            )
        arrays = {name: file.map(name) for name in shapes if name in file.tensors}
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise ValueError(f"{file.path} has shapes {found}, the manifest says {shapes}")
        return arrays

    def verify_shards(self, manifest: Manifest) -> None:
        """Compare every byte of every shard with the manifest.

        Raises:
            ValueError: If a shard is missing, cut short or altered.
        """
        for number, checksum in enumerate(manifest.checksums):
            file = self.open_shard(number)
            found = checksum_of({name: file.map(name) for name in file.tensors})
            if found != checksum:
                raise ValueError(
                    f"{file.path} was altered after it was written: checksum {found}, expected "
                    f"{checksum}; delete this file and {MANIFEST}, then run {self.type.call} "
                    "again: only this shard is rebuilt"
                )

    def array(self, name: str) -> NDArray[Any]:
        """Labels, pairs or scores of all rows, mapped; a ValueError if they are damaged."""
        file = self.path / f"{name}.npy"
        try:
            found: NDArray[Any] = npy_format.open_memmap(file, mode="r")
        except Exception as error:  # of a header that was altered, whatever its parser meets
            raise ValueError(
                f"{file} is missing or damaged ({error}); delete {self.path / MANIFEST} and run "
                f"{self.type.call} again: no shard is rebuilt"
            ) from error
        return found


def open_embeddings(path: Path) -> dict[str, Any]:
    """Fields of `EmbeddingStore` for a directory that `embed` wrote; reads no shard."""
    directory = StoreDirectory(path, EMBEDDINGS)
    manifest = directory.read_complete()

    def load(number: int) -> NDArray[Any]:
        shape = (manifest.sizes[number], manifest.dim)
        checksum = manifest.checksums[number]
        rows = directory.map_shard(number, {"vectors": shape}, checksum)["vectors"]
        if rows.dtype.kind != "f":
            raise ValueError(f"{directory.shard(number)} contains {rows.dtype}, not vectors")
        return rows

    def verify() -> None:
        directory.verify_shards(manifest)
        for name, checksum in manifest.arrays.items():
            if digest(directory.array(name)) != checksum:
                raise ValueError(f"{path / name}.npy was altered; delete {MANIFEST}, embed again")

    matrix = PartedMatrix(
        manifest.sizes,
        manifest.dim,
        load,
        name=str(path),
        identity=lambda: digest("".join(manifest.checksums).encode()),
        reopen=(_reopen, (path.absolute(), manifest)),
        verify=verify,
    )
    arrays = {name: directory.array(name) for name in manifest.arrays}
    _check_arrays(path, arrays, manifest)
    return {"matrix": matrix, "info": manifest.info, "label_names": manifest.label_names, **arrays}


def _check_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    """Refuse labels, pairs and scores of a shape or type that does not fit the store."""
    m = len(arrays["pairs"]) if "pairs" in arrays else 0
    shapes = {"labels": (manifest.info.n,), "pairs": (m, 2), "scores": (m,)}
    for name, array in arrays.items():
        kind = "f" if name == "scores" else "i"
        if array.shape != shapes[name] or array.dtype.kind != kind:
            raise ValueError(
                f"{path / name}.npy contains {array.dtype} of shape {array.shape} where "
                f"{shapes[name]} is needed; delete {path / MANIFEST} and run "
                f"{EMBEDDINGS.call} again: no shard is rebuilt"
            )


def _reopen(path: Path, manifest: Manifest) -> PartedMatrix:
    """The matrix of a store that was pickled, in this or another process."""
    if StoreDirectory(path, EMBEDDINGS).read_complete() != manifest:
        raise ValueError(f"{path} was replaced after the store was pickled; open it again")
    matrix: PartedMatrix = open_embeddings(path)["matrix"]
    return matrix
