"""Requests that arrive together share a forward pass of the model.

One thread takes jobs from a queue: the first, and all others with equal work that fit into the same
batch. It never waits for more to come: while it computes, others arrive and are the next batch.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from csr_st.serving.errors import Refused
from csr_st.serving.limits import Limits

_log = logging.getLogger("csr_st.serving")


class Part(Protocol):
    """The results of a batch, of which each job gets its own."""

    def part(self, begin: int, end: int) -> Any:
        """Results ``begin`` to ``end``."""


class Work(Protocol):
    """What a model does with texts. Jobs with equal work are done together."""

    def __call__(self, texts: list[str]) -> Part:
        """The results, one for each text."""


@dataclass(eq=False)
class Job:
    """The texts of one request, waiting for the model.

    Attributes:
        work: The computation; jobs with equal work can share a batch.
        texts: One or more texts.
        finish: From the job's results to its answer; an error in it fails only this job.
        check: Called with the texts before the work; raises to refuse them.
        answer: Future of what ``finish`` returns, or of the error.
    """

    work: Work
    texts: Sequence[str]
    finish: Callable[[Any], Any]
    check: Callable[[Sequence[str]], None] | None = None
    answer: Future[Any] = field(default_factory=Future)


class Batcher:
    """A queue of jobs and the thread that does them.

    The thread begins with the first job, so that a process that was forked has its own.

    Args:
        limits: Limits of the queue and of a batch.
        observe: Called with the number of texts of each forward pass.
    """

    def __init__(self, limits: Limits, observe: Callable[[int], None] = lambda _: None) -> None:
        self._limits, self._observe = limits, observe
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Texts in the queue."""
        return self._waiting

    def open(self) -> None:
        """Take jobs again after `close`."""
        self._closed = False

    def submit(self, job: Job) -> Future[Any]:
        """Put a job at the end of the queue.

        Raises:
            Refused: If there is no room, or the server is about to end.
        """
        with self._changed:
            if self._closed:
                raise Refused(503, "the server is shutting down; try another one, or again later")
            if self._waiting + len(job.texts) > self._limits.queue:
                raise Refused(
                    429,
                    f"{self._waiting:,} texts wait already, and with {len(job.texts):,} more there "
                    f"would be over {self._limits.queue:,}; try again in a moment",
                )
            self._jobs.append(job)
            self._waiting += len(job.texts)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="csr-st-model", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Do what is in the queue, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while batch := self._next():
            started = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            if checked := [job for job in started if _checked(job)]:
                self._do(checked)
            del batch, started, checked  # else texts and answers stay until the next request

    def _next(self) -> list[Job]:
        """The first job and those with equal work that fit beside it; [] at the end."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return []
                self._changed.wait()
            batch, left = [self._jobs.popleft()], deque[Job]()
            texts, characters = _size(batch[0])
            while self._jobs and texts < self._limits.batch:
                job = self._jobs.popleft()
                more, longer = _size(job)
                if (
                    job.work == batch[0].work
                    and texts + more <= self._limits.batch
                    and characters + longer <= self._limits.batch_characters
                ):
                    batch.append(job)
                    texts, characters = texts + more, characters + longer
                else:
                    left.append(job)
            self._jobs.extendleft(reversed(left))
            self._waiting -= texts
        return batch

    def _do(self, batch: list[Job]) -> None:
        texts = [text for job in batch for text in job.texts]
        try:
            results = batch[0].work(texts)
        except Exception as error:
            if len(batch) > 1:  # one may have failed for all: each alone
                for job in batch:
                    self._do([job])
                return
            _log.exception("The model failed on %d texts", len(texts))
            reason = f"the model failed on these inputs ({type(error).__name__})"
            failed = Refused(500, f"{reason}; the server's log says more")
            batch[0].answer.set_exception(failed)
            return
        self._observe(len(texts))
        begin = 0
        for job in batch:
            end = begin + len(job.texts)
            _finish(job, results.part(begin, end))
            begin = end


def _size(job: Job) -> tuple[int, int]:
    return len(job.texts), sum(map(len, job.texts))


def _checked(job: Job) -> bool:
    """Whether a job's texts are possible; else it has its error."""
    try:
        if job.check is not None:
            job.check(job.texts)
    except Exception as error:
        job.answer.set_exception(error)
        return False
    return True


def _finish(job: Job, results: Any) -> None:
    try:
        answer = job.finish(results)
    except Exception as error:
        job.answer.set_exception(error)
    else:
        job.answer.set_result(answer)
