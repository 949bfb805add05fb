"""The words of texts that may name latents: neither too rare nor too frequent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

WORD_PATTERN = r"(?u)\b[^\W\d_]\w+\b"  # two characters or more, the first a letter
LEAST_TEXTS = 3  # a word of fewer texts cannot tell other texts
MOST_TEXTS = 0.5  # of all: a word of more says little
LENGTH_SHARE, SATURATION = 0.75, 1.2  # b and k1 of BM25, as its authors and Lucene have them


@dataclass(frozen=True)
class Vocabulary:
    """The words of n texts.

    Attributes:
        words: (n_words,) the words in order.
        matrix: (n, n_words) float32, tf * idf of BM25 at unit length, compressed sparse row.
    """

    words: NDArray[np.str_]
    matrix: scipy.sparse.csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str], naming: NDArray[np.int64]) -> Vocabulary:
        """The words of texts; English function words are left out, and too rare or frequent ones.

        Args:
            texts: All texts.
            naming: Rows of those for naming: how frequent a word is, is counted in them alone.
        """
        options = {"token_pattern": WORD_PATTERN, "stop_words": "english", "dtype": np.float32}
        vectorizer = CountVectorizer(**options)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError:  # no text has a word
            none = scipy.sparse.csr_matrix((len(texts), 0), dtype=np.float32)
            return cls(np.empty(0, np.str_), none)
        frequency = counts[naming].getnnz(axis=0)
        keep = (frequency >= LEAST_TEXTS) & (frequency <= MOST_TEXTS * len(naming))
        words = vectorizer.get_feature_names_out()[keep].astype(np.str_)
        return cls(words, _weighted(counts.tocsc()[:, keep].tocsr(), frequency[keep], naming))


def _weighted(
    counts: scipy.sparse.csr_matrix, frequency: NDArray[np.integer], naming: NDArray[np.int64]
) -> scipy.sparse.csr_matrix:
    """Counts as BM25 weighs them, rows scaled to unit length."""
    n = counts.shape[0]
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    relative = lengths / max(lengths[naming].mean(), 1e-9)
    rows = np.repeat(np.arange(n), np.diff(counts.indptr))
    penalty = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * relative)
    idf = np.log((1 + len(naming)) / (1 + frequency))
    values = counts.data / (counts.data + penalty[rows]) * idf[counts.indices]
    squares = np.bincount(rows, values**2, minlength=n)
    values /= np.sqrt(squares)[rows]  # a row without words has no value
    arrays = values.astype(np.float32), counts.indices, counts.indptr
    return scipy.sparse.csr_matrix(arrays, shape=counts.shape)
