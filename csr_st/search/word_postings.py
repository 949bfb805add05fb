"""The inverted index over the words of documents, and what a search takes of it.

As `csr_st.search.postings` it is built in memory and never written. There are far more words than
latents and most occur in few blocks, so the lists of a word are found by the word, not by the
block. Impacts depend on the mean length of all documents: the 8-bit ones are those of one mean
length and are built anew where it has moved by `_DRIFT`; until then the search's error bound is as
much wider, and its scores are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.search.bm25 import QueryWords, Statistics, damping_at
from csr_st.search.kernels.importing import load_kernels
from csr_st.search.words import Words

_DRIFT = 0.01  # of the logarithm of the mean length
_NO_WEIGHTS = np.empty(0, np.uint32)


class _Lists(NamedTuple):
    """Lists of postings, one for each word and block.

    Attributes:
        words: int64.
        blocks: uint32.
        firsts: uint32, where a list begins in ``ids`` and ``values``, in groups of 4; or its row in
            ``dense``.
        lengths: uint16, groups of 4; 0 for a row in ``dense``.
    """

    words: NDArray[np.int64]
    blocks: NDArray[np.uint32]
    firsts: NDArray[np.uint32]
    lengths: NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class WordPostings:
    """Lists of (position, 8-bit impact) by word and block of documents.

    Attributes:
        words: The words of the documents.
        mean_length: Mean length of documents, at which the impacts were computed.
        rounding: The most that an impact was rounded down and up, in steps of 1/255.
        starts: (n_words + 1,) int64, where the lists of each word begin in the next three.
        blocks, firsts, lengths: See `_Lists`; blocks rise for a word.
        groups: (n_blocks + 1,) int64, where each block begins in ``ids`` and ``values``, in groups.
        dense_bases: (n_blocks + 1,) int64, where each block begins in ``dense``.
        ids: uint16 positions within the block; BLOCK where a list is padded.
        values: uint8.
        dense: (n_dense, BLOCK) uint8 impacts of words that many documents have.
    """

    words: Words
    mean_length: float
    rounding: tuple[float, float]
    starts: NDArray[np.int64]
    blocks: NDArray[np.uint32]
    firsts: NDArray[np.uint32]
    lengths: NDArray[np.uint16]
    groups: NDArray[np.int64]
    dense_bases: NDArray[np.int64]
    ids: NDArray[np.uint16]
    values: NDArray[np.uint8]
    dense: NDArray[np.uint8]

    @classmethod
    def build(
        cls,
        words: Words,
        statistics: Statistics,
        threads: int,
        previous: WordPostings | None = None,
    ) -> WordPostings:
        """Invert the words of documents.

        Args:
            words: The words.
            statistics: Statistics of the documents that are not removed.
            threads: Threads.
            previous: If these documents begin with those of it and the mean length is nearly the
                same, its complete blocks are reused.
        """
        if previous is None or not previous.serves(words, statistics, partly=True):
            previous = _nothing(words, statistics)
        block_size = load_kernels("inversion").BLOCK
        reused = len(previous.words) // block_size
        words.check_ids()  # a file may be open without verification
        firsts = range(reused * block_size, len(words), block_size)
        counted = run_all([partial(_counted, words, first) for first in firsts], threads)
        parts = [previous._lists(reused)]
        groups = previous.groups[: reused + 1].tolist()
        dense_bases = previous.dense_bases[: reused + 1].tolist()
        for block, (ids, counts) in enumerate(counted, reused):
            part, group, dense_base = _placed(block, ids, counts, groups[-1], dense_bases[-1])
            parts.append(part)
            groups.append(group)
            dense_bases.append(dense_base)
        postings = np.full(4 * groups[-1], block_size, np.uint16)
        values = np.zeros(4 * groups[-1], np.uint8)
        dense = np.zeros((dense_bases[-1], block_size), np.uint8)
        kept, kept_dense = 4 * groups[reused], dense_bases[reused]
        postings[:kept], values[:kept] = previous.ids[:kept], previous.values[:kept]
        dense[:kept_dense] = previous.dense[:kept_dense]
        damping = damping_at(previous.mean_length)
        filled = run_all(
            [
                partial(_fill, words, first, damping, part, (postings, values, dense))
                for first, part in zip(firsts, parts[1:], strict=True)
            ],
            threads,
        )
        below, above = (max(column) for column in zip(previous.rounding, *filled, strict=True))
        columns: Any = zip(*parts, strict=True)
        together = _Lists(*(np.concatenate(column) for column in columns))
        order = np.argsort(together.words, kind="stable")
        n_lists = np.bincount(together.words, minlength=len(words.vocabulary))
        return cls(
            words,
            previous.mean_length,
            (below, above),
            np.concatenate([[0], np.cumsum(n_lists)]),
            together.blocks[order],
            together.firsts[order],
            together.lengths[order],
            np.array(groups, np.int64),
            np.array(dense_bases, np.int64),
            postings,
            values,
            dense,
        )

    def serves(self, words: Words, statistics: Statistics, partly: bool = False) -> bool:
        """Whether this is good for the words of documents; ``partly``, for the first of them."""
        if self._drift(statistics) > _DRIFT:
            return False
        return words.begins_with(self.words) if partly else words is self.words

    def _drift(self, statistics: Statistics) -> float:
        return abs(math.log(statistics.mean_length / self.mean_length))

    def slack(self, statistics: Statistics) -> tuple[float, float]:
        """The most by which an impact is rounded down and up from that of other statistics.

        The impact t / (t + d) changes by at most 1/4 as the mean length changes by a factor e.
        """
        steps: float = load_kernels("words").IMPACT_STEPS * self._drift(statistics) / 4
        return self.rounding[0] + steps, self.rounding[1] + steps

    def _lists(self, n_blocks: int) -> _Lists:
        """The lists of the first blocks."""
        words = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        chosen = self.blocks < n_blocks
        lists = self.blocks[chosen], self.firsts[chosen], self.lengths[chosen]
        return _Lists(words[chosen], *lists)

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """For the kernels."""
        lists = self.starts, self.blocks, self.firsts, self.lengths
        return *lists, self.ids, self.values, self.dense


def _nothing(words: Words, statistics: Statistics) -> WordPostings:
    """The postings of no documents."""
    none = Words(np.empty(0, np.int64), words.ids[:0], words.counts[:0], {}, None)
    lists = np.zeros(1, np.int64), np.empty(0, "u4"), np.empty(0, "u4"), np.empty(0, "u2")
    bases = np.zeros(1, np.int64)
    block = load_kernels("inversion").BLOCK
    postings = np.empty(0, "u2"), np.empty(0, "u1"), np.empty((0, block), "u1")
    return WordPostings(none, statistics.mean_length, (0.0, 0.0), *lists, bases, bases, *postings)


def _counted(words: Words, first: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The words of one block of documents, rising, and how many documents have each."""
    last = min(first + load_kernels("inversion").BLOCK, len(words))
    counts = np.zeros(len(words.vocabulary), np.int32)
    load_kernels("words").count_words(words.ends, words.ids, first, last, counts)
    ids = np.flatnonzero(counts)
    return ids, counts[ids]


