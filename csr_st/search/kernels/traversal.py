"""The compiled first pass over the postings, and why its result is exact. Needs numba.

The first pass is 8-bit and the search still exact. Documents are in blocks of ``BLOCK``, whose
16-bit accumulators fit the first-level cache. For a document with values v and a
query with values q, of any norm, the first pass sums integers

    A = Σ w_i·c_i     with  c_i = round(v_i·value_scale),  w_i = round(q_i·gain),  both at least 1

so A is 0 exactly where no latent is shared, and with G = gain·value_scale

    -down <= A - G·Σ q_i·v_i <= up
    down = ‖(gain·q - w)⁺‖·max‖c‖ + gain·‖q‖·below      below = max‖(v·value_scale - c)⁺‖
    up   = ‖(w - gain·q)⁺‖·max‖c‖ + gain·‖q‖·above      above = max‖(c - v·value_scale)⁺‖

by Cauchy-Schwarz (max over documents, x⁺ the positive part). A document whose A lies more than
down + up below the top_k-th best A cannot be among the best; the few others are scored again from
their stored values in float64. ‖w‖·max‖c‖ <= 65535 keeps A from overflowing.

Words, where queries have them, are postings of their own whose values are added to the same sums.
A query may have many, so these sums have 32 bits and are divided by ``FOLD`` before the selection;
see `csr_st.search.kernels.words`. So are sums of codes whose norms differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.candidates import (
    BINS,
    GROUPS,
    collect,
    first_level,
    group_maxima,
    least_sum,
    select_groups,
    settle,
)
from csr_st.search.kernels.fixed_point import Array
from csr_st.search.kernels.inversion import BLOCK
from csr_st.search.kernels.sums import add_dense, add_list, fold
from csr_st.search.kernels.words import add_words, word_room

MAX_SUM = 65535.0


@njit(nogil=True, cache=True)
def _weigh(values: Array, gain: float, weights: Array, doc_k: int) -> tuple[float, float]:
    """Round gain·values into ``weights``.

    Returns:
        ‖w‖ on the doc_k largest weights, and ‖(w - gain·q)⁺‖ + ‖(w - gain·q)⁻‖.
    """
    square, above, below, kept = 0.0, 0.0, 0.0, 0
    for rank in range(values.shape[0]):
        weight = 0.0
        if values[rank] > 0:
            weight = max(np.floor(values[rank] * gain + 0.5), 1.0)
            error = weight - values[rank] * gain
            above += max(error, 0.0) ** 2
            below += min(error, 0.0) ** 2
            # Values fall along a row, so the first doc_k weights are the largest.
            if kept < doc_k:
                square += weight * weight
                kept += 1
        weights[rank] = min(weight, MAX_SUM)
    return np.sqrt(square), np.sqrt(above) + np.sqrt(below)


@njit(nogil=True, cache=True)
def weigh_queries(
    values: Array, doc_k: int, row_norm: float, below: float, above: float, weights: Array
) -> Array:
    """Integer weights of each query, and the error bound of its first-pass sums.

    Args:
        values: (n_queries, k) float32, falling along a row.
        doc_k: Latents per document.
        row_norm: Largest L2 norm of a document's 8-bit values.
        below: Largest norm of the parts rounded down in a document.
        above: Largest norm of the parts rounded up.
        weights: (n_queries, k) uint16, written.

    Returns:
        (n_queries,) int64, down + up of this file's docstring, rounded up.
    """
    bands = np.zeros(values.shape[0], np.int64)
    for query in range(values.shape[0]):
        row = values[query]
        norm = 0.0
        for value in row:
            norm += np.float64(value) ** 2
        norm = np.sqrt(norm)
        if norm == 0:
            weights[query] = 0
            continue
        gain = MAX_SUM / row_norm / norm
        length, error = _weigh(row, gain, weights[query], doc_k)
        while length * row_norm > MAX_SUM:
            gain *= 0.99
            length, error = _weigh(row, gain, weights[query], doc_k)
        bands[query] = np.int64(error * row_norm + gain * norm * (below + above)) + 2
    return bands


@njit(nogil=True, cache=True)
def _add_query(
    sums: Array,
    width: int,
    latents: Array,
    weights: Array,
    block: int,
    postings: Any,
    bounds: Array,
) -> Any:
    """The first pass of one query over one block.

    The first loop prefetches the head of each list from memory, the second adds them one by one.

    Returns:
        A number that means nothing; it keeps the compiler from removing the first loop.
    """
    starts, bases, dense_rows, dense_bases, ids, codes, dense = postings
    sums[:] = 0
    touched = 0
    for rank in range(latents.shape[0]):
        latent = latents[rank]
        start, end = bases[block] + starts[block, latent], bases[block] + starts[block, latent + 1]
        bounds[rank, 0], bounds[rank, 1] = start, end
        if end > start:
            touched += ids[np.uint64(start)] + codes[np.uint64(start)]
    for rank in range(latents.shape[0]):
        weight = weights[rank]
        if weight == 0:
            continue
        start, end = bounds[rank, 0], bounds[rank, 1]
        row = dense_rows[block, latents[rank]]
        if end > start:
            add_list(sums, ids, codes, start, end, weight)
        elif row >= 0:
            add_dense(sums[:width], dense[dense_bases[block] + row, :width], weight)
    return touched


@njit(nogil=True, cache=True)
def _clear_disallowed(sums: Array, allowed: Array) -> None:
    for place in range(sums.shape[0]):
        sums[place] = sums[place] if allowed[place] else np.uint16(0)


@njit(nogil=True, cache=True)
def search_blocks(
    queries: Any,
    blocks: Any,
    postings: Any,
    documents: Any,
    k: int,
    words: Any,
    allowed: Array,
    filtered: bool,
    keys: Array,
) -> None:
    """The exact best documents of some queries among some blocks.

    Blocks are the outer loop: the postings of a block are read from memory once for all queries.

    Args:
        queries: (latents, values, weights, bands): three arrays (n_queries, k_query), weights 0
            where unused; ``bands`` (n_queries,) from `weigh_queries`, how far below the top_k-th
            best sum a candidate may be.
        blocks: (first, last + 1).
        postings: (starts, bases, dense_rows, dense_bases, ids, values, dense), the attributes of
            `csr_st.search.postings.Postings`.
        documents: (latents, low, high, factors): three arrays (n, k_stored), and factors (n,) or
            (1,).
        k: Latents per document.
        words: None; or (queries, postings, documents) of words. Queries are (ends, words, values,
            weights): those of query i lie before ``ends[i + 1]`` and from ``ends[i]`` on; postings
            are the attributes of `csr_st.search.word_postings.WordPostings`; documents as for
            `words_score`. For None another function is compiled than for words, so that a search
            of codes alone costs nothing more.
        allowed: (n,) bool, documents that may be returned.
        filtered: Whether any document may not be returned.
        keys: (n_queries, top_k) uint64 zeros; receives keys (see `settle`), best first.
    """
    latents, values, weights, bands = queries
    n_queries, top_k = keys.shape
    candidates = np.empty((n_queries, 2 * top_k + 256), np.uint64)
    states = np.zeros((n_queries, 3), np.int64)
    counts = np.zeros((n_queries, BINS), np.int32)
    maxima = np.empty(GROUPS, np.uint16)
    groups = np.empty(GROUPS, np.uint16)
    sums = np.empty(BLOCK + 1, np.uint16)  # the last receives the padding of lists
    bounds = np.empty((latents.shape[1], 2), np.uint64)
    touched = np.zeros(1, np.int64)
    query = np.zeros(postings[2].shape[1], np.float32)
    room = word_room(words, blocks[0])
    for block in range(blocks[0], blocks[1]):
        offset = block * BLOCK
        width = min(BLOCK, allowed.shape[0] - offset)
        for number in range(n_queries):
            if words is None:
                touched[0] += _add_query(
                    sums, width, latents[number], weights[number], block, postings, bounds
                )
            else:
                touched[0] += _add_query(
                    room[0], width, latents[number], weights[number], block, postings, bounds
                )
                touched[0] += add_words(number, width, block, words, room)
                fold(room[0], sums)
            if filtered:
                _clear_disallowed(sums[:width], allowed[offset : offset + width])
            group_maxima(sums, width, maxima)
            state, band = states[number], bands[number]
            if block == blocks[0]:
                state[1] = first_level(sums[:width], maxima, top_k)
            n_groups = select_groups(maxima, least_sum(state[1], band), groups)
            done = 0
            while True:
                done += collect(
                    sums[:width], maxima, groups[done:n_groups], offset, band, top_k, state,
                    counts[number], candidates[number],
                )  # fmt: skip
                if done < n_groups or block == blocks[1] - 1:
                    code = latents[number], values[number]
                    touched[0] += settle(
                        candidates[number], state[0], least_sum(state[1], band), query, code,
                        documents, k, words, number, keys[number],
                    )  # fmt: skip
                    state[0] = 0
                if done == n_groups:
                    break
