"""Parts of a store of codes: what workers write, and how they become its shards.

A part is a file of codes whose name is a digest of its input rows, so a task that is retried, or a
later run, finds the file and does not encode again. Workers return the names to the driver; it
turns the parts into shards in the order of the data.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from csr_st._io.tensor_files import open_tensors, write_tensors
from csr_st.code_ids import ids_to_arrays
from csr_st.distributed_encoding.spec import EncoderSpec
from csr_st.embeddings.chunks import Chunk
from csr_st.embeddings.directory import MANIFEST, PLAN, StoreDirectory
from csr_st.embeddings.manifest import CODES, Manifest, Plan, refuse_data
from csr_st.embeddings.writing import LOCK

PARTS = ".parts"  # hidden: no file of the store
WRITTEN = ("indices", "bits")  # one of them is the first array of a shard


class Part(NamedTuple):
    """A part that is complete.

    Attributes:
        name: Digest of its rows.
        rows: Their number.
    """

    name: str
    rows: int


class Begun(NamedTuple):
    """State of a store that earlier runs left.

    Attributes:
        shards: Names of the parts that were already turned into shards.
        complete: Whether the store is complete.
    """

    shards: frozenset[str]
    complete: bool


@dataclass(frozen=True)
class PartWriter:
    """Encodes rows into parts; the driver pickles it for the workers.

    Attributes:
        spec: The model and its options.
        path: Directory of the store, on a disk that all workers share.
        text_column: Column to encode.
        id_column: Column of ids, or None.
        shard_rows: Rows of a part, at most.
        begun: State of the store before the run.
    """

    spec: EncoderSpec
    path: str
    text_column: str
    id_column: str | None
    shard_rows: int
    begun: Begun

    def write(self, table: pa.Table) -> Part:
        """Encode rows, unless their part is there.

        Raises:
            ValueError: If this machine does not see the directory, another model or k was encoded
                there, a row has no text or id, or a text embeds to NaN or Inf.
            TypeError: If texts are not strings, or ids neither integers nor strings.
            OSError: If the disk is full. Parts that were finished stay.
        """
        texts, ids = self._columns(table)
        name = Chunk(0, 0, texts, None if ids is None else ids.tolist()).digest()
        part = Part(name, len(texts))
        place = Path(self.path) / PARTS / f"{name}.safetensors"
        self._check_plan(ids)
        if name in self.begun.shards or _is_whole(place):
            return part
        if self.begun.complete:
            refuse_data(Path(self.path), f"no shard has the rows that begin with {texts[0]!r:.60}")
        arrays, metadata = self.spec.encoding.as_file(self.spec.encode(texts))
        write_tensors(place, {**arrays, **ids_to_arrays(ids)}, metadata)
        return part

    def _columns(self, table: pa.Table) -> tuple[list[str], NDArray[Any] | None]:
        texts = texts_of(table.column(self.text_column), self.text_column)
        if self.id_column is None:
            return texts, None
        return texts, _as_ids(table.column(self.id_column), self.id_column)

    def _check_plan(self, ids: NDArray[Any] | None) -> None:
        """Note the model and its settings in the store, or compare them with those there."""
        root, directory = Path(self.path), StoreDirectory(Path(self.path), CODES)
        if not (root / PARTS).is_dir():
            raise ValueError(f"this worker does not see {root}; use a directory that all share")
        columns = {"text": self.text_column, "label": None, "pair": None, "score": None}
        recipe = {**self.spec.identity, "columns": columns, "distributed": True}
        if ids is not None:
            recipe["ids"] = "text" if ids.dtype == object else "int"
        plan = Plan(recipe, self.shard_rows)
        begun = directory.read_plan()
        if begun is None:
            directory.write(plan)  # every worker writes the same
        else:
            begun.refuse_other(plan, root)


def texts_of(column: Any, name: str) -> list[str]:
    """The texts of an Arrow column.

    Raises:
        TypeError: If it is no column of strings.
        ValueError: If a row has none.
    """
    if not _is_text(column.type):
        raise TypeError(
            f"column {name!r} is {column.type}, and texts are encoded; pass a column of strings"
        )
    _refuse_empty(column, name)
    texts: list[str] = column.to_pylist()
    return texts


def _refuse_empty(column: Any, name: str) -> None:
    if column.null_count:
        raise ValueError(
            f"column {name!r} is empty in {column.null_count} of {len(column)} rows; drop these "
            "rows or fill them"
        )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _as_ids(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    _refuse_empty(column, name)
    if pa.types.is_integer(column.type):
        numbers: NDArray[Any] = column.cast(pa.int64()).to_numpy()
        return numbers
    if _is_text(column.type):
        return np.array(column.to_pylist(), dtype=object)
    raise TypeError(f"column {name!r} is {column.type}; ids are integers or strings")


def _is_whole(file: Path) -> bool:
    try:
        open_tensors(file)
    except (ValueError, FileNotFoundError):
        return False
    return True


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Begun]:
    """Hold a directory for a run, and give what is there.

    Raises:
        ValueError: If the path is a URL, a file, or a directory with other files.
        BlockingIOError: If another process is writing there.
    """
    root = Path(path)
    if "://" in str(path):
        raise ValueError(
            f"{path} is a URL, and a store is a directory on a disk that all machines share; use "
            "spark_encoder and Spark's own writers for object stores"
        )
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; a store is a directory")
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process is writing to {root}; wait for it or pass another path"
        raise BlockingIOError(errno.EWOULDBLOCK, message) from None
    try:
        begun = _begun(root)
        try:
            yield begun
        finally:
            if begun.complete:  # whatever was tried with other data
                shutil.rmtree(root / PARTS, ignore_errors=True)
    finally:
        lock.release()


def _begun(root: Path) -> Begun:
    directory = StoreDirectory(root, CODES)
    foreign = sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))
    plan = directory.read_plan()
    if plan is None and foreign:
        raise ValueError(
            f"{root} contains other files ({', '.join(foreign[:3])}); pass a new or empty directory"
        )
    if plan is not None and not plan.recipe.get("distributed"):
        raise ValueError(f"{root} has codes of {CODES.call}; go on with that, or pass another path")
    (root / PARTS).mkdir(exist_ok=True)
    return Begun(frozenset(_shards(directory)), directory.read_manifest() is not None)


def _shards(directory: StoreDirectory) -> dict[str, int]:
    """Numbers of the shards that are whole, by the name of their part."""
    found = {}
    for number in directory.shards():
        with contextlib.suppress(ValueError):  # of a damaged one: its rows are encoded again
            found[directory.read_header(number).items] = number
    return found


def finish(path: str | Path, parts: Sequence[Part]) -> None:
    """Make the parts of a run, in the order of the data, the shards of a complete store.

    Raises:
        ValueError: If there are no rows, the store there is complete and of other data, or a part
            is missing.
    """
    root = Path(path)
    directory = StoreDirectory(root, CODES)
    if not parts:
        raise ValueError("the data is empty: there is nothing to encode")
    if (manifest := directory.read_manifest()) is not None:
        headers = [directory.read_header(number) for number in range(len(manifest.sizes))]
        if [header.items for header in headers] != [part.name for part in parts]:
            refuse_data(root, "the rows there are not those of the data now")
        shutil.rmtree(root / PARTS, ignore_errors=True)
        return
    plan = directory.read_plan()
    if plan is None:
        raise ValueError(f"{root} has no {PLAN}: the workers do not write there; use a shared disk")
    _set_free(directory, parts)
    _place(directory, parts)
    headers = [directory.read_header(number) for number in range(len(parts))]
    sizes, checksums = [h.rows for h in headers], [h.checksum for h in headers]
    directory.write(Manifest(plan, headers[0].dim, sizes, checksums))
    shutil.rmtree(root / PARTS, ignore_errors=True)


def _set_free(directory: StoreDirectory, parts: Sequence[Part]) -> None:
    """Turn shards that are not at their place into parts again, or delete them.

    There are some where an earlier run was ended while it placed other data.
    """
    wanted = {part.name for part in parts}
    for number in directory.shards():
        shard = directory.shard(number)
        try:
            name = directory.read_header(number).items
        except ValueError:  # damaged
            name = ""
        if number < len(parts) and parts[number].name == name:
            continue
        if name in wanted:
            shard.replace(directory.path / PARTS / f"{name}.safetensors")
        else:
            shard.unlink()


def _place(directory: StoreDirectory, parts: Sequence[Part]) -> None:
    """Write each part as the shard of its place, and delete it after the last place it has."""
    k_key, left = f"{CODES.format}.shard", Counter(part.name for part in parts)
    for number, (name, rows) in enumerate(parts):
        left[name] -= 1
        source = directory.path / PARTS / f"{name}.safetensors"
        if not directory.shard(number).exists():
            file = open_tensors(source if source.exists() else _twin(directory, parts, name))
            arrays = {key: file.map(key) for key in sorted(file.tensors, key=_first)}
            metadata = {key: text for key, text in file.metadata.items() if key != k_key}
            dim = directory.read_plan().recipe["k"]  # type: ignore[union-attr] # `finish` read it
            directory.write_shard(number, (rows, dim), arrays, name, None, metadata)
        if not left[name]:
            source.unlink(missing_ok=True)


def _twin(directory: StoreDirectory, parts: Sequence[Part], name: str) -> Path:
    """A shard of equal rows, where the part is no longer there."""
    for number, part in enumerate(parts):
        if part.name == name and directory.shard(number).exists():
            return directory.shard(number)
    raise ValueError(
        f"part {name} of {directory.path} is missing: the workers wrote to another disk, or it was "
        f"deleted; use a directory that all share, and run the same call again ({MANIFEST} is not "
        "written)"
    )


def _first(name: str) -> tuple[bool, str]:
    return name not in WRITTEN, name
