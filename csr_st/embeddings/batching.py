"""Row numbers drawn at random: the shuffled batches of an epoch, and the rows that are held out.

Up to `FULL_SHUFFLE_ROWS` rows an epoch is one uniform permutation. Above, it is shuffled in two
steps, so that a disk reads consecutive rows and memory stays small: blocks of `BLOCK_ROWS`
consecutive rows are permuted, `POOL_BLOCKS` blocks at a time form a pool, and the rows of a pool
are permuted. A batch then mixes rows of up to 1,024 places of the data. Either way every row comes
exactly once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL_SHUFFLE_ROWS = 1 << 20
BLOCK_ROWS = 256
POOL_BLOCKS = 1024


class EpochOrder:
    """The shuffled order of n rows in one epoch, of which any range can be read directly.

    Takes 4 bytes per row up to `FULL_SHUFFLE_ROWS` rows, above 4 bytes per block plus one pool.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        self.n = n
        self._key = (seed, epoch)
        block = n if n <= FULL_SHUFFLE_ROWS else BLOCK_ROWS
        self._block_rows = max(block, 1)
        blocks = -(-n // self._block_rows)
        self._blocks = self._generator(0).permutation(np.arange(blocks, dtype=np.uint32))
        sizes = np.full(blocks, self._block_rows, np.int64)
        if blocks:
            sizes[self._blocks == blocks - 1] -= blocks * self._block_rows - n
        ends = np.cumsum(sizes)[POOL_BLOCKS - 1 :: POOL_BLOCKS]
        self._pool_starts = np.unique(np.concatenate([[0], ends, [n]]))
        self._pool: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, stream))

    def read(self, begin: int, end: int) -> NDArray[np.int64]:
        """Row numbers at places ``begin`` to ``end`` of the order."""
        pieces = []
        while begin < end:
            number = int(np.searchsorted(self._pool_starts, begin, side="right")) - 1
            first, last = self._pool_starts[number : number + 2].tolist()
            pieces.append(self._rows_of(number)[begin - first : min(end, last) - first])
            begin = min(end, last)
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)

    def _rows_of(self, number: int) -> NDArray[Any]:
        if self._pool[0] != number:
            blocks = self._blocks[number * POOL_BLOCKS : (number + 1) * POOL_BLOCKS]
            first = blocks.astype(np.int64) * self._block_rows
            rows = (first[:, None] + np.arange(self._block_rows)).ravel()
            rows = rows[rows < self.n].astype(np.uint32 if self.n < 2**32 else np.int64)
            self._pool = (number, self._generator(number + 1).permutation(rows))
        return self._pool[1]


def iterate_batches(
    n: int,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
    drop_last: bool = False,
) -> Iterator[NDArray[np.int64]]:
    """Row numbers of each batch of an epoch; see `EmbeddingStore.batches`."""
    if batch_size < 1 or not 0 <= rank < world or start < 0:
        raise ValueError(
            f"batch_size={batch_size}, rank={rank}, world={world}, start={start}: pass "
            "batch_size >= 1, 0 <= rank < world and start >= 0"
        )
    if batch_size % world:
        raise ValueError(
            f"batch_size={batch_size} is the batch of all processes together and must be a "
            f"multiple of world={world}"
        )
    order = EpochOrder(n, seed, epoch)
    stop = n - batch_size + 1 if drop_last else n

    def part(begin: int) -> NDArray[np.int64]:
        size = min(batch_size, n - begin)
        return order.read(begin + rank * size // world, begin + (rank + 1) * size // world)

    return map(part, range(start * batch_size, stop, batch_size))


def draw_held_out(
    n: int, pairs: NDArray[np.int64] | None, count: int, seed: int
) -> NDArray[np.int64]:
    """(count,) distinct random rows; the rows of a pair are drawn one after the other.

    Without pairs this is a uniform draw. With pairs, pairs and rows outside any pair are drawn in
    random order, so that the held-out side has pairs of its own.
    """
    rng = np.random.default_rng(seed)
    if pairs is None or not len(pairs):
        return rng.choice(n, count, replace=False)
    alone = np.ones(n, bool)
    alone[pairs] = False
    rows = np.flatnonzero(alone)
    units = np.concatenate([pairs, np.stack([rows, rows], axis=1)])
    drawn = units[rng.permutation(len(units))].ravel()
    _, first = np.unique(drawn, return_index=True)
    return drawn[np.sort(first)[:count]]
