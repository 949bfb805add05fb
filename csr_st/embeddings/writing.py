"""Embedding data into a store: shard by shard, resumable, by one process or several."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from csr_st._io.files import atomic_path
from csr_st._io.progress import progress
from csr_st._io.tensor_files import digest
from csr_st.data.examples import Columns, read_examples
from csr_st.embeddings.arrays import number_labels
from csr_st.embeddings.chunks import Chunk, Chunks
from csr_st.embeddings.directory import ShardHeader, StoreDirectory
from csr_st.embeddings.encoder import Encoding
from csr_st.embeddings.manifest import Manifest, Plan, refuse_data
from csr_st.processes import Processes, current_processes

logger = logging.getLogger(__name__)

SHARD_ROWS = 1 << 14
IMAGE_SHARD_ROWS = 1 << 10  # the bytes of a shard's image files are in memory
# Items that the model gets at once: enough for it to sort by length, few enough for the bar to move
ENCODE_BATCHES = 32
LOCK = ".lock"


def write_store(
    encoding: Encoding,
    data: Any,
    columns: Columns,
    path: Path,
    shard_rows: int | None,
    show_progress: bool | None,
) -> None:
    """Write what ``encoding`` makes of ``data`` into a directory; see `EmbeddingStore.embed`."""
    if shard_rows is not None and shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows}; pass 1 or more")
    shard_rows = None if shard_rows is None else int(shard_rows)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a store is a directory")
    directory = StoreDirectory(path, encoding.type)
    examples = read_examples(data, columns)
    chunks = Chunks(examples)
    # As JSON gives it back: a tuple of columns as a list
    recipe = {**encoding.identity(), "columns": json.loads(json.dumps(asdict(examples.columns)))}
    usual = SHARD_ROWS if examples.textual else IMAGE_SHARD_ROWS
    plan = Plan(recipe, shard_rows or usual, examples.name, examples.fingerprint, chunks.count)
    if _is_complete(directory, plan, chunks):
        return
    processes = current_processes()
    lock = FileLock(path / LOCK, timeout=0)
    try:
        with _failing_together(processes):
            if processes.rank == 0:
                begin(directory, plan, lock)
                processes.clear_marks(path)
        begun = directory.read_plan()
        if begun is None:
            raise ValueError(f"process {processes.rank} does not see {path}; use a shared disk")
        writer = _Writer(directory, begun, chunks, encoding, processes)
        with _failing_together(processes, path), encoding.ready(processes.device):
            writer.embed(plan, show_progress)
        with _failing_together(processes):
            if processes.rank == 0:
                writer.finish()
    finally:
        processes.clear_marks(path)
        lock.release()


@contextlib.contextmanager
def _failing_together(processes: Processes, wait_in: Path | None = None) -> Iterator[None]:
    """Run a block in every process, and raise in all of them when it failed in one.

    With ``wait_in``, processes wait for one another there for as long as it takes.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if wait_in is not None:
        processes.wait_for_all(wait_in, error)
    processes.raise_together(error)


def _is_complete(directory: StoreDirectory, plan: Plan, chunks: Chunks) -> bool:
    """Whether a complete store of the same plan and data is there already.

    Raises a ValueError if it is of another plan or data. Data without a known fingerprint is read
    to its end and compared with the digests in the shards, which costs far less than embedding it.
    """
    manifest = directory.read_manifest()
    if manifest is None:
        return False
    manifest.plan.refuse_other(plan, directory.path)
    known = plan.dataset_fingerprint
    if known is None or known != manifest.plan.dataset_fingerprint:
        _refuse_other_data(directory, manifest, chunks)
    return True


def _refuse_other_data(directory: StoreDirectory, manifest: Manifest, chunks: Chunks) -> None:
    """Raise a ValueError if the store was made from other data."""
    path, n = directory.path, sum(manifest.sizes)
    names: dict[str, None] = {}
    for chunk in chunks.read(manifest.plan.shard_rows, lambda _: True):
        if chunk.number >= len(manifest.sizes):
            refuse_data(path, f"it had only {n} rows")
        _refuse_changed(path, chunk, directory.read_header(chunk.number))
        names |= dict.fromkeys(label for label in chunk.labels or () if isinstance(label, str))
    if chunks.count != n:
        refuse_data(path, f"data of {n} rows there, {chunks.count} rows now")
    now = chunks.examples.label_names or list(names) or None
    if now != manifest.label_names:
        refuse_data(path, f"its label names are {manifest.label_names} there, {now} now")
    for name, numbers in {"pairs": chunks.pairs, "scores": chunks.scores}.items():
        if name in manifest.arrays and digest(np.asarray(numbers)) != manifest.arrays[name]:
            refuse_data(path, f"its {name} differ")


def _refuse_changed(path: Path, chunk: Chunk, header: ShardHeader) -> None:
    if header.items != chunk.digest():
        last = chunk.first + header.rows - 1
        refuse_data(path, f"rows {chunk.first}..{last} there are not those of the data now")


def begin(directory: StoreDirectory, plan: Plan, lock: FileLock) -> None:
    """Lock the directory, and write the plan or compare it with the plan on disk.

    Raises:
        BlockingIOError: If another process holds the lock.
        ValueError: If a store of another plan, or another file, is there.
    """
    path = directory.path
    path.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        message = f"another process is writing to {path}; wait for it or pass another path"
        raise BlockingIOError(errno.EWOULDBLOCK, message) from None
    begun = directory.read_plan()
    if begun is not None:
        begun.refuse_other(plan, path)
    elif foreign := sorted(e.name for e in path.iterdir() if not e.name.startswith(".")):
        raise ValueError(
            f"{path} contains other files ({', '.join(foreign[:3])}); pass a new or empty directory"
        )
    for leftover in path.glob(".*.part"):  # of a process that was killed before the rename
        leftover.unlink()
    if begun is None:
        directory.write(plan)


