"""Embedding data into a store: shard by shard, resumable, by one process or several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array
from numpy.typing import NDArray
from tqdm.auto import tqdm

from csr_st._io.files import atomic_path
from csr_st.data.examples import Columns, read_examples
from csr_st.distributed import Processes, current_processes
from csr_st.embeddings.arrays import number_labels
from csr_st.embeddings.encoder import Encoding
from csr_st.embeddings.inputs import Chunk, Rows
from csr_st.embeddings.lock import WriterLock
from csr_st.embeddings.manifest import (
    Kind,
    Manifest,
    Plan,
    read_manifest,
    read_plan,
    refuse_data,
    write_manifest,
    write_plan,
)
from csr_st.embeddings.shards import (
    ShardHeader,
    digest,
    read_labels,
    read_shard_header,
    shard_path,
    write_shard,
)

logger = logging.getLogger(__name__)

SHARD_ROWS = 1 << 14
IMAGE_SHARD_ROWS = 1 << 10  # the bytes of a shard's image files are held
# Items handed to the model at once: enough for it to sort by length, few enough for the bar to move
ENCODE_BATCHES = 32


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
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; a store is a directory")
    examples = read_examples(data, columns)
    rows = Rows(examples, examples.columns)
    recipe = {**encoding.identity(), "columns": _jsonable(examples.columns)}
    usual = SHARD_ROWS if examples.textual else IMAGE_SHARD_ROWS
    plan = Plan(recipe, shard_rows or usual, examples.name, examples.fingerprint, rows=rows.count)
    if _is_complete(path, plan, rows, encoding.kind):
        return
    processes = current_processes()
    with _writing(path, plan, encoding.kind, processes) as begun:
        writer = _Writer(path, begun, rows, encoding, processes)
        error: Exception | None = None
        try:
            with encoding.ready(processes.device):
                writer.embed(plan, show_progress)
        except Exception as caught:
            error = caught
        processes.wait_for_all(path, error)
        processes.raise_together(error)
        if processes.rank == 0:
            try:
                writer.finish()
            except Exception as caught:
                error = caught
        processes.raise_together(error)


def _jsonable(columns: Columns) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(columns).items()}


def _is_complete(path: Path, plan: Plan, rows: Rows, kind: Kind) -> bool:
    """Whether the store is there already, of the same plan and data.

    Data without a known fingerprint is read to its end and compared with the digests in the
    shards: that is far cheaper than to embed it.

    Raises:
        ValueError: If another plan or other data was embedded there.
    """
    manifest = read_manifest(path, kind)
    if manifest is None:
        return False
    manifest.plan.refuse_other(plan, path)
    known = plan.dataset_fingerprint
    if known is None or known != manifest.plan.dataset_fingerprint:
        _refuse_other_data(path, manifest, rows, kind)
    return True


def _refuse_other_data(path: Path, manifest: Manifest, rows: Rows, kind: Kind) -> None:
    """Raise a ValueError if anything of the data is not what the store was made from."""
    names: dict[str, None] = {}
    for chunk in rows.chunks(manifest.plan.shard_rows, lambda _: True):
        if chunk.number >= len(manifest.sizes):
            refuse_data(path, f"it had only {sum(manifest.sizes)} rows")
        _refuse_changed(path, chunk, read_shard_header(shard_path(path, chunk.number), kind))
        names |= dict.fromkeys(label for label in chunk.labels or () if isinstance(label, str))
    if rows.count != sum(manifest.sizes):
        refuse_data(path, f"data of {sum(manifest.sizes)} rows there, {rows.count} rows now")
    now = rows.examples.label_names or list(names) or None
    if now != manifest.label_names:
        refuse_data(path, f"its label names are {manifest.label_names} there, {now} now")
    beside = {"pairs": rows.pairs, "scores": rows.scores}
    for name, numbers in beside.items():
        if name in manifest.arrays and digest(np.asarray(numbers)) != manifest.arrays[name]:
            refuse_data(path, f"its {name} differ")


@contextlib.contextmanager
def _writing(path: Path, plan: Plan, kind: Kind, processes: Processes) -> Iterator[Plan]:
    """Hold the store for writing, its plan begun or found again, in every process."""
    lock = WriterLock(path)
    error: Exception | None = None
    try:
        if processes.rank == 0:
            try:
                path.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                _begin(path, plan, kind)
                processes.clear_marks(path)
            except Exception as caught:
                error = caught
        processes.raise_together(error)
        begun = read_plan(path, kind)
        if begun is None:
            raise ValueError(f"process {processes.rank} does not see {path}; use a shared disk")
        yield begun
    finally:
        processes.clear_marks(path)
        lock.release()


def _begin(path: Path, plan: Plan, kind: Kind) -> None:
    begun = read_plan(path, kind)
    if begun is not None:
        begun.refuse_other(plan, path)
        _clear_leftovers(path)
        return
    foreign = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if foreign:
        raise ValueError(
            f"{path} holds other files ({', '.join(sorted(foreign)[:3])}); pass a new or empty "
            "directory"
        )
    _clear_leftovers(path)
    write_plan(path, plan, kind)


def _clear_leftovers(path: Path) -> None:
    """Remove what a process wrote that was killed before it could give the file its name."""
    for leftover in path.glob(".*.part"):
        leftover.unlink()


def _refuse_changed(path: Path, chunk: Chunk, header: ShardHeader) -> None:
    if header.items != chunk.digest():
        last = chunk.first + header.rows - 1
        refuse_data(path, f"rows {chunk.first}..{last} there are not those of the data now")


class _Writer:
    """Writes the shards of one process, and completes the store."""

    def __init__(
        self, path: Path, plan: Plan, rows: Rows, encoding: Encoding, processes: Processes
    ) -> None:
        self.path = path
        self.plan = plan
        self.rows = rows
        self.encoding = encoding
        self.kind = encoding.kind
        self.processes = processes

    def embed(self, plan: Plan, show_progress: bool | None) -> None:
        """Embed this process's shards that are not there yet, in order."""
        same = plan.dataset_fingerprint
        known = same is not None and same == self.plan.dataset_fingerprint
        headers = self._finished()

        def wanted(number: int) -> bool:
            return self._is_mine(number) and not (known and number in headers)

        silent = None if show_progress is None else not show_progress
        with tqdm(
            desc=self.encoding.progress,
            unit="row",
            total=self._my_rows(),
            initial=sum(header.rows for header in headers.values()),
            disable=True if self.processes.rank else silent,
        ) as bar:
            for chunk in self.rows.chunks(self.plan.shard_rows, wanted):
                if self.processes.another_failed(self.path):
                    return
                if chunk.number in headers:
                    _refuse_changed(self.path, chunk, headers[chunk.number])
                else:
                    self._embed_chunk(chunk, bar)

    def _is_mine(self, number: int) -> bool:
        return number % self.processes.world == self.processes.rank

    def _my_rows(self) -> int | None:
        """Rows of this process's shards, where the data is counted."""
        if self.rows.count is None:
            return None
        size = self.plan.shard_rows
        starts = range(self.processes.rank * size, self.rows.count, self.processes.world * size)
        return sum(min(size, self.rows.count - start) for start in starts)

    def _finished(self) -> dict[int, ShardHeader]:
        """This process's shards that are there, by number; a damaged one is embedded anew."""
        found = {}
        for path in sorted(self.path.glob("shard-*.safetensors")):
            number = int(path.stem.removeprefix("shard-"))
            if self._is_mine(number):
                try:
                    found[number] = read_shard_header(path, self.kind)
                except ValueError as error:
                    logger.warning("%s; it is made anew", error)
        return found

    def _embed_chunk(self, chunk: Chunk, bar: Any) -> None:
        labels, names = (None, None) if chunk.labels is None else number_labels(chunk.labels)
        identity = chunk.digest()  # refuses what it cannot tell before hours of embedding
        step = max(1024, ENCODE_BATCHES * self.encoding.batch_size)
        pieces = []
        for begin in range(0, len(chunk.items), step):
            items = chunk.items[begin : begin + step]
            pieces.append(self.encoding.encode(items, chunk.first + begin))
            bar.update(len(items))
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if labels is not None:
            arrays["labels"] = labels
        write_shard(
            self.path,
            self.kind,
            chunk.number,
            arrays,
            identity,
            names,
            self.encoding.metadata(),
        )

    def finish(self) -> None:
        """Write the arrays beside the shards, then the manifest that makes the store complete."""
        count = self.rows.count or 0
        shards = -(-count // self.plan.shard_rows)
        headers = [
            read_shard_header(shard_path(self.path, number), self.kind) for number in range(shards)
        ]
        self._check_headers(headers, count)
        arrays, label_names = self._labels(headers)
        if self.rows.columns.pair is not None:
            arrays["pairs"] = np.frombuffer(self.rows.pairs, np.int64).reshape(-1, 2)
        if self.rows.columns.score is not None:
            arrays["scores"] = np.frombuffer(self.rows.scores, np.float32)
        for name, content in arrays.items():
            with atomic_path(self.path / f"{name}.npy") as part, part.open("wb") as file:
                write_array(file, content, allow_pickle=False)
        manifest = Manifest(
            plan=self.plan,
            dim=headers[0].dim,
            sizes=[header.rows for header in headers],
            checksums=[header.checksum for header in headers],
            arrays={name: digest(np.ascontiguousarray(c)) for name, c in arrays.items()},
            label_names=label_names,
        )
        write_manifest(self.path, manifest, self.kind)

    def _check_headers(self, headers: list[ShardHeader], count: int) -> None:
        if shard_path(self.path, len(headers)).exists():
            refuse_data(self.path, "it had more rows")
        if sum(header.rows for header in headers) != count:
            refuse_data(self.path, "row counts differ")
        dims = sorted({header.dim for header in headers})
        if len(dims) > 1:
            raise ValueError(f"{self.path} holds rows of several widths {dims}; begin anew")

    def _labels(
        self, headers: list[ShardHeader]
    ) -> tuple[dict[str, NDArray[Any]], list[str] | None]:
        """Labels of all shards, names numbered in the order in which they first occur."""
        if self.rows.columns.label is None:
            return {}, None
        declared = self.rows.examples.label_names
        known: dict[str, int] = {}
        pieces = []
        for header in headers:
            codes = np.maximum(read_labels(shard_path(self.path, header.number)), -1)
            if header.label_names is not None:
                codes_of = [known.setdefault(name, len(known)) for name in header.label_names]
                codes = np.array([*codes_of, -1], np.int64)[codes]
            pieces.append(codes)
        return {"labels": np.concatenate(pieces)}, declared or (list(known) or None)
