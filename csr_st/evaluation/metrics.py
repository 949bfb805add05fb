"""Measures of a ranking: nDCG, overlap with another ranking and k-NN accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ndcg_at(
    ranking: NDArray[np.int64], relevant: Sequence[Mapping[int, float]], cutoff: int
) -> float:
    """Mean normalised discounted cumulative gain, trec_eval's form (linear gain).

    Args:
        ranking: (m, >= cutoff) document rows, best first; -1 for none.
        relevant: For each query the gain of each relevant document's row; queries without a
            positive gain do not count.
        cutoff: Ranks that count.

    Returns:
        The mean over the queries that count, 0 if there are none.
    """
    discount = 1 / np.log2(np.arange(2, cutoff + 2))
    figures = []
    for row, gains in zip(ranking[:, :cutoff], relevant, strict=True):
        ideal = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:cutoff]
        if ideal:
            found = np.array([gains.get(int(document), 0.0) for document in row])
            figures.append(found @ discount[: len(found)] / (ideal @ discount[: len(ideal)]))
    return float(np.mean(figures)) if figures else 0.0


def overlap_at(ranking: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    """Mean fraction of the reference's rows (m, top) that the ranking has too, in any order."""
    hits = (ranking[:, :, None] == reference[:, None, :]).any(axis=1)
    return float(hits.mean())


def knn_accuracy(neighbours: NDArray[np.int64], labels: NDArray[Any], truth: NDArray[Any]) -> float:
    """Fraction of queries whose neighbours' majority label is right; ties go to the nearest.

    Args:
        neighbours: (m, top) rows, nearest first.
        labels: (n,) label of each row.
        truth: (m,) label of each query.

    Returns:
        Accuracy within 0..1.
    """
    voted = labels[neighbours]
    votes = (voted[:, :, None] == voted[:, None, :]).sum(axis=2)
    winner = voted[np.arange(len(voted)), votes.argmax(axis=1)]
    return float((winner == truth).mean())
