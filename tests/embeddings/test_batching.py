"""The order of training: every row once, the same for any number of processes, resumable."""

import numpy as np
import pytest

from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.batching import (
    BLOCK_ROWS,
    FULL_SHUFFLE_ROWS,
    POOL_BLOCKS,
    EpochOrder,
    iterate_batches,
)

LARGE = FULL_SHUFFLE_ROWS + 5 * BLOCK_ROWS + 17


@pytest.mark.parametrize("n", [1, 1000, LARGE])
def test_every_row_comes_once_an_epoch(n):
    seen = np.concatenate(list(iterate_batches(n, 4096, seed=1, epoch=2)))
    assert seen.dtype == np.int64
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))


@pytest.mark.parametrize("n", [1000, LARGE])
def test_order_follows_from_seed_and_epoch_alone(n):
    def head(seed, epoch):
        return next(iterate_batches(n, 500, seed=seed, epoch=epoch))

    np.testing.assert_array_equal(head(1, 2), head(1, 2))
    assert not np.array_equal(head(1, 2), head(1, 3))
    assert not np.array_equal(head(1, 2), head(2, 2))


@pytest.mark.parametrize(("n", "batch_size"), [(1001, 64), (LARGE, 50_000)])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_read_the_batches_of_one(n, batch_size, world):
    whole = list(iterate_batches(n, batch_size, seed=0, epoch=0))
    shares = [
        list(iterate_batches(n, batch_size, seed=0, epoch=0, rank=rank, world=world))
        for rank in range(world)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([s[number] for s in shares]), batch)
    assert {len(share[0]) for share in shares} == {batch_size // world}


@pytest.mark.parametrize("n", [1001, LARGE])
def test_starting_later_gives_the_rest(n):
    batch_size = n // 20
    whole = list(iterate_batches(n, batch_size, seed=0, epoch=0))
    for start in (1, 7, len(whole)):
        rest = list(iterate_batches(n, batch_size, seed=0, epoch=0, start=start))
        assert len(rest) == len(whole) - start
        for one, other in zip(rest, whole[start:], strict=True):
            np.testing.assert_array_equal(one, other)


def test_drop_last_leaves_out_the_smaller_batch():
    assert [len(b) for b in iterate_batches(10, 4, seed=0, epoch=0)] == [4, 4, 2]
    assert [len(b) for b in iterate_batches(10, 4, seed=0, epoch=0, drop_last=True)] == [4, 4]
    assert [len(b) for b in iterate_batches(8, 4, seed=0, epoch=0, drop_last=True)] == [4, 4]


def test_large_orders_mix_rows_of_many_places():
    order = EpochOrder(LARGE, seed=0, epoch=0)
    batch = order.read(0, 4096)
    assert len(np.unique(batch // BLOCK_ROWS)) > 0.9 * POOL_BLOCKS
    # Places of a uniform draw have mean n/2 and standard deviation n/sqrt(12).
    assert abs(batch.mean() / LARGE - 0.5) < 0.05
    assert abs(batch.std() / LARGE - 12**-0.5) < 0.02
    # Within a pool, neighbours in the order are not neighbours in the data.
    assert np.mean(np.abs(np.diff(batch)) < BLOCK_ROWS) < 0.01


def test_small_orders_are_uniform_permutations():
    first = [int(EpochOrder(5, seed, 0).read(0, 1)[0]) for seed in range(2000)]
    counts = np.bincount(first, minlength=5)
    # Binomial(2000, 1/5) has standard deviation 17.9.
    assert np.abs(counts - 400).max() < 5 * 17.9


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"rank": 2, "world": 2}, {"start": -1}, {"batch_size": 5, "world": 2}],
)
def test_bounds_are_checked_at_once(options):
    store = EmbeddingStore.from_array(np.ones((10, 2), np.float32))
    arguments = {"batch_size": 4, "seed": 0, "epoch": 0, **options}
    with pytest.raises(ValueError, match="world="):
        store.batches(arguments.pop("batch_size"), **arguments)
