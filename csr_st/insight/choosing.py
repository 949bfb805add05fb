"""The words that tell texts with a latent from texts without, chosen on the naming texts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.insight.word_vectors import WordVectors

MOST_WORDS = 6
CANDIDATES = 60  # of each of two kinds, see `chosen_words`
LEAST_TEXTS = 2  # with the latent, in which a word must be
LEAST_SHARE = 0.1  # of the latent's texts; rarer words raise the AUC by 0.004 and read badly
LEAST_EXCESS = 2.0  # standard deviations, see `_Counts`


def chosen_words(
    present: scipy.sparse.csr_matrix,
    codes: scipy.sparse.csr_matrix,
    vectors: WordVectors,
    texts: NDArray[np.float32],
) -> Iterator[NDArray[np.int64]]:
    """Up to `MOST_WORDS` words of each latent, by place in the vocabulary, best first.

    Candidates are words that are in more texts with the latent than chance puts there: those with
    most excess, and those whose vectors point most to the texts with the latent. Of them, one
    after another is taken that most raises Fisher's criterion of their sum, the distance of the
    means of texts with and without in standard deviations, until none raises it.

    Args:
        present: (n, n_words) which words a naming text has: any value above 0.
        codes: (n, hidden_dim) its code, of unit length.
        vectors: Those of all words.
        texts: (n, width) vectors of the naming texts.
    """
    counts = _Counts(present, codes)
    mean = texts.mean(axis=0)
    lengths, axes = np.linalg.eigh(np.cov(texts, rowvar=False, bias=True).reshape(2 * mean.shape))
    spread = vectors.words @ (axes * np.sqrt(np.maximum(lengths, 0))).astype(np.float32)
    shares = codes.multiply(codes).tocsc()
    total = np.asarray(shares.sum(axis=0)).ravel()
    centres = (shares.T @ texts) / np.where(total > 0, total, 1)[:, None] - mean
    for latent, centre in enumerate(centres):
        words, excess = counts.excess(latent)
        heights = vectors.words[words] @ centre
        best = [np.argsort(-order, kind="stable")[:CANDIDATES] for order in (excess, heights)]
        some = np.union1d(*best)
        taken = some[_greedy(heights[some], spread[words[some]])]
        yield words[taken[np.argsort(-excess[taken], kind="stable")]]


class _Counts:
    """In how many texts with a latent a word is, against what chance puts there."""

    def __init__(self, present: scipy.sparse.csr_matrix, codes: scipy.sparse.csr_matrix) -> None:
        words = (present > 0).astype(np.float32)
        active = (codes > 0).astype(np.float32)
        self._both = (active.T @ words).tocsr()
        self._both.sort_indices()
        self._share = np.asarray(words.mean(axis=0)).ravel()
        self._used = np.asarray(active.sum(axis=0)).ravel()

    def excess(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Words with excess, and the excess in standard deviations of a Poisson count."""
        row = slice(*self._both.indptr[latent : latent + 2])
        words, times = self._both.indices[row], self._both.data[row]
        expected = self._used[latent] * self._share[words]
        excess = (times - expected) / np.sqrt(expected)
        keep = (times >= max(LEAST_TEXTS, LEAST_SHARE * self._used[latent])) & (
            excess > LEAST_EXCESS
        )
        return words[keep].astype(np.int64), excess[keep]


def _greedy(heights: NDArray[np.floating], spread: NDArray[np.floating]) -> list[int]:
    """Rows whose sums have the largest height over length."""
    taken: list[int] = []
    height, total, best = 0.0, np.zeros(spread.shape[1]), 0.0
    squares = np.einsum("nd,nd->n", spread, spread)
    while len(taken) < min(MOST_WORDS, len(heights)):
        length = np.sqrt(np.maximum(total @ total + 2 * spread @ total + squares, 1e-12))
        criterion = (height + heights) / length
        criterion[taken] = -np.inf
        row = int(np.argmax(criterion))
        if criterion[row] <= best:
            break
        best = float(criterion[row])
        taken.append(row)
        height, total = height + float(heights[row]), total + spread[row]
    return taken
