"""What words are worth: BM25 in the form of Lucene, split between query and document.

    score = similarity of the codes + weight · |q|^(-1/2) · Σ_{w in q} idf(w) · t / (t + d)

    idf(w) = ln(1 + (n - n_w + 0.5) / (n_w + 0.5))     d = k1 · (1 - b + b · length / mean length)

with t occurrences of w in the document, n documents of which n_w have w, and |q| words of the query
(those that no document has count, and repeated ones count repeatedly). The idf belongs to the query
and d to the document, so the score is one dot product of concatenated vectors. Robertson and
Zaragoza 2009; Kamphuis et al. 2020 for the variants.

Dividing by the square root of |q| gives the words of a query the norm of a code, 1, whatever their
number. The default weight was chosen once, at k=16, on three sets with MiniLM (scifact, cranfield,
docstrings by their summaries), with heads of these texts and of others; tests/benchmarks/hybrid.py
measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.search.tokenizing import Tokens, tokenized
from csr_st.search.words import Words

K1 = 0.9
B = 0.4


@dataclass(frozen=True, eq=False)
class Statistics:
    """What BM25 needs to know of all documents together.

    Attributes:
        n: Documents, those without words too.
        tokens: Words of all documents, repeated ones repeatedly.
        frequencies: (n_words,) int64, documents that have each word.
    """

    n: int
    tokens: int
    frequencies: NDArray[np.int64]

    @classmethod
    def of(cls, words: Words, rows: NDArray[np.int64] | None = None) -> Statistics:
        """The statistics of some documents; of all if None."""
        rows = np.arange(len(words)) if rows is None else rows
        places, n_entries = words.places(rows)
        ids = words.ids[places]
        first = np.ones(len(ids), bool)  # of several entries of a word
        first[1:] = ids[1:] != ids[:-1]
        starts = np.cumsum(n_entries) - n_entries
        first[starts[n_entries > 0]] = True
        frequencies = np.bincount(ids[first], minlength=len(words.vocabulary))
        return cls(len(rows), int(words.lengths[rows].sum()), frequencies)

    def changed(self, other: Statistics, sign: int) -> Statistics:
        """With (``sign`` 1) or without (-1) documents, whose vocabulary is the newest."""
        frequencies = sign * other.frequencies
        frequencies[: len(self.frequencies)] += self.frequencies
        return Statistics(self.n + sign * other.n, self.tokens + sign * other.tokens, frequencies)

    @property
    def mean_length(self) -> float:
        """Words of a document, on average."""
        return self.tokens / self.n if self.tokens else 1.0

    def having(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many documents have each word; 0 for -1, which is none."""
        found = np.zeros(len(ids), np.int64)
        found[ids >= 0] = self.frequencies[ids[ids >= 0]]
        return found

    def idf(self, having: NDArray[np.int64]) -> NDArray[np.float64]:
        """The idf of words that so many documents have."""
        weights: NDArray[np.float64] = np.log1p((self.n - having + 0.5) / (having + 0.5))
        return weights


def count_matrix(
    words: Words, columns: NDArray[np.int64] | None = None, n_columns: int = 0
) -> scipy.sparse.csr_matrix:
    """(n, n_columns) float64, how often each word occurs in each document.

    Args:
        words: The words of the documents.
        columns: The column of each word of the vocabulary, -1 to leave it out; if None, each has
            the one of its number.
        n_columns: Number of columns, if there are ``columns``.
    """
    if columns is None:
        n_columns = len(words.vocabulary)
        columns = np.arange(n_columns)
    rows = np.repeat(np.arange(len(words)), np.diff(words.ends, prepend=0))
    places = columns[words.ids]
    known = places >= 0
    entries = words.counts[known].astype(np.float64), (rows[known], places[known])
    return scipy.sparse.csr_matrix(entries, shape=(len(words), n_columns))  # adds up repeated ones


def impact_matrix(
    counts: scipy.sparse.csr_matrix, lengths: NDArray[np.int64], mean_length: float
) -> scipy.sparse.csr_matrix:
    """(n, n_columns) float64, t / (t + d) of the counts t of n documents of these lengths."""
    empty, each = damping_at(mean_length)
    damping = np.repeat(empty + each * lengths, np.diff(counts.indptr))
    impacts = counts.copy()
    impacts.data = counts.data / (counts.data + damping)
    return impacts


def damping_at(mean_length: float) -> NDArray[np.float64]:
    """(2,) d of a document without words, and what each of its words adds to it."""
    return np.array([K1 * (1 - B), K1 * B / mean_length])


@dataclass(frozen=True, eq=False)
class QueryWords:
    """The words of queries that documents have, and what they are worth.

    Attributes:
        ends: (n + 1,) int64; the words of query i lie from ``ends[i]`` to ``ends[i + 1]``.
        ids: uint32, rising within a query.
        values: float64, by which the impact t / (t + d) is multiplied.
    """

    ends: NDArray[np.int64]
    ids: NDArray[np.uint32]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ends) - 1

    @classmethod
    def of(
        cls, texts: list[str], words: Words, statistics: Statistics, weight: float
    ) -> QueryWords:
        """The words of some texts, for documents with these words."""
        tokens = list(tokenized(texts, words.known_language()))
        numbers = [words.numbers(each.names) for each in tokens]
        having = [statistics.having(found) for found in numbers]
        return cls.among(tokens, numbers, having, statistics, weight)

    @classmethod
    def among(
        cls,
        texts: Sequence[Tokens],
        numbers: Sequence[NDArray[np.int64]],
        having: Sequence[NDArray[np.int64]],
        statistics: Statistics,
        weight: float,
    ) -> QueryWords:
        """The words of some texts, whose frequencies were counted.

        Args:
            texts: The texts.
            numbers: Number of each name of ``texts`` in the vocabulary of the documents, or -1.
            having: How many documents have it.
            statistics: Statistics of all documents.
            weight: Weight of BM25 in a score.
        """
        ids, values, counts = [], [], []
        for tokens, of_names, frequencies in zip(texts, numbers, having, strict=True):
            of_names = np.where(frequencies > 0, of_names, -1)
            found = of_names[tokens.words]
            rows = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
            known = found >= 0
            keys, first, repeats = np.unique(
                (rows[known] << 32) | found[known], return_index=True, return_counts=True
            )
            rows, found = keys >> 32, keys & (2**32 - 1)
            idf = statistics.idf(frequencies)[tokens.words[known][first]]
            ids.append(found.astype(np.uint32))
            values.append(weight * repeats * idf / np.sqrt(tokens.lengths[rows]))
            counts.append(np.bincount(rows, minlength=len(tokens.lengths)))
        if not ids:
            return cls(np.zeros(1, np.int64), np.empty(0, np.uint32), np.empty(0))
        ends = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return cls(ends, np.concatenate(ids), np.concatenate(values))

    def rows(self, chosen: NDArray[np.bool_]) -> QueryWords:
        """The words of some queries."""
        counts = np.diff(self.ends)
        kept = np.repeat(chosen, counts)
        ends = np.concatenate([[0], np.cumsum(counts[chosen])])
        return QueryWords(ends, self.ids[kept], self.values[kept])
