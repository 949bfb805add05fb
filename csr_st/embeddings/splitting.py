"""Which rows are held out, and which pairs survive a selection of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def keep_pairs(
    pairs: NDArray[np.int64] | None, scores: NDArray[np.float32] | None, place: NDArray[np.int64]
) -> tuple[NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """The pairs both of whose rows remain, renumbered, and their scores.

    Args:
        pairs: (m, 2) row numbers, or None.
        scores: (m,) or None.
        place: (n,) new number of each row, -1 where it does not remain.
    """
    if pairs is None:
        return None, None
    moved = place[pairs]
    both = (moved >= 0).all(axis=1)
    return moved[both], None if scores is None else scores[both]


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
