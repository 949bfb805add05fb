"""Time and peak memory of a store of millions of rows: embed, read, train, encode.

    python tests/benchmarks/scale.py --rows 5000000 --dim 384 --output scale.json

Vectors are synthetic and cost almost nothing to embed, so "embed" is the cost of writing the store,
and "encode" that of a head and of writing codes. Each part runs in its own process. Memory is the
peak resident size of that process, mapped pages included, above its size before the part began,
with modules loaded and, for "encode", the model in memory.

"train" is `csr_st.train` with its default recipe and 4 latents per dimension. Its seconds include
the sample at the start and the refit of the decoder at the end; the figures of its steps do not. A
step lasts from the request for its batch to the request for the next; its wait is the time until
the batch arrived, whether for the disk or for the order of rows. The first batch cannot be read
during an earlier step and is reported separately.

``--cold`` drops the store from the system's file cache before reading, so that reading waits for
the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.embeddings import EmbeddingStore
from csr_st.training import loop as training
from csr_st.vectors import VectorInput

POOL_ROWS = 1 << 16
TRAIN_BATCH = 512
ENCODE_BATCH = 512
K = 32
STEPS = ("embed", "read", "train", "encode")


class SyntheticModel:
    """Returns rows of a fixed random pool, in almost no time."""

    def __init__(self, dim: int) -> None:
        self._pool = np.random.default_rng(0).standard_normal((POOL_ROWS, dim), np.float32)

    def encode(self, items: list[str], **_: object) -> np.ndarray:
        begin = int(items[0]) % (POOL_ROWS - len(items))
        return self._pool[begin : begin + len(items)]


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_mb_above(start: int) -> float:
    """Peak resident memory of this process, in MB above ``start`` bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return round((peak - start) / 1e6, 1)


def embed(path: Path, rows: int, dim: int) -> dict[str, float]:
    model = SyntheticModel(dim)

    def items() -> Iterator[str]:
        yield from map(str, range(rows))

    before, begin = resident_bytes(), time.perf_counter()
    EmbeddingStore.embed(model, items(), path)
    seconds = time.perf_counter() - begin
    return {
        "rows_per_second": round(rows / seconds),
        "seconds": round(seconds, 2),
        "peak_mb_above_start": peak_mb_above(before),
    }


def drop_from_cache(path: Path) -> None:
    for file in path.iterdir():
        if not file.is_file():
            continue
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(path: Path, batch_size: int, batches: int, cold: bool) -> dict[str, float]:
    if cold:
        drop_from_cache(path)
    before, begin = resident_bytes(), time.perf_counter()
    store = EmbeddingStore.open(path)
    opened = time.perf_counter() - begin
    begin = time.perf_counter()
    order = store.batches(batch_size, seed=0, epoch=0)
    first = store.rows(next(order))
    started = time.perf_counter() - begin
    taken, begin = 0, time.perf_counter()
    for number, index in enumerate(order):
        if number == batches:
            break
        taken += len(store.rows(index))
    seconds = time.perf_counter() - begin
    return {
        "open_ms": round(opened * 1e3, 2),
        "first_batch_ms": round(started * 1e3, 2),
        "rows_per_second": round(taken / max(seconds, 1e-9)),
        "ms_per_batch": round(seconds / max(taken, 1) * len(first) * 1e3, 2),
        "peak_mb_above_start": peak_mb_above(before),
    }


class Waits:
    """Records when each item of an iterator was requested and when it arrived."""

    def __init__(self) -> None:
        self.requested: list[float] = []
        self.arrived: list[float] = []

    def watch(self, batches: Iterator[object]) -> Iterator[object]:
        while True:
            self.requested.append(time.perf_counter())
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.arrived.append(time.perf_counter())
            yield batch

    def figures(self) -> dict[str, float]:
        """Figures of all steps but the first; the last ends at one more request."""
        requested, arrived = np.array(self.requested), np.array(self.arrived)
        step, wait = np.diff(requested)[1:], (arrived - requested[:-1])[1:]
        return {
            "first_batch_ms": round((arrived[0] - requested[0]) * 1e3, 2),
            "step_ms_median": round(float(np.median(step)) * 1e3, 2),
            "wait_ms_median": round(float(np.median(wait)) * 1e3, 3),
            "wait_ms_worst": round(float(wait.max()) * 1e3, 3),
            "wait_share_median": round(float(np.median(wait / step)), 4),
            "wait_share_worst": round(float((wait / step).max()), 4),
            "wait_share_of_all": round(float(wait.sum() / step.sum()), 4),
        }


