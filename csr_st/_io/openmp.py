"""OpenMP, by which torch shares its work among threads: as many as there are CPUs, and patient."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # it has no types

from csr_st._io.threads import available_cpus

GRAIN = 32_768  # entries of a tensor for which torch uses one more thread


@contextlib.contextmanager
def patient_openmp() -> Iterator[None]:
    """Let torch's threads sleep, not spin, while they wait for each other.

    GNU's OpenMP, which torch has on Linux, spins at the end of each parallel region. If another
    process runs on the CPU of the thread that is waited for, that takes milliseconds, hundreds of
    times a step: with two threads beside two busy processes a step took ten times longer than with
    one. OpenMP spins a thousandth as long while it has more threads than there are CPUs
    (GOMP_SPINCOUNT in the manual of libgomp), so a team of threads sleeps beside the block. Unlike
    fewer threads, it changes no bit of a result.

    torch also gets no more threads than `available_cpus`, as its own number ignores a container's
    quota. With one thread nothing is done.
    """
    threads = min(torch.get_num_threads(), available_cpus())
    if threads == 1 == torch.get_num_threads():
        yield
        return
    begun, ended = threading.Event(), threading.Event()

    def sleep() -> None:
        """The team belongs to this thread, and ends with it."""
        team = available_cpus() + 1
        try:
            torch.get_num_threads()  # sets the number of this thread; not after the next line
            with threadpool_limits(team, user_api="openmp"):
                torch.zeros(team * GRAIN)
        finally:
            begun.set()
        ended.wait()

    threading.Thread(target=sleep, name="csr-st-openmp", daemon=True).start()
    begun.wait()
    try:
        with threadpool_limits(threads, user_api="openmp"):  # of this thread only
            yield
    finally:
        ended.set()
