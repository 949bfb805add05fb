"""The inverted index of a large collection, whose search passes over most documents.

It finds the same documents with the same scores as `csr_st.search.postings.Postings`; see
`csr_st.search.kernels.pruning` for how. Where documents have nothing in common with their
neighbours, even in the best order, it is slower, so `Postings` is used there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.search.documents import Documents
from csr_st.search.kernels.importing import load_kernels
from csr_st.search.postings import Found, best_of, scaling

_SORTED_BY = 4  # strongest latents of a document
_BOUND_BYTES = 2**23  # of the queries that are searched together
_SAMPLE = 20_000  # documents


@dataclass(frozen=True, eq=False)
class PrunedPostings:
    """Bounds of spans by latent, and the latents of each span with its documents.

    Attributes:
        documents: The documents.
        k: Latents per document.
        factors: (n,) or (1,) float64, stored steps to values of unit norm at this k.
        scale: 8-bit steps per unit of a value.
        levels: (LEVELS,) uint32, the coarse values, of 8 bits.
        order: (n,) uint32, the document at each place.
        largest: (hidden_dim,) uint8, largest top of each latent.
        starts: (hidden_dim, n_blocks + 1) int64, where the list of a latent in each block begins
            in the next two.
        numbers: uint16, a span of the block in which a document has the latent.
        tops: uint8, the largest value there, rounded up.
        dense_rows: (hidden_dim, n_blocks) int32, row in ``dense`` of a latent that is in many spans
            of the block, or -1.
        dense: (n_dense, spans of a block) uint8, the tops of such a latent.
        offsets: (n_spans + 1, 2) int64, where the entries and the postings of each span begin.
        entry_latents: A latent that a document of the span has, of the documents' type.
        entry_counts: uint8, how many of them have it; two entries in a byte.
        postings: uint8, place of a document in the span and, above its bits, a level.
    """

    documents: Documents
    k: int
    factors: NDArray[np.float64]
    scale: float
    levels: NDArray[np.uint32]
    order: NDArray[np.uint32]
    largest: NDArray[np.uint8]
    starts: NDArray[np.int64]
    numbers: NDArray[np.uint16]
    tops: NDArray[np.uint8]
    dense_rows: NDArray[np.int32]
    dense: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    entry_latents: NDArray[Any]
    entry_counts: NDArray[np.uint8]
    postings: NDArray[np.uint8]

    @classmethod
    def build(cls, documents: Documents, k: int, threads: int) -> PrunedPostings:
        """Order the documents and invert them.

        Args:
            documents: The documents.
            k: Latents per document, at most ``documents.k``.
            threads: Threads.
        """
        kernels = load_kernels("spans")
        documents.check_latents()
        n, hidden_dim = len(documents), documents.hidden_dim
        factors, largest_value = scaling(documents, k, threads)
        scale = 255.0 / largest_value
        levels = _levels(documents, k, factors, scale, kernels.LEVELS)
        order = content_order(documents.latents[:, : min(k, _SORTED_BY)])
        blocks = [order[first : first + kernels.BLOCK] for first in range(0, n, kernels.BLOCK)]
        per_block = kernels.SPANS
        listed = np.zeros((len(blocks), hidden_dim), np.int64)
        sizes = np.zeros((-(-n // kernels.SPAN) + 1, 2), np.int64)
        arrays = documents.arrays(slice(None))
        first_spans = [block * per_block for block in range(len(blocks))]
        counting = [
            partial(kernels.count_spans, arrays, rows, k, listed[block], sizes[first + 1 :])
            for block, (rows, first) in enumerate(zip(blocks, first_spans, strict=True))
        ]
        run_all(counting, threads)
        offsets = np.cumsum(sizes, axis=0)
        of_latents = np.ascontiguousarray(listed.T)
        frequent = of_latents > per_block // kernels.DENSE_SHARE
        rows_of = np.cumsum(frequent, dtype=np.int32).reshape(frequent.shape) - 1
        dense_rows = np.where(frequent, rows_of, -1).astype(np.int32)
        dense = np.zeros((int(frequent.sum()), per_block), np.uint8)
        of_latents[frequent] = 0
        ends = np.cumsum(of_latents).reshape(of_latents.shape)
        starts = np.empty((hidden_dim, len(blocks) + 1), np.int64)
        starts[:, 1:], starts[:, 0] = ends, ends[:, 0] - of_latents[:, 0]
        n_listed = int(starts[-1, -1])
        numbers, tops = np.empty(n_listed, np.uint16), np.empty(n_listed, np.uint8)
        n_entries, n_postings = offsets[-1].tolist()
        entry_latents = np.empty(n_entries, documents.latents.dtype)
        entry_counts = np.zeros(-(-n_entries // 2), np.uint8)
        postings = np.empty(n_postings, np.uint8)
        largest = np.zeros((len(blocks), hidden_dim), np.uint8)
        filling = [
            partial(
                kernels.fill_spans,
                (*arrays, factors),
                rows,
                k,
                (scale, levels),
                (starts[:, block].copy(), numbers, tops, dense_rows[:, block].copy(), dense),
                (offsets[first:], entry_latents, entry_counts, postings),
                largest[block],
            )
            for block, (rows, first) in enumerate(zip(blocks, first_spans, strict=True))
        ]
        run_all(filling, threads)
        return cls(
            documents, k, factors, scale, levels, order, largest.max(axis=0, initial=0),
            starts, numbers, tops, dense_rows, dense,
            offsets, entry_latents, entry_counts, postings,
        )  # fmt: skip

    def search(
        self,
        latents: NDArray[Any],
        values: NDArray[np.float32],
        top_k: int,
        allowed: NDArray[np.bool_],
        filtered: bool,
        threads: int,
        passed: float = 1.0,
    ) -> Found:
        """The best documents; arguments and result as for `csr_st.search.postings.Postings.search`.

        Args:
            latents: (n_queries, k).
            values: (n_queries, k).
            top_k: Documents per query.
            allowed: (n,) bool.
            filtered: Whether any may not be returned.
            threads: Threads.
            passed: Above 1, the search is approximate: spans are passed over whose bound is less
                than so many times what an exact search asks for.
        """
        kernels, first_pass = load_kernels("pruning"), load_kernels("bounds")
        weights = np.empty(values.shape, np.uint16)
        gain = first_pass.UNIT / self.scale
        first_pass.weigh_bounds(latents, values, self.largest, gain, weights)
        n_queries, n_blocks = len(values), self.dense_rows.shape[1]
        n_spans, per_block = len(self.offsets) - 1, load_kernels("spans").SPANS
        ranges = max(1, min(threads // max(n_queries, 1), n_blocks))
        limits = [part * n_blocks // ranges for part in range(ranges + 1)]
        chunk = max(1, min(-(-n_queries // threads), _BOUND_BYTES // (2 * max(n_spans, 1)), 64))
        keys = np.zeros((ranges, n_queries, top_k), np.uint64)
        lists = self.starts, self.numbers, self.tops, self.dense_rows, self.dense.reshape(-1)
        spans = self.offsets.reshape(-1), self.entry_latents, self.entry_counts, self.postings
        documents = (*self.documents.arrays(slice(None)), self.factors)

        def work(start: int, part: int) -> None:
            rows, blocks = slice(start, start + chunk), (limits[part], limits[part + 1])
            here = min(blocks[1] * per_block, n_spans) - blocks[0] * per_block
            bounds = np.zeros((len(values[rows]), here), np.uint16)
            highest = np.empty((len(bounds), -(-here // first_pass.GROUP)), np.uint16)
            asked = latents[rows], weights[rows]
            first_pass.bound_spans(asked, blocks, lists, bounds, highest)
            kernels.search_spans(
                (latents[rows], values[rows], weights[rows], gain * self.scale),
                (self.k, len(self.largest), blocks[0] * per_block),
                spans, self.levels, documents, self.order, passed, allowed, filtered, bounds,
                highest, keys[part, rows],
            )  # fmt: skip

        starts = range(0, n_queries, chunk)
        run_all([partial(work, start, part) for start in starts for part in range(ranges)], threads)
        return best_of(keys, allowed)


def content_order(latents: NDArray[Any]) -> NDArray[np.uint32]:
    """(n,) places of documents sorted by their strongest latents (n, at most 4).

    Equal ones stay in their order. Graph bisection (Dhulipala et al. 2016) makes bounds only 5%
    tighter, and takes a hundred times longer.
    """
    if latents.dtype == np.uint16:
        key = np.zeros(len(latents), np.uint64)
        for column in range(latents.shape[1]):
            key = (key << np.uint64(16)) | latents[:, column]
        order = np.argsort(key, kind="stable")
    else:
        order = np.lexsort(latents.T[::-1])
    return order.astype(np.uint32)


def _levels(
    documents: Documents, k: int, factors: NDArray[np.float64], scale: float, count: int
) -> NDArray[np.uint32]:
    """(count,) 8-bit values, up to 255, whose distance is the error of a value rounded up.

    That error is least on average if they lie as dense as the square root of the values' density
    (Gersho 1979, for the absolute error).
    """
    rows = slice(None, None, max(1, len(documents) // _SAMPLE))
    low, high = (array[:, :k].astype(np.float64) for array in documents.arrays(rows)[1:])
    values = (
        (high * 2**16 + low) * (factors if len(factors) == 1 else factors[rows])[:, None] * scale
    )
    active = values[values > 0]
    if not len(active):
        return np.full(count, 255, np.uint32)
    density = np.sqrt(np.bincount(np.minimum(active, 254).astype(int), minlength=255))
    shares = np.cumsum(density) / density.sum()
    edges = 1 + np.searchsorted(shares, np.arange(1, count + 1) / count)
    levels: NDArray[np.uint32] = np.minimum(edges, 255).astype(np.uint32)
    levels[-1] = 255
    return levels
