"""How well a score tells texts with a latent from texts without, and whether that is chance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LEVEL = 1.645  # standard deviations: 5% of names by chance pass, tested on one side


def weighted_auc(scores: NDArray[np.floating], weights: NDArray[np.floating]) -> float:
    """ROC AUC, texts with the latent counted by their weight.

    It is the probability that a text with the latent, drawn in proportion to its weight, has a
    higher score than a text without, where equal scores count half; nan if there are none of
    either kind.

    >>> weighted_auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([3.0, 1.0, 0.0, 0.0]))
    0.8125

    Args:
        scores: (n,) score of each text.
        weights: (n,) 0 for texts without the latent.
    """
    has = weights > 0
    without = np.sort(scores[~has])
    if not has.any() or not len(without):
        return math.nan
    lower = np.searchsorted(without, scores[has], "left").astype(np.float64)
    lower += np.searchsorted(without, scores[has], "right")
    return float(np.average(lower, weights=weights[has]) / (2 * len(without)))


def beats_chance(auc: float, weights: NDArray[np.floating]) -> bool:
    """Whether an AUC is above what scores without any relation to the weights reach in 95%.

    The variance of such an AUC is that of Mann and Whitney's statistic (1947), with the effective
    number of weighted texts.
    """
    has = weights[weights > 0].astype(np.float64)
    without = len(weights) - len(has)
    if math.isnan(auc) or not len(has):
        return False
    variance = ((has**2).sum() / has.sum() ** 2 + 1 / without) / 12
    return auc > 0.5 + LEVEL * math.sqrt(variance)
