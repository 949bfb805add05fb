"""Measures of rankings (nDCG, overlap, k-NN accuracy) and of codes (FVU, active latents)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder

BLOCK = 1024  # vectors reconstructed at once


def ndcg_at(
    ranking: NDArray[np.int64], relevant: Sequence[Mapping[int, float]], cutoff: int
) -> float:
    """Mean normalised discounted cumulative gain of the queries that have a gain above 0.

    The others have no best ranking, and are left out of the mean; trec_eval gives them 0.

    Args:
        ranking: As for `ndcg_of_each`, and so are the other arguments.
        relevant: The gains.
        cutoff: Ranks that count.

    Returns:
        The mean over the queries that count, 0 if there are none.
    """
    figures = ndcg_of_each(ranking, relevant, cutoff)
    counted = figures[~np.isnan(figures)]
    return float(counted.mean()) if len(counted) else 0.0


def ndcg_of_each(
    ranking: NDArray[np.int64], relevant: Sequence[Mapping[int, float]], cutoff: int
) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain, trec_eval's form (linear gain).

    As in trec_eval, a gain below 0 counts as 0: no more than a document without a gain.

    Args:
        ranking: (m, >= cutoff) document rows, best first; -1 for none.
        relevant: For each query the gain of each judged document's row.
        cutoff: Ranks that count.

    Returns:
        The figure of each query, NaN without a gain above 0.
    """
    discount = 1 / np.log2(np.arange(2, cutoff + 2))
    figures = np.full(len(ranking), np.nan)
    for place, (row, gains) in enumerate(zip(ranking[:, :cutoff], relevant, strict=True)):
        ideal = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:cutoff]
        if ideal:
            found = np.array([max(gains.get(int(document), 0.0), 0.0) for document in row])
            figures[place] = found @ discount[: len(found)] / (ideal @ discount[: len(ideal)])
    return figures


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


def unexplained_variance(
    vectors: NDArray[np.float32], codes: SparseCodes, decoder: Decoder, ks: Sequence[int]
) -> dict[int, float]:
    """Fraction of the variance of (n, d) vectors about their mean that reconstruction misses."""
    # The variance of equal rows is 0; it counts as what float16 rounding of them would give.
    floor = max(1e-6 * float((vectors**2).sum()), 1e-30)
    total = max(float(((vectors - vectors.mean(axis=0)) ** 2).sum()), floor)
    missed = dict.fromkeys(ks, 0.0)
    for start in range(0, len(vectors), BLOCK):
        rows = slice(start, start + BLOCK)
        for k in ks:
            reconstructed = decoder.decode(codes[rows].prefix(k))
            missed[k] += float(((vectors[rows] - reconstructed) ** 2).sum())
    return {k: missed[k] / total for k in ks}


def active_latents(codes: SparseCodes, k: int) -> NDArray[np.bool_]:
    """(hidden_dim,) which latents at least one item activates at k."""
    active = np.zeros(codes.hidden_dim, bool)
    active[codes.indices[:, :k][codes.values[:, :k] > 0]] = True
    return active
