"""Compiled selection: from first-pass sums to the exact best documents. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array, exact_score

CHUNK = 128  # documents whose largest sum is compared to the cut at once


# A constant length, so that the compiler turns the loop into a few vector instructions.
@njit(nogil=True, cache=True)
def _largest_of_chunk(sums: Array, start: int) -> Any:
    largest = np.uint16(0)
    for place in range(CHUNK):
        largest = max(largest, sums[np.uint64(start) + np.uint64(place)])
    return largest


@njit(nogil=True, cache=True)
def first_cut(sums: Array, width: int, top_k: int, band: int) -> Any:
    """A first cut from one block: top_k chunks have a sum of at least this + band.

    Without it nearly all of the first documents would be candidates.
    """
    heap = np.zeros(top_k, np.int64)
    for start in range(0, width, CHUNK):
        largest = np.int64(_largest_of_chunk(sums, start))
        if largest > heap[0]:
            _replace_smallest(heap, largest)
    return max(1, heap[0] - band)


@njit(nogil=True, cache=True)
def _replace_smallest(heap: Array, item: int) -> None:
    """Put ``item`` in place of the root of a heap whose root is its smallest."""
    size = heap.shape[0]
    place = 0
    child = 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[place] = heap[child]
        place = child
        child = 2 * place + 1
    heap[place] = item


@njit(nogil=True, cache=True)
def _drop_below(candidates: Array, count: int, cut: int) -> int:
    """Remove the candidates below a raised cut; return how many stay."""
    kept = 0
    for number in range(count):
        if np.int64(candidates[number] >> np.uint64(32)) >= cut:
            candidates[kept] = candidates[number]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def collect(  # numba takes arrays, not objects
    sums: Array,
    width: int,
    start: int,
    offset: int,
    band: int,
    cut: int,
    heap: Array,
    candidates: Array,
    count: int,
) -> tuple[int, int, int]:
    """Append the documents whose sum reaches the cut, and raise the cut.

    Args:
        sums: (BLOCK + 1,) uint16 first-pass sums of a block, 0 for what may not be returned.
        width: Documents in the block.
        start: First place, a multiple of CHUNK.
        offset: Position of the block's first document.
        band: How far below the top_k-th best sum a candidate may be.
        cut: Least sum of a candidate, at least 1.
        heap: (top_k,) the largest sums so far, smallest first.
        candidates: (room,) uint64, a sum above a position.
        count: Candidates so far.

    Returns:
        The next place (the width or more at the end; otherwise ``candidates`` is full), the number
        of candidates and the cut.
    """
    while start < width:
        if _largest_of_chunk(sums, start) >= cut:
            if count + CHUNK > candidates.shape[0]:
                count = _drop_below(candidates, count, cut)
                if count + CHUNK > candidates.shape[0]:
                    return start, count, cut
            for place in range(start, start + CHUNK):
                total = np.int64(sums[place])
                if total >= cut:
                    found = np.uint64(offset + place)
                    candidates[count] = (np.uint64(total) << np.uint64(32)) | found
                    count += 1
                    if total > heap[0]:
                        _replace_smallest(heap, total)
                        cut = max(cut, heap[0] - band)
        start += CHUNK
    return start, count, cut


@njit(nogil=True, cache=True)
def settle(
    candidates: Array,
    count: int,
    cut: int,
    query: Array,
    code: Any,
    documents: Any,
    k: int,
    keys: Array,
) -> Any:
    """Score the candidates of one query exactly and keep the best in ``keys``.

    A key orders by score and, where scores are equal, by lower position: the bits of the float32
    score, which order like the score as it is not negative, above the complement of the position.
    Candidates have a first-pass sum above a position in the same way.

    Args:
        candidates: From `collect`, as ``count`` and ``cut``.
        count: Number of candidates.
        cut: Least sum of a candidate.
        query: (hidden_dim,) float32 zeros, in which the code is spread; zeros again afterwards.
        code: (latents, values) of the query.
        documents: (latents, low, high, factors) of all documents.
        k: Latents per document.
        keys: (top_k,) uint64, best first.

    Returns:
        A number that means nothing; it keeps the compiler from removing the loop that only reads.
    """
    touched = 0
    if count == 0:
        return touched
    query_latents, query_values = code
    latents, low, high, factors = documents
    for rank in range(query_latents.shape[0]):
        if query_values[rank] > 0:
            query[query_latents[rank]] = query_values[rank]
    top_k = keys.shape[0]
    pool = np.empty(top_k + count, np.uint64)
    pool[:top_k] = keys
    score = np.empty(1, np.float32)
    bits = score.view(np.uint32)
    size = top_k
    count = _drop_below(candidates, count, cut)
    for number in range(count):  # prefetches all rows from memory
        row = np.int64(candidates[number] & np.uint64(0xFFFFFFFF))
        touched += latents[row, 0] + latents[row, k - 1] + low[row, 0] + low[row, k - 1]
        touched += high[row, 0] + high[row, k - 1]
    for number in range(count):
        row = np.int64(candidates[number] & np.uint64(0xFFFFFFFF))
        score[0] = exact_score(query, latents, low, high, row, k, factors[row])
        if score[0] > 0:
            position = np.uint64(0xFFFFFFFF) - np.uint64(row)
            pool[size] = (np.uint64(bits[0]) << np.uint64(32)) | position
            size += 1
    ordered = np.sort(pool[:size])
    for number in range(top_k):
        keys[number] = ordered[size - 1 - number]
    for rank in range(query_latents.shape[0]):
        query[query_latents[rank]] = 0
    return touched


@njit(nogil=True, cache=True)
def unpack_keys(keys: Array, allowed: Array, positions: Array, scores: Array) -> None:
    """Keys (n_queries, top_k) to positions and scores.

    Where fewer than top_k documents share a latent with the query, allowed ones that share none
    follow with score 0, lower positions first, and then position -1 with score -inf.
    """
    bits = scores.view(np.uint32)
    for query in range(keys.shape[0]):
        hits = 0
        while hits < keys.shape[1] and keys[query, hits] > 0:
            key = keys[query, hits]
            positions[query, hits] = np.int64(np.uint64(0xFFFFFFFF) - (key & np.uint64(0xFFFFFFFF)))
            bits[query, hits] = np.uint32(key >> np.uint64(32))
            hits += 1
        if hits < keys.shape[1]:
            taken = np.sort(positions[query, :hits])
            _fill(taken, allowed, positions[query, hits:], scores[query, hits:])


@njit(nogil=True, cache=True)
def _fill(taken: Array, allowed: Array, positions: Array, scores: Array) -> None:
    filled, skipped = 0, 0
    for position in range(allowed.shape[0]):
        if filled == positions.shape[0]:
            return
        if skipped < taken.shape[0] and taken[skipped] == position:
            skipped += 1
        elif allowed[position]:
            positions[filled] = position
            scores[filled] = 0
            filled += 1
    positions[filled:] = -1
    scores[filled:] = -np.inf
