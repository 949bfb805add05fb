"""Jobs that wait together share one pass, keep their order, and fail alone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")

from csr_st.serving import Limits
from csr_st.serving.batching import Batcher, Job
from csr_st.serving.errors import Refused

SECONDS = 60


class Upper(list):
    def part(self, begin, end):
        return list(self[begin:end])


@dataclass(frozen=True)
class Work:
    """Upper case; fails on "bad", and waits for an event on "wait"."""

    name: str = "upper"
    passes: list = field(default_factory=list, compare=False)
    go: threading.Event = field(default_factory=threading.Event, compare=False)
    begun: threading.Event = field(default_factory=threading.Event, compare=False)

    def __call__(self, texts):
        self.passes.append(list(texts))
        if "wait" in texts:
            self.begun.set()
            assert self.go.wait(SECONDS)
        if "bad" in texts:
            raise ValueError("bad text")
        return Upper(text.upper() for text in texts)


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def batcher():
    opened = Batcher(Limits(inputs=4, queue=8, batch=4, batch_characters=40))
    yield opened
    opened.close()


def waiting(batcher, work, *jobs):
    """Submit jobs while the thread is busy with another; their answers, in order."""
    first = batcher.submit(Job(work, ["wait"], tuple))
    assert work.begun.wait(SECONDS)
    answers = [batcher.submit(job) for job in jobs]
    work.go.set()
    assert first.result(SECONDS) == ("WAIT",)
    return answers


def job(work, *texts, finish=list, check=None):
    return Job(work, texts, finish, check)


def test_jobs_that_wait_share_a_pass_and_get_their_own_results(batcher, work):
    answers = waiting(batcher, work, job(work, "a", "b"), job(work, "c"), job(work, "d"))
    assert [one.result(SECONDS) for one in answers] == [["A", "B"], ["C"], ["D"]]
    assert work.passes == [["wait"], ["a", "b", "c", "d"]]


def test_a_batch_has_at_most_so_many_texts_and_characters(batcher, work):
    long = "x" * 30
    jobs = [job(work, "a", "b", "c"), job(work, "d", "e"), job(work, long), job(work, "f")]
    answers = waiting(batcher, work, *jobs)
    results = [one.result(SECONDS) for one in answers]
    assert results == [["A", "B", "C"], ["D", "E"], [long.upper()], ["F"]]
    # The second does not fit beside the first, the third does: 3 and 30 characters are within 40.
    assert work.passes == [["wait"], ["a", "b", "c", long], ["d", "e", "f"]]


def test_a_job_longer_than_a_batch_goes_alone(work):
    batcher = Batcher(Limits(inputs=4, batch=2, batch_characters=10))
    answers = waiting(batcher, work, job(work, *"abcd"), job(work, "e"))
    assert [one.result(SECONDS) for one in answers] == [list("ABCD"), ["E"]]
    assert work.passes == [["wait"], list("abcd"), ["e"]]
    batcher.close()


def test_different_work_is_done_apart_in_the_order_of_its_first_job(batcher, work):
    other = Work("other", work.passes)
    jobs = [job(other, "a"), job(work, "b"), job(other, "c"), job(work, "d")]
    answers = waiting(batcher, work, *jobs)
    assert [one.result(SECONDS) for one in answers] == [["A"], ["B"], ["C"], ["D"]]
    assert work.passes == [["wait"], ["a", "c"], ["b", "d"]]


def test_an_input_that_fails_does_not_fail_its_neighbours(batcher, work, caplog):
    jobs = [job(work, "a"), job(work, "bad"), job(work, "c")]
    first, second, third = waiting(batcher, work, *jobs)
    assert first.result(SECONDS) == ["A"]
    assert third.result(SECONDS) == ["C"]
    with pytest.raises(Refused, match="ValueError") as error:
        second.result(SECONDS)
    assert error.value.status == 500
    assert "bad text" in caplog.text  # in the log, not in the answer
    assert "bad text" not in str(error.value)


def test_an_answer_or_check_that_fails_is_of_its_job_alone(batcher, work):
    def refuse(_):
        raise Refused(422, "not possible")

    jobs = [job(work, "a"), job(work, "b", finish=refuse), job(work, "c", check=refuse)]
    first, second, third = waiting(batcher, work, *jobs)
    assert first.result(SECONDS) == ["A"]
    for one in (second, third):
        with pytest.raises(Refused, match="not possible"):
            one.result(SECONDS)
    assert work.passes == [["wait"], ["a", "b"]]  # what was refused cost no pass


def test_a_full_queue_refuses_and_takes_again(batcher, work):
    first = batcher.submit(job(work, "wait"))
    assert work.begun.wait(SECONDS)
    answers = [batcher.submit(job(work, *"abcd")), batcher.submit(job(work, *"efg"))]
    assert batcher.waiting == 7
    with pytest.raises(Refused, match="7 texts wait already") as error:
        batcher.submit(job(work, "x", "y"))
    assert error.value.status == 429
    answers.append(batcher.submit(job(work, "h")))
    work.go.set()
    assert first.result(SECONDS) == ["WAIT"]
    assert [one.result(SECONDS) for one in answers] == [list("ABCD"), list("EFG"), ["H"]]
    assert batcher.waiting == 0


def test_a_job_whose_client_left_is_not_done(batcher, work):
    first = batcher.submit(job(work, "wait"))
    assert work.begun.wait(SECONDS)
    left, stays = batcher.submit(job(work, "a")), batcher.submit(job(work, "b"))
    assert left.cancel()
    work.go.set()
    assert stays.result(SECONDS) == ["B"]
    assert first.result(SECONDS) == ["WAIT"]
    assert work.passes == [["wait"], ["b"]]


def test_closing_answers_what_waits_and_refuses_more(batcher, work):
    answers = waiting(batcher, work, *(job(work, text) for text in "abcdef"))
    batcher.close()
    assert [one.result(0) for one in answers] == [[text.upper()] for text in "abcdef"]
    with pytest.raises(Refused, match="shutting down") as error:
        batcher.submit(job(work, "a"))
    assert error.value.status == 503
    batcher.open()
    assert batcher.submit(job(work, "a")).result(SECONDS) == ["A"]