@dataclass
class _Writer:
    """Writes the shards of one process, and completes the store."""

    directory: StoreDirectory
    plan: Plan
    chunks: Chunks
    encoding: Encoding
    processes: Processes

    def embed(self, plan: Plan, show_progress: bool | None) -> None:
        """Embed those shards of this process that are missing, in order.

        Args:
            plan: The plan of now; that of the store may be of data with another fingerprint.
            show_progress: Whether to show a bar; None shows it on a terminal.
        """
        same = plan.dataset_fingerprint
        known = same is not None and same == self.plan.dataset_fingerprint
        headers = self._finished()
        size, rank, world = self.plan.shard_rows, self.processes.rank, self.processes.world

        def wanted(number: int) -> bool:
            return number % world == rank and not (known and number in headers)

        count = self.chunks.count
        starts = range(rank * size, count or 0, world * size)
        total = None if count is None else sum(min(size, count - start) for start in starts)
        done = sum(header.rows for header in headers.values())
        show = False if rank else show_progress
        with progress(total, self.encoding.type.progress, "row", show, done) as bar:
            for chunk in self.chunks.read(size, wanted):
                if self.processes.another_failed(self.directory.path):
                    return
                if chunk.number in headers:
                    _refuse_changed(self.directory.path, chunk, headers[chunk.number])
                else:
                    self._embed_chunk(chunk, bar)

    def _finished(self) -> dict[int, ShardHeader]:
        """Headers of this process's complete shards, by number; damaged ones are rebuilt."""
        found = {}
        for number in self.directory.shards():
            if number % self.processes.world == self.processes.rank:
                try:
                    found[number] = self.directory.read_header(number)
                except ValueError as error:
                    logger.warning("%s; it is rebuilt", error)
        return found

    def _embed_chunk(self, chunk: Chunk, bar: Any) -> None:
        items_digest = chunk.digest()  # refuses what cannot be compared before hours of embedding
        labels, names = (None, None) if chunk.labels is None else number_labels(chunk.labels)
        step = max(1024, ENCODE_BATCHES * self.encoding.batch_size)
        pieces = []
        for begin in range(0, len(chunk.items), step):
            items = chunk.items[begin : begin + step]
            pieces.append(self.encoding.encode(items, chunk.first + begin))
            bar.update(len(items))
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if labels is not None:
            arrays["labels"] = labels
        shape = len(chunk.items), next(iter(arrays.values())).shape[1]
        stored, metadata = self.encoding.as_file(arrays)
        self.directory.write_shard(chunk.number, shape, stored, items_digest, names, metadata)

    def finish(self) -> None:
        """Write the arrays beside the shards, then the manifest that makes the store complete."""
        path, columns, count = self.directory.path, self.chunks.examples.columns, self.chunks.count
        shards = -(-(count or 0) // self.plan.shard_rows)
        headers = [self.directory.read_header(number) for number in range(shards)]
        if self.directory.shard(shards).exists():
            refuse_data(path, "it had more rows")
        if sum(header.rows for header in headers) != count:
            refuse_data(path, "row counts differ")
        dims = sorted({header.dim for header in headers})
        if len(dims) > 1:
            raise ValueError(f"{path} contains rows of several widths {dims}; begin again")
        arrays: dict[str, NDArray[Any]] = {}
        label_names = None
        if columns.label is not None:
            arrays["labels"], label_names = self._labels(headers)
        if columns.pair is not None:
            arrays["pairs"] = np.frombuffer(self.chunks.pairs, np.int64).reshape(-1, 2)
        if columns.score is not None:
            arrays["scores"] = np.frombuffer(self.chunks.scores, np.float32)
        for name, array in arrays.items():
            with atomic_path(path / f"{name}.npy") as part, part.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        manifest = Manifest(
            plan=self.plan,
            dim=dims[0],
            sizes=[header.rows for header in headers],
            checksums=[header.checksum for header in headers],
            arrays={name: digest(array) for name, array in arrays.items()},
            label_names=label_names,
        )
        self.directory.write(manifest)

    def _labels(self, headers: list[ShardHeader]) -> tuple[NDArray[np.int64], list[str] | None]:
        """Labels of all shards, names numbered in the order in which they first occur."""
        known: dict[str, int] = {}
        pieces = []
        for header in headers:
            codes = np.maximum(self.directory.open_shard(header.number).map("labels"), -1)
            if header.label_names is not None:
                codes_of = [known.setdefault(name, len(known)) for name in header.label_names]
                codes = np.array([*codes_of, -1], np.int64)[codes]
            pieces.append(codes)
        codes = np.concatenate(pieces)
        if not known and len(np.unique(codes)) == 2 and codes.min() < 0:  # -1 and 1, of a stream
            logger.warning(
                "one class only: %d of %d labels are negative numbers or missing, which both mean "
                "that a row has no class; number classes from 0, or use strings",
                np.count_nonzero(codes < 0),
                len(codes),
            )
        return codes, self.chunks.examples.label_names or list(known) or None