def _placed(
    block: int, ids: NDArray[np.int64], counts: NDArray[np.int32], group: int, dense_base: int
) -> tuple[_Lists, int, int]:
    """The places of one block's lists, and where the next block begins."""
    kernels = load_kernels("inversion")
    frequent = counts > kernels.BLOCK // kernels.DENSE_SHARE
    lengths = np.where(frequent, 0, -(-counts // kernels.GROUP)).astype(np.int64)
    firsts = group + np.cumsum(lengths) - lengths
    firsts[frequent] = dense_base + np.arange(frequent.sum())
    lists = _Lists(
        ids,
        np.full(len(ids), block, np.uint32),
        firsts.astype(np.uint32),
        lengths.astype(np.uint16),
    )
    return lists, group + int(lengths.sum()), dense_base + int(frequent.sum())


def _fill(
    words: Words, first: int, damping: NDArray[np.float64], lists: _Lists, postings: Any
) -> tuple[float, float]:
    """Write the postings of one block; return the most that an impact was rounded."""
    cursors = np.empty(len(words.vocabulary), np.int64)
    places = lists.firsts.astype(np.int64)
    cursors[lists.words] = np.where(lists.lengths > 0, 4 * places, -1 - places)
    rows = slice(first, first + load_kernels("inversion").BLOCK)
    documents = words.ends, words.ids, words.counts
    found: tuple[float, float] = load_kernels("words").fill_words(
        documents, first, damping[0] + damping[1] * words.lengths[rows], cursors, *postings
    )
    return found


@dataclass(frozen=True, eq=False)
class WordRequest:
    """The words of the queries of one search, and where they are searched.

    Attributes:
        queries: The words of the queries.
        postings: Postings of the words of documents.
        statistics: Statistics of the documents that are not removed.
    """

    queries: QueryWords
    postings: WordPostings
    statistics: Statistics

    @property
    def n_words(self) -> int:
        """Words of all queries."""
        return len(self.queries.ids)

    def arrays(self, rows: slice, weights: NDArray[np.uint32]) -> tuple[Any, Any, Any]:
        """Queries, postings and documents for the kernels.

        Args:
            rows: Queries.
            weights: From `weigh`, of all queries.
        """
        queries, words = self.queries, self.postings.words
        stored = words.ends, words.ids, words.counts, words.lengths
        return (
            (queries.ends[rows.start : rows.stop + 1], queries.ids, queries.values, weights),
            self.postings.arrays(),
            (*stored, damping_at(self.statistics.mean_length)),
        )

    def weigh(
        self, values: NDArray[np.float32], codes: tuple[int, float, float, float, float]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """Integer weights of latents and words, and the error bound of each query's sums.

        Args:
            values: (n_queries, k) of the queries' latents.
            codes: (doc_k, value_scale, row_norm, below, above) of `Postings`.
        """
        queries = self.queries
        weights = np.zeros(values.shape, np.uint32)
        word_weights = np.zeros(len(queries.ids), np.uint32)
        bands = load_kernels("words").weigh(
            (values, *codes),
            (queries.ends, queries.values),
            self.postings.slack(self.statistics),
            weights,
            word_weights,
        )
        return weights, word_weights, bands

    def rows(self, chosen: NDArray[np.bool_]) -> WordRequest:
        """The request of some queries."""
        return replace(self, queries=self.queries.rows(chosen))

    def add_scores(
        self, rows: slice, positions: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> None:
        """Add the words' part to the scores (n, n_positions) of n queries from a row on."""
        load_kernels("words").add_scores(self.arrays(rows, _NO_WEIGHTS), positions, scores)


class NoWords:
    """Stands for a `WordRequest` without words, so that sums of codes alone have 32 bits.

    Args:
        n_queries: Queries of the search.
        n_documents: Documents.
    """

    n_words = 0

    def __init__(self, n_queries: int, n_documents: int) -> None:
        self._query_ends = np.zeros(n_queries + 1, np.int64)
        nothing = np.zeros(n_documents, np.int64)  # of which no page is claimed before it is read
        none = np.empty(0, np.uint32), np.empty(0, np.uint8)
        self._documents = nothing, *none, nothing, np.zeros(2)
        block = load_kernels("inversion").BLOCK
        lists = np.zeros(1, np.int64), none[0], none[0], np.empty(0, np.uint16)
        self._postings = *lists, np.empty(0, np.uint16), none[1], np.empty((0, block), np.uint8)

    def arrays(self, rows: slice, weights: NDArray[np.uint32]) -> tuple[Any, Any, Any]:
        """As `WordRequest.arrays`."""
        queries = self._query_ends[rows.start : rows.stop + 1], _NO_WEIGHTS, np.empty(0), weights
        return queries, self._postings, self._documents

    def weigh(
        self, values: NDArray[np.float32], codes: tuple[int, float, float, float, float]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """As `WordRequest.weigh`."""
        weights = np.zeros(values.shape, np.uint32)
        none = self._query_ends, np.empty(0)
        bands = load_kernels("words").weigh(
            (values, *codes), none, (0.0, 0.0), weights, _NO_WEIGHTS
        )
        return weights, _NO_WEIGHTS, bands
