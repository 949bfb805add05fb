"""The words of texts, as names of latents may have them: single words and pairs of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

TOKEN = r"(?u)\b[^\W\d_]\w+\b"  # two characters or more, the first a letter
LEAST_TEXTS = 3  # a word of fewer texts cannot tell other texts
MOST_OF_WORD = 0.5  # of the texts: a word of more says little
MOST_IN_PAIR = 0.1  # so that no pair has an article or a preposition, in any language
LENGTH_SHARE, SATURATION = 0.75, 1.2  # b and k1 of BM25, as its authors and Lucene have them


@dataclass(frozen=True)
class Vocabulary:
    """The words of n texts.

    Attributes:
        words: (n_words,) the words in alphabetical order; a pair has a space.
        matrix: (n, n_words) float32, tf * idf of BM25 at unit length, compressed sparse row.
    """

    words: NDArray[np.str_]
    matrix: scipy.sparse.csr_matrix

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """The words of texts; those that are in too few or in most texts are left out."""
        n = len(texts)
        vectorizer = CountVectorizer(token_pattern=TOKEN, ngram_range=(1, 2), dtype=np.float32)
        try:
            counts = vectorizer.fit_transform(texts).tocsc()
        except ValueError:  # no text has a word
            return cls(np.empty(0, np.str_), scipy.sparse.csr_matrix((n, 0), dtype=np.float32))
        words = vectorizer.get_feature_names_out()
        frequency = np.diff(counts.indptr)
        keep = (frequency >= LEAST_TEXTS) & (frequency <= MOST_OF_WORD * n)
        of_word = dict(zip(words, frequency.tolist(), strict=True))
        for place in np.flatnonzero(keep):
            parts = words[place].split(" ")
            if len(parts) > 1:
                keep[place] = max(of_word[part] for part in parts) <= MOST_IN_PAIR * n
        return cls(words[keep].astype(np.str_), _weighted(counts[:, keep].tocsr(), frequency[keep]))


def _weighted(
    counts: scipy.sparse.csr_matrix, frequency: NDArray[np.integer]
) -> scipy.sparse.csr_matrix:
    """Counts as BM25 weighs them, rows scaled to unit length."""
    n = counts.shape[0]
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    relative = lengths / max(lengths.mean(), 1e-9)
    rows = np.repeat(np.arange(n), np.diff(counts.indptr))
    penalty = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * relative)
    idf = np.log((1 + n) / (1 + frequency))
    values = counts.data / (counts.data + penalty[rows]) * idf[counts.indices]
    squares = np.bincount(rows, values**2, minlength=n)
    values /= np.sqrt(squares)[rows]
    arrays = values.astype(np.float32), counts.indices, counts.indptr
    return scipy.sparse.csr_matrix(arrays, shape=counts.shape)
