"""A store of millions of rows: time to open, rows fed to training a second, peak memory.

    python tests/benchmarks/scale.py --rows 5000000 --dim 384 --output scale.json

Vectors are synthetic and embedding them costs next to nothing, so "embed" is the store's own
cost of writing. Memory is what the process has above its start, counted by the system, mapped
pages included. ``--cold`` drops the store from the system's file cache before reading, so that
reading waits for the disk.
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

from csr_st.embeddings import EmbeddingStore

POOL_ROWS = 1 << 16


class SyntheticModel:
    """Gives rows of a fixed random pool: as fast as a model can be."""

    def __init__(self, dim: int) -> None:
        self._pool = np.random.default_rng(0).standard_normal((POOL_ROWS, dim), np.float32)

    def encode(self, items: list[str], **_: object) -> np.ndarray:
        begin = int(items[0]) % (POOL_ROWS - len(items))
        return self._pool[begin : begin + len(items)]


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def embed(path: Path, rows: int, dim: int) -> dict[str, float]:
    model = SyntheticModel(dim)

    def items() -> Iterator[str]:
        yield from map(str, range(rows))

    before, begin = peak_bytes(), time.perf_counter()
    EmbeddingStore.embed(model, items(), path)
    seconds = time.perf_counter() - begin
    return {
        "rows_per_second": round(rows / seconds),
        "seconds": round(seconds, 2),
        "peak_mb_above_start": round((peak_bytes() - before) / 1e6, 1),
    }


def drop_from_cache(path: Path) -> None:
    for file in path.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(path: Path, batch_size: int, batches: int, cold: bool) -> dict[str, float]:
    if cold:
        drop_from_cache(path)
    before, begin = peak_bytes(), time.perf_counter()
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
        "peak_mb_above_start": round((peak_bytes() - before) / 1e6, 1),
    }


def in_own_process(step: str, arguments: argparse.Namespace, path: Path) -> dict[str, float]:
    """Peak memory is of a whole process, so each step has one."""
    command = [sys.executable, __file__, "--step", step, "--path", str(path)]
    for name in ("rows", "dim", "batch_size", "batches"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--cold"] * arguments.cold
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=1000, help="batches to read at most")
    parser.add_argument("--cold", action="store_true", help="drop the file cache before reading")
    parser.add_argument("--path", type=Path, help="keep the store here, or read the one there")
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    parser.add_argument("--step", choices=["embed", "read"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "embed":
        print(json.dumps(embed(arguments.path, arguments.rows, arguments.dim)))
    elif arguments.step == "read":
        batches, size = arguments.batches, arguments.batch_size
        print(json.dumps(read(arguments.path, size, batches, arguments.cold)))
    else:
        path = arguments.path or Path(tempfile.mkdtemp()) / "store"
        try:
            result = {
                **{
                    name: getattr(arguments, name) for name in ("rows", "dim", "batch_size", "cold")
                },
                "embed": None if path.exists() else in_own_process("embed", arguments, path),
                "read": in_own_process("read", arguments, path),
            }
        finally:
            if arguments.path is None:
                shutil.rmtree(path.parent)
        print(json.dumps(result, indent=2))
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