def train(path: Path, steps: int, cold: bool) -> dict[str, float]:
    if cold:
        drop_from_cache(path)
    before, waits, feed = resident_bytes(), Waits(), training.feed
    training.feed = lambda *arguments: waits.watch(feed(*arguments))
    store = EmbeddingStore.open(path)
    config = csr_st.recipe(steps=steps, hidden_dim=4 * store.dim, batch_size=TRAIN_BATCH, k=K)
    result = csr_st.train(store, config, show_progress=False)
    return {
        "hidden_dim": result.head.hidden_dim,
        "batch_size": result.config.batch_size,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "seconds": round(result.seconds, 2),
        **waits.figures(),
        "peak_mb_above_start": peak_mb_above(before),
    }


def encode(path: Path, cold: bool) -> dict[str, float]:
    if cold:
        drop_from_cache(path)
    store = EmbeddingStore.open(path)
    head = csr_st.SparseCSRHead(store.dim, 4 * store.dim, k=K)
    model = csr_st.attach(SentenceTransformer(modules=[VectorInput(store.dim)], device="cpu"), head)

    def stream() -> Iterator[np.ndarray]:
        for first in range(0, len(store), POOL_ROWS // 16):
            yield from store.rows(np.arange(first, min(first + POOL_ROWS // 16, len(store))))

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        before, begin = resident_bytes(), time.perf_counter()
        codes = csr_st.CodeStore.encode(
            model,
            stream(),
            Path(folder) / "codes",
            dtype="float16",
            batch_size=ENCODE_BATCH,
            show_progress=False,
        )
        seconds = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in codes.path.iterdir())
        return {
            "hidden_dim": codes.hidden_dim,
            "k": codes.k,
            "batch_size": ENCODE_BATCH,
            "threads": torch.get_num_threads(),
            "rows_per_second": round(len(codes) / seconds),
            "seconds": round(seconds, 2),
            "bytes_per_row_on_disk": round(size / len(codes), 1),
            "peak_mb_above_start": peak_mb_above(before),
        }


def in_own_process(step: str, arguments: argparse.Namespace, path: Path) -> dict[str, float]:
    """Peak memory is counted per process, so each step has its own."""
    command = [sys.executable, __file__, "--step", step, "--path", str(path)]
    for name in ("rows", "dim", "batch_size", "batches", "train_steps"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--cold"] * arguments.cold
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    path, cold = arguments.path, arguments.cold
    if arguments.step == "embed":
        return embed(path, arguments.rows, arguments.dim)
    if arguments.step == "read":
        return read(path, arguments.batch_size, arguments.batches, cold)
    if arguments.step == "train":
        return train(path, arguments.train_steps, cold)
    return encode(path, cold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=1000, help="batches to read at most")
    parser.add_argument(
        "--train-steps",
        type=int,
        default=600,
        help="steps of training; above 512, one crosses into the next pool of shuffled rows",
    )
    parser.add_argument("--cold", action="store_true", help="drop the file cache before reading")
    parser.add_argument("--path", type=Path, help="keep the store here, or read it if it exists")
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_steps < 2:
        parser.error(
            f"--train-steps {arguments.train_steps} must be at least 2: the first is not counted"
        )
    if arguments.step is not None:
        print(json.dumps(measure(arguments)))
        return
    path = arguments.path or Path(tempfile.mkdtemp()) / "store"
    named = ("rows", "dim", "batch_size", "cold")
    result: dict[str, object] = {name: getattr(arguments, name) for name in named}
    try:
        for step in STEPS:
            skipped = step == "embed" and path.exists()
            result[step] = None if skipped else in_own_process(step, arguments, path)
    finally:
        if arguments.path is None:
            shutil.rmtree(path.parent)
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
