"""Several processes that serve one socket; one that ends is replaced.

uvicorn has workers too. It asks each whether it is well, and waits for the answer: for as long as a
model may take to load, also of a worker that is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

import torch
import uvicorn
from prometheus_client.multiprocess import mark_process_dead

from csr_st._io.interrupts import noted_signals
from csr_st.serving.metrics import SHARED

FAILED = 3  # exit code of a worker whose app cannot be made: another would fail too
TICK_SECONDS = 0.2
PAUSE_SECONDS = 1  # before a worker is replaced, so that one that always dies takes no whole CPU

Make = Callable[[], tuple[Any, dict[str, Any]]]

_log = logging.getLogger("csr_st.serving")


def supervise(make: Make, workers: int, opened: socket.socket, signals: list[int]) -> bool:
    """Keep workers alive until a signal comes; requests in work are answered then.

    Args:
        make: Gives a worker its app and uvicorn's options; it is pickled.
        workers: How many.
        opened: The socket that all serve.
        signals: Of `noted_signals`, around this call.

    Returns:
        Whether a signal ended it, and not a worker that could not make its app before any had.
    """
    context = multiprocessing.get_context("spawn")
    made = context.Event()  # by a worker: from then on, one that fails is tried again

    def begin() -> BaseProcess:
        process = context.Process(target=_work, args=(make, workers, opened, made))
        process.start()
        return process

    with tempfile.TemporaryDirectory(prefix="csr-st-metrics-") as folder:
        os.environ[SHARED] = folder  # of the workers, which inherit it
        running = [begin() for _ in range(workers)]
        try:
            while not signals:
                wait([process.sentinel for process in running], TICK_SECONDS)
                for place, process in enumerate(running):
                    if process.exitcode is None or signals:
                        continue
                    if process.exitcode == FAILED and not made.is_set():
                        return False
                    _log.warning(
                        "Worker %d ended with code %d; another takes its place",
                        process.pid,
                        process.exitcode,
                    )
                    assert process.pid is not None
                    mark_process_dead(process.pid, folder)  # type: ignore[no-untyped-call]
                    time.sleep(PAUSE_SECONDS)
                    running[place] = begin()
        finally:
            for process in running:
                process.terminate()  # SIGTERM, at which a worker answers what it has
            for process in running:
                process.join()
            del os.environ[SHARED]
    return True


def _work(make: Make, workers: int, opened: socket.socket, made: Event) -> None:
    """Serve, in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent says when to end
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        app, options = make()
    except Exception as error:
        print(f"csr-st: error: {error}", file=sys.stderr)  # noqa: T201 - a process of its own
        sys.exit(FAILED)
    made.set()
    server = uvicorn.Server(uvicorn.Config(app, **options))
    threading.Thread(target=_end_with_parent, args=[server], daemon=True).start()
    with noted_signals(partial(setattr, server, "should_exit", True)):
        server.run(sockets=[opened])


def _end_with_parent(server: uvicorn.Server) -> None:
    """End a worker whose parent was killed, which else would keep the port."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    server.should_exit = True
