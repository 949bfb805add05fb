"""The inverted index over stored documents at one document k, and its search.

It is built from `Documents` in a fraction of a second per million and never written to disk, so one
file can be searched at every smaller k. Documents are named by position, not by id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.search.documents import Documents, check_norms
from csr_st.search.kernels.importing import load_kernels
from csr_st.search.word_postings import NoWords, WordRequest

# Positions and scores, both (n_queries, top_k), best first; position -1 where there is no document
Found: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]

_QUERIES_PER_TASK = 128  # a block read from memory serves many queries
_ROWS_PER_TASK = 2**14  # of scaling
_BLOCKS_PER_TASK = 8  # fewer do not justify a second thread for the same query
_STEPS_PER_TASK = 2**14  # queries times blocks, a fraction of a second: Ctrl-C works between tasks
_WORDS_PER_STEP = 64  # that take as long as the latents of a query
_LEAST_LARGEST = 0.25  # of a row's norm: no overflow in the first pass of many equal values
_CANDIDATES_PER_TASK = 2**23  # bounds the memory of the selection at a large top_k


@dataclass(frozen=True, eq=False)
class Postings:
    """Lists of (position, 8-bit value) by block of documents and latent.

    Attributes:
        documents: The documents.
        k: Latents per document.
        factors: (n,) float64, or (1,) if all are equal: stored steps to the values that count in a
            score: those of unit norm
            at this k, or for the dot product the values as they were given.
        largest: Largest value of any document, which the 8-bit steps reach.
        rounding: (below, above, row_norm) of `csr_st.search.kernels.traversal`.
        starts: (n_blocks, hidden_dim + 1) int32, where each list of a block begins.
        bases: (n_blocks + 1,) int64, where each block begins in ``ids`` and ``values``.
        dense_rows: (n_blocks, hidden_dim) int16, row in ``dense`` of frequent latents, or -1.
        dense_bases: (n_blocks + 1,) int64, where each block begins in ``dense``.
        ids: uint16 positions within the block; BLOCK where a list is padded.
        values: uint8.
        dense: (n_dense, BLOCK) uint8 values of latents so frequent that this is smaller.
    """

    documents: Documents
    k: int
    factors: NDArray[np.float64]
    largest: float
    rounding: tuple[float, float, float]
    starts: NDArray[np.int32]
    bases: NDArray[np.int64]
    dense_rows: NDArray[np.int16]
    dense_bases: NDArray[np.int64]
    ids: NDArray[np.uint16]
    values: NDArray[np.uint8]
    dense: NDArray[np.uint8]

    @classmethod
    def build(
        cls, documents: Documents, k: int, threads: int, previous: Postings | None = None
    ) -> Postings:
        """Invert the documents.

        Args:
            documents: The documents.
            k: Latents per document, at most ``documents.k``.
            threads: Threads.
            previous: Postings at the same k; if these documents begin with theirs, its complete
                blocks are reused.
        """
        kernels = load_kernels("inversion")
        firsts = range(0, len(documents), kernels.BLOCK)
        blocks = [slice(first, first + kernels.BLOCK) for first in firsts]
        factors, largest = scaling(documents, k, threads)
        reused = 0
        if (
            previous is not None
            and documents.begins_with(previous.documents)
            and largest <= previous.largest
        ):
            largest = previous.largest
            reused = len(previous.documents) // kernels.BLOCK
        documents.check_latents(reused * kernels.BLOCK)  # a file may be open without verification
        counts = np.zeros((len(blocks), documents.hidden_dim), np.int32)
        counting = [
            partial(kernels.count_block, *documents.arrays(rows), k, counts_row)
            for rows, counts_row in zip(blocks[reused:], counts[reused:], strict=True)
        ]
        run_all(counting, threads)
        frequent = counts > kernels.BLOCK // kernels.DENSE_SHARE
        dense_rows = np.where(frequent, frequent.cumsum(axis=1) - 1, -1).astype(np.int16)
        counts[frequent] = 0
        counts += -counts % kernels.GROUP
        starts = np.zeros((len(blocks), documents.hidden_dim + 1), np.int32)
        np.cumsum(counts, axis=1, out=starts[:, 1:])
        if previous is not None and reused:
            starts[:reused] = previous.starts[:reused]
            dense_rows[:reused] = previous.dense_rows[:reused]
        bases = np.concatenate([[0], np.cumsum(starts[:, -1], dtype=np.int64)])
        dense_bases = np.concatenate(
            [[0], np.cumsum(dense_rows.max(axis=1, initial=-1) + 1, dtype=np.int64)]
        )
        ids = np.full(bases[-1], kernels.BLOCK, np.uint16)
        values = np.zeros(bases[-1], np.uint8)
        dense = np.zeros((dense_bases[-1], kernels.BLOCK), np.uint8)
        rounding = (0.0, 0.0, 0.0)
        if previous is not None and reused:
            rounding = previous.rounding
            ids[: bases[reused]] = previous.ids[: bases[reused]]
            values[: bases[reused]] = previous.values[: bases[reused]]
            dense[: dense_bases[reused]] = previous.dense[: dense_bases[reused]]
        filling = [
            partial(
                kernels.fill_block,
                (*documents.arrays(rows), factors if len(factors) == 1 else factors[rows]),
                k,
                255.0 / largest,
                starts[block, :-1].astype(np.int64) + bases[block],
                dense_rows[block],
                ids,
                values,
                dense[dense_bases[block] : dense_bases[block + 1]],
            )
            for block, rows in enumerate(blocks[reused:], reused)
        ]
        filled = [(0.0, 0.0, 0.0), *run_all(filling, threads)]
        squares = (max(column) for column in zip(*filled, strict=True))
        below, above, row_norm = map(max, rounding, map(math.sqrt, squares))
        return cls(
            documents,
            k,
            factors,
            largest,
            (below, above, row_norm),
            starts,
            bases,
            dense_rows,
            dense_bases,
            ids,
            values,
            dense,
        )

    def search(
        self,
        latents: NDArray[Any],
        values: NDArray[np.float32],
        top_k: int,
        allowed: NDArray[np.bool_],
        filtered: bool,
        threads: int,
        words: WordRequest | NoWords | None = None,
    ) -> Found:
        """The exact best documents.

        Args:
            latents: (n_queries, k) of the documents' latent type, contiguous.
            values: (n_queries, k) float32, falling, contiguous.
            top_k: Documents per query.
            allowed: (n,) bool, documents that may be returned.
            filtered: Whether any may not be returned.
            threads: Threads.
            words: The words of the queries, whose scores are added to those of the codes.

        Returns:
            Positions (n_queries, top_k), padded with -1, and scores.
        """
        kernels = load_kernels("traversal")
        if words is None and self.documents.similarity == "dot":
            # Of values up to the longest row's, those of most rows are a small part: in 16 bits
            # so much of them is rounded that far more documents have to be scored again.
            words = NoWords(len(values), len(self.documents))
        below, above, row_norm = self.rounding
        row_norm = max(row_norm, 1.0)
        weights: NDArray[Any]
        if words is None:
            weights = np.empty(values.shape, np.uint16)
            bands = kernels.weigh_queries(values, self.k, row_norm, below, above, weights)
        else:
            scale = 255.0 / self.largest
            weights, word_weights, bands = words.weigh(
                values, (self.k, scale, row_norm, below, above)
            )
        n_queries, n_blocks = len(values), len(self.starts)
        chunk = max(1, min(_QUERIES_PER_TASK, _CANDIDATES_PER_TASK // (4 * top_k + 256)))
        chunk = min(chunk, -(-n_queries // threads) or 1)
        starts = range(0, n_queries, chunk)
        ranges = max(1, min(-(-threads // max(len(starts), 1)), n_blocks // _BLOCKS_PER_TASK))
        steps = chunk * n_blocks
        if words is not None:
            steps += steps * words.n_words // (_WORDS_PER_STEP * max(n_queries, 1))
        ranges = min(max(ranges, steps // _STEPS_PER_TASK), max(n_blocks, 1))
        limits = [part * n_blocks // ranges for part in range(ranges + 1)]
        keys = np.zeros((ranges, n_queries, top_k), np.uint64)
        postings = (
            self.starts, self.bases, self.dense_rows, self.dense_bases,
            self.ids, self.values, self.dense,
        )  # fmt: skip
        documents = (*self.documents.arrays(slice(None)), self.factors)

        def work(start: int, part: int) -> None:
            rows = slice(start, start + chunk)
            by_words = None if words is None else words.arrays(rows, word_weights)
            kernels.search_blocks(
                (latents[rows], values[rows], weights[rows], bands[rows]),
                (limits[part], limits[part + 1]),
                postings,
                documents,
                self.k,
                by_words,
                allowed,
                filtered,
                keys[part, rows],
            )

        run_all([partial(work, start, part) for start in starts for part in range(ranges)], threads)
        return best_of(keys, allowed)


def best_of(keys: NDArray[np.uint64], allowed: NDArray[np.bool_]) -> Found:
    """Positions and scores of what was found in several parts of a collection.

    Args:
        keys: (parts, n_queries, top_k) as in `csr_st.search.kernels.candidates.settle`.
        allowed: (n,) bool, documents that may fill up where fewer were found.
    """
    parts, n_queries, top_k = keys.shape
    merged = keys[0]
    if parts > 1:
        together = np.sort(keys.transpose(1, 0, 2).reshape(n_queries, parts * top_k), axis=1)
        merged = np.ascontiguousarray(together[:, : -top_k - 1 : -1])
    positions = np.empty((n_queries, top_k), np.int64)
    scores = np.empty((n_queries, top_k), np.float32)
    load_kernels("candidates").unpack_keys(merged, allowed, positions, scores)
    return positions, scores


def merged(found: Sequence[Found], top_k: int) -> Found:
    """The best of several results, of equal scores those of an earlier result first."""
    if len(found) == 1:
        return found[0]
    positions = np.concatenate([each[0] for each in found], axis=1)
    scores = np.concatenate([each[1] for each in found], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)


def scaling(documents: Documents, k: int, threads: int) -> tuple[NDArray[np.float64], float]:
    """The factors that scale stored rows at k, and what the 8-bit steps reach after that.

    Rows are stored at unit norm, so at the stored k all of them have the same factor, given once.
    """
    if documents.similarity == "dot":
        return _dot_factors(documents, k)
    if k == documents.k:
        factor = 1.0 / load_kernels("fixed_point").VALUE_STEPS
        most = float(_first_steps(documents).max(initial=0)) * factor if k else 0.0
        return np.full(1, factor), max(_LEAST_LARGEST, most)
    prefix_factors = load_kernels("fixed_point").prefix_factors
    factors = np.empty(len(documents), np.float64)
    starts = range(0, len(documents), _ROWS_PER_TASK)
    tasks = [
        partial(prefix_factors, documents.low[rows], documents.high[rows], k, factors[rows])
        for rows in (slice(start, start + _ROWS_PER_TASK) for start in starts)
    ]
    return factors, max([_LEAST_LARGEST, *run_all(tasks, threads)])


def _first_steps(documents: Documents) -> NDArray[np.uint32]:
    """(n,) the largest stored value of each row."""
    high = documents.high[:, 0].astype(np.uint32) << np.uint32(16)
    steps: NDArray[np.uint32] = high | documents.low[:, 0]
    return steps


def _dot_factors(documents: Documents, k: int) -> tuple[NDArray[np.float64], float]:
    """As `scaling`, for values as they were before rows were divided by their norms."""
    check_norms(documents.norms, "documents")  # a file may be open without verification
    norms = documents.norms.astype(np.float64)
    factors = norms / load_kernels("fixed_point").VALUE_STEPS
    if not documents.k:
        return factors, 1.0
    largest = _first_steps(documents) * factors
    norms_at_k = np.minimum(norms, math.sqrt(k) * largest)  # at least what they are
    reached = max(largest.max(initial=0.0), _LEAST_LARGEST * norms_at_k.max(initial=0.0))
    return factors, float(reached) or 1.0
