"""Ctrl-C in the command line: a line in place of a traceback, and an end within a second.

Whatever this package writes appears completely or not at all, so a process may end at any moment.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130  # exit code, as shells have it: 128 + SIGINT
GRACE = 0.7  # seconds for Python to reach its next instruction and to clean up


def _while_importing() -> None:
    """If this process is the command line, end with one line on Ctrl-C until `watched` begins.

    The imports take seconds, and an interrupt in them would show a traceback of their insides.
    """
    started_as = getattr(sys, "orig_argv", sys.argv)
    is_module = "csr_st.cli" in started_as[1:4]
    is_script = os.path.basename(sys.argv[0]) in ("csr-st", "csr-st.exe")
    if (is_module or is_script) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end_at_once)


def ignored_at_exit() -> None:
    """From the beginning of this process's end on, ignore Ctrl-C.

    All work is done then, and Python takes up to seconds to leave; an interrupt would make a
    success look like a failure.
    """
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _end_at_once(*_: Any) -> None:
    os.write(2, b"\ncsr-st: interrupted before it began; run the same command again\n")
    os._exit(INTERRUPTED)


class Interrupt:
    """Whether Ctrl-C was pressed, and how the process ends then.

    Attributes:
        happened: Whether it was pressed.
    """

    def __init__(self, message: Callable[[], str]) -> None:
        self.happened = False
        self._message = message
        self._ends = threading.Lock()

    def end(self) -> None:
        """End the process with the message, at once: Python's own end takes seconds."""
        if self._ends.acquire(timeout=0.2):  # once: both threads may come here
            os.write(2, self._message().encode(errors="replace"))
        os._exit(INTERRUPTED)

    def _handle(self, *_: Any) -> None:
        if not self.happened:  # a second Ctrl-C must not break the cleaning up
            self.happened = True
            raise KeyboardInterrupt

    def _end_after_grace(self, signals: int) -> None:
        """Wait for the byte that Python writes at a signal, before any handler runs."""
        while (found := os.read(signals, 1)) and found != bytes([signal.SIGINT]):
            pass
        os.close(signals)
        if found:  # else the block ended without an interrupt
            time.sleep(GRACE)
            self.end()


@contextmanager
def watched(message: Callable[[], str]) -> Iterator[Interrupt]:
    """Within the block, Ctrl-C raises KeyboardInterrupt once and ends the process after `GRACE`.

    Python sees an interrupt only between two of its instructions; a compiled loop, a matrix product
    or the wait for another thread can take longer. A second thread then ends the process.

    Args:
        message: Gives the lines for stderr.

    Yields:
        What says whether there was an interrupt, and ends the process.
    """
    interrupt = Interrupt(message)
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield interrupt
        return
    handler, hook = signal.signal(signal.SIGINT, interrupt._handle), sys.unraisablehook
    # In a callback of C code the exception is lost, with a traceback; the thread ends the process.
    sys.unraisablehook = lambda lost: (
        None if isinstance(lost.exc_value, KeyboardInterrupt) else hook(lost)
    )
    writing = before = -1
    if os.name == "posix":
        signals, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=interrupt._end_after_grace, args=[signals], daemon=True).start()
    try:
        yield interrupt
    finally:
        if not interrupt.happened:
            sys.unraisablehook = hook
            signal.signal(signal.SIGINT, handler)
            if writing >= 0:
                signal.set_wakeup_fd(before)
                os.close(writing)


@contextmanager
def noted_signals(heard: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Within the block, SIGINT and SIGTERM end nothing: for a server, which ends by itself.

    Args:
        heard: Called at each.

    Yields:
        The signals that came, so far.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # others get no signals
        yield came
        return
    noted = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    before = signal.set_wakeup_fd(-1)  # by which `watched` would end the process

    def note(number: int, _: Any) -> None:
        came.append(number)
        heard()

    for one in noted:
        signal.signal(one, note)
    try:
        yield came
    finally:
        for one, handler in noted.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(before)


_while_importing()
