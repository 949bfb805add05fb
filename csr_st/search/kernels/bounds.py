"""The first pass of `pruning`: what no document of a span can score above. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array
from csr_st.search.kernels.prefetching import LINE, prefetch
from csr_st.search.kernels.spans import SPANS

GROUP = 64  # spans that are passed over together if the highest of their bounds is too low
MAX_BOUND = np.uint16(65535)
UNIT = 63_000.0  # of a bound for a score of 1: those of codes in float16 can be 1% above 1


@njit(nogil=True, cache=True)
def weigh_bounds(
    latents: Array, values: Array, largest: Array, gain: float, weights: Array
) -> None:
    """Integer weights of each query, rounded up.

    Args:
        latents: (n_queries, k).
        values: (n_queries, k) float32 of unit norm.
        largest: (hidden_dim,) largest top of each latent.
        gain: Such that no product with a top exceeds 16 bits.
        weights: (n_queries, k) uint16, written; 0 for what no document has.
    """
    for query in range(values.shape[0]):
        for rank in range(values.shape[1]):
            active = largest[latents[query, rank]] > 0
            weights[query, rank] = np.ceil(values[query, rank] * gain) if active else 0.0


@njit(nogil=True, cache=True)
def bound_spans(queries: Any, blocks: Any, lists: Any, bounds: Array, highest: Array) -> None:
    """The first pass of some queries over some blocks.

    Args:
        queries: (latents, weights), two arrays (n_queries, k_query).
        blocks: (first, last + 1).
        lists: (starts, numbers, tops, dense_rows, dense), as in
            `csr_st.search.pruned_postings.PrunedPostings`, but ``dense`` of one dimension.
        bounds: (n_queries, spans of these blocks) uint16 zeros, written.
        highest: (n_queries, groups) uint16, receives the highest bound of each ``GROUP`` spans.
    """
    latents, weights = queries
    starts, numbers, tops, dense_rows, dense = lists
    n_queries = latents.shape[0]
    for block in range(blocks[0], blocks[1]):
        first = (block - blocks[0]) * SPANS
        for query in range(n_queries):
            last = query + 1 == n_queries
            next_query, next_block = (0, block + 1) if last else (query + 1, block)
            if next_block < blocks[1]:
                _fetch_lists(latents[next_query], weights[next_query], next_block, lists)
            here = bounds[query, first : min(first + SPANS, bounds.shape[1])]
            for rank in range(latents.shape[1]):
                weight = weights[query, rank]
                if weight == 0:
                    continue
                latent = latents[query, rank]
                row = dense_rows[latent, block]
                if row >= 0:
                    begin = np.int64(row) * SPANS
                    _add_dense(here, dense[begin : begin + SPANS], weight)
                else:
                    start = np.uint64(starts[latent, block])
                    end = np.uint64(starts[latent, block + 1])
                    for place in range(start, end):
                        span = numbers[place]
                        more = np.uint16(weight * tops[place])
                        here[span] = min(MAX_BOUND - more, here[span]) + more
            for begin in range(0, here.shape[0], GROUP):
                found = np.uint16(0)
                for span in range(begin, min(begin + GROUP, here.shape[0])):
                    found = max(found, here[span])
                highest[query, (first + begin) // GROUP] = found


@njit(nogil=True, cache=True)
def _fetch_lists(latents: Array, weights: Array, block: int, lists: Any) -> None:
    """Have the processor fetch what a query reads of a block, which lies in as many places."""
    starts, numbers, tops, dense_rows, dense = lists
    for rank in range(latents.shape[0]):
        if weights[rank] == 0:
            continue
        row = np.int64(dense_rows[latents[rank], block])
        if row >= 0:
            for place in range(row * SPANS, row * SPANS + SPANS, LINE):
                prefetch(dense, np.uint64(place))
        else:
            start, end = starts[latents[rank], block], starts[latents[rank], block + 1]
            for place in range(start, end, LINE // 2):
                prefetch(numbers, np.uint64(place))
            for place in range(start, end, LINE):
                prefetch(tops, np.uint64(place))


@njit(nogil=True, cache=True)
def _add_dense(bounds: Array, tops: Array, weight: int) -> None:
    for span in range(bounds.shape[0]):
        more = np.uint16(weight * tops[span])
        bounds[span] = min(MAX_BOUND - more, bounds[span]) + more
