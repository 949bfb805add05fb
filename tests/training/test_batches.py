"""Feeding: rows are read while a step computes, one batch ahead of it, and every row comes once."""

import threading

import numpy as np
import pytest
from accelerate import Accelerator

from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.training.batches import feed

PATIENCE = 30  # seconds


class Reads:
    """Counts how often rows are read, and can be waited for."""

    def __init__(self, monkeypatch):
        self.count, self._changed = 0, threading.Condition()
        self._rows = EmbeddingStore.rows
        monkeypatch.setattr(EmbeddingStore, "rows", lambda store, index: self._read(store, index))

    def _read(self, store, index):
        with self._changed:
            self.count += 1
            self._changed.notify_all()
        return self._rows(store, index)

    def reach(self, count):
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, PATIENCE)


@pytest.fixture
def store():
    return EmbeddingStore.from_array(np.arange(24, dtype=np.float32).reshape(12, 2))


def fed(store, steps, start=0):
    return feed(store, recipe(batch_size=4, steps=steps), 1.0, start, Accelerator())


def test_the_next_batch_and_no_further_one_is_read_while_a_batch_is_in_use(store, monkeypatch):
    reads = Reads(monkeypatch)
    batches = fed(store, steps=4)
    for read in (2, 3, 4, 4):
        next(batches)
        assert reads.reach(read)
        assert reads.count == read
    assert next(batches, None) is None
    assert reads.count == 4


def test_every_row_comes_once_an_epoch_and_a_later_start_gives_the_rest(store):
    steps, batches = zip(*fed(store, steps=6), strict=True)
    assert steps == tuple(range(6))
    for epoch in (batches[:3], batches[3:]):
        rows = np.concatenate([batch.vectors.numpy() for batch in epoch])
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.arange(0, 24, 2))
    rest = list(fed(store, steps=6, start=4))
    assert [step for step, _ in rest] == [4, 5]
    for (_, one), other in zip(rest, batches[4:], strict=True):
        np.testing.assert_array_equal(one.vectors, other.vectors)


def test_no_steps_read_nothing(store, monkeypatch):
    reads = Reads(monkeypatch)
    assert list(fed(store, steps=2, start=2)) == []
    assert reads.count == 0
