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


def beats_chance(scores: NDArray[np.floating], has: NDArray[np.bool_]) -> bool:
    """Whether texts with the latent have higher scores than texts without, at the level of 5%.

    It is the test of Mann and Whitney (1947) by the normal approximation, on one side.
    """
    auc = weighted_auc(scores, has.astype(np.float64))
    if math.isnan(auc):
        return False
    ones, zeros = int(has.sum()), int((~has).sum())
    return auc > 0.5 + LEVEL * math.sqrt((ones + zeros + 1) / (12 * ones * zeros))
