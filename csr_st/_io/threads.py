"""Threads for the compiled loops, which release the interpreter's lock while they run."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

T = TypeVar("T")


def resolve_threads(threads: int | None) -> int:
    """The number of threads to use: ``threads``, or the CPUs that this process may use.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads is None:
        return available_cpus()
    if threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all processors")
    return threads


def available_cpus() -> int:
    """CPUs that this process may run on, or what a container's quota of their time comes to."""
    usable = getattr(os, "sched_getaffinity", None)
    cpus = len(usable(0)) if usable else os.cpu_count() or 1
    return max(1, min(cpus, _quota()))


@lru_cache
def _quota(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs whose time the control groups of this process allow, rounded up.

    A group has at most what each group above it has. Where a container sees only its own part of
    the tree, its group's path does not exist there, and its limit is at the root. cgroups(7).
    """
    found = [sys.maxsize]
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and "cpu" not in names.split(","):
            continue
        own = PurePosixPath(path)
        for place in (own, *own.parents):
            folder = root / names / str(place).lstrip("/")
            try:
                if names:  # version 1
                    quota, period = (
                        (folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
                    )
                else:
                    quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max" and int(quota) > 0:
                    found.append(math.ceil(int(quota) / int(period)))
            except (OSError, ValueError):  # no limit here
                continue
    return min(found)


@lru_cache(maxsize=4)
def _pool(workers: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a fork must not share
    return ThreadPoolExecutor(workers, thread_name_prefix="csr-st")


def run_all(tasks: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Run the tasks, at most ``threads`` at once; the results are in the order of the tasks."""
    if threads == 1 or len(tasks) <= 1:
        return [task() for task in tasks]
    # The calling thread takes part, as waking up another one takes longer than many tasks do.
    results: dict[int, T] = {}
    waiting = enumerate(tasks)

    def work() -> None:
        for number, task in waiting:
            results[number] = task()

    # Not more than there are tasks: each would start a thread.
    count = min(threads, len(tasks)) - 1
    helpers = [_pool(threads - 1, os.getpid()).submit(work) for _ in range(count)]
    try:
        work()
        for helper in helpers:
            helper.result()
    except BaseException:  # an error, or Ctrl-C: the helpers end with the tasks that they are at
        deque(waiting, maxlen=0)
        wait(helpers)
        raise
    return [results[number] for number in range(len(tasks))]
