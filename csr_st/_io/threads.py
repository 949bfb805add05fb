"""Threads for the compiled loops, which release the interpreter's lock while they run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def resolve_threads(threads: int | None) -> int:
    """The number of threads to use: ``threads``, or the CPUs that this process may run on.

    Raises:
        ValueError: If ``threads`` is below 1.
    """
    if threads is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads={threads} must be at least 1, or None for all processors")
    return threads


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
