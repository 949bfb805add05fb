"""Compiled selection: from first-pass sums to the exact best documents. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array, exact_score, factor_of
from csr_st.search.kernels.inversion import BLOCK
from csr_st.search.kernels.words import first_words, words_score

GROUPS = 512  # of the documents of a block; a group's members are GROUPS places apart
BIN_BITS = 8  # sums are counted in bins of 2**BIN_BITS
BINS = 2**16 >> BIN_BITS


@njit(nogil=True, cache=True)
def group_maxima(sums: Array, width: int, maxima: Array) -> None:
    """Write the largest sum of each group into ``maxima`` (GROUPS,).

    Members far apart let the compiler compare many groups in one vector instruction. Four at a
    time save loads; beyond ``width`` the sums are 0.
    """
    maxima[:] = 0
    for start in range(np.uint64(0), np.uint64(width), np.uint64(4 * GROUPS)):
        for group in range(GROUPS):
            a = start + np.uint64(group)
            b = a + np.uint64(GROUPS)
            c = b + np.uint64(GROUPS)
            d = c + np.uint64(GROUPS)
            largest = max(max(sums[a], sums[b]), max(sums[c], sums[d]))
            maxima[group] = max(maxima[group], largest)


@njit(nogil=True, cache=True)
def first_level(sums: Array, maxima: Array, top_k: int) -> int:
    """The highest bin known, from one block, to have top_k documents in it or above; 0 if none.

    Without it nearly all of the first documents would be candidates. For a small top_k the best
    documents are in different groups, so counting the groups is enough.
    """
    found = maxima if 8 * top_k <= GROUPS else sums
    counts = np.zeros(BINS, np.int32)
    for place in range(found.shape[0]):
        counts[found[place] >> BIN_BITS] += 1
    total = 0
    for level in range(BINS - 1, 0, -1):
        total += counts[level]
        if total >= top_k:
            return level
    return 0


@njit(nogil=True, cache=True)
def least_sum(level: int, band: int) -> int:
    """Least sum of a candidate: ``band`` below the level, at least 1."""
    return max(1, (level << BIN_BITS) - band)


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
def select_groups(maxima: Array, cut: int, groups: Array) -> Any:
    """Write the groups whose largest sum reaches the cut, and return how many they are.

    Nearly all do not: without branches none is predicted wrongly.
    """
    count = np.uint64(0)
    for group in range(GROUPS):
        groups[count] = group
        count += np.uint64(maxima[group] >= cut)
    return np.int64(count)


@njit(nogil=True, cache=True)
def collect(  # numba takes arrays, not objects
    sums: Array,
    maxima: Array,
    groups: Array,
    offset: int,
    band: int,
    top_k: int,
    state: Array,
    counts: Array,
    candidates: Array,
) -> int:
    """Append the documents whose sum reaches the cut, and raise the cut.

    Args:
        sums: (width,) uint16 first-pass sums of a block, 0 for what may not be returned.
        maxima: From `group_maxima`.
        groups: From `select_groups`.
        offset: Position of the block's first document.
        band: How far below the top_k-th best sum a candidate may be.
        top_k: Documents per query.
        state: (3,) candidates so far; the level, a bin such that top_k documents are in it or
            above; how many candidates were in the bins above it. Changed.
        counts: (BINS,) candidates by the bin of their sum, changed.
        candidates: (room,) uint64, a sum above a position.

    Returns:
        How many of ``groups`` are done: all, unless ``candidates`` is full.
    """
    count, level, above = state[0], state[1], state[2]
    cut = least_sum(level, band)
    done = 0
    for group in groups:
        if maxima[group] >= cut:
            if count + BLOCK // GROUPS > candidates.shape[0]:
                count = _drop_below(candidates, count, cut)
                if count + BLOCK // GROUPS > candidates.shape[0]:
                    break
            first = count
            for place in range(np.uint64(group), np.uint64(sums.shape[0]), np.uint64(GROUPS)):
                found = np.uint64(offset) + place
                candidates[np.uint64(count)] = (np.uint64(sums[place]) << np.uint64(32)) | found
                count += np.int64(sums[place] >= cut)
            for number in range(first, count):
                bin_ = np.int64(candidates[number] >> np.uint64(32 + BIN_BITS))
                if bin_ > level:
                    counts[bin_] += 1
                    above += 1
                    while above >= top_k:
                        level += 1
                        above -= counts[level]
            cut = least_sum(level, band)
        done += 1
    state[0], state[1], state[2] = count, level, above
    return done


@njit(nogil=True, cache=True)
def _first_latents(documents: Any, row: int, k: int) -> Any:
    """Read both ends of what `exact_score` reads, so that it is fetched from memory."""
    if k == 0:
        return np.int64(0)
    latents, low, high, factors = documents
    touched = latents[row, 0] + latents[row, k - 1] + low[row, 0] + low[row, k - 1]
    return touched + high[row, 0] + high[row, k - 1] + np.int64(factor_of(factors, row) > 0)


@njit(nogil=True, cache=True)
def settle(
    candidates: Array,
    count: int,
    cut: int,
    query: Array,
    code: Any,
    documents: Any,
    k: int,
    words: Any,
    asking: int,
    keys: Array,
) -> Any:
    """Score the candidates of one query exactly and keep the best in ``keys``.

    A key orders by score and, where scores are equal, by lower position: the bits of the float32
    score, which order like the score as it is not negative, above the complement of the position.
    Candidates have a first-pass sum above a position in the same way.

    Args:
        candidates: From `collect`.
        count: Number of candidates.
        cut: Least sum of a candidate.
        query: (hidden_dim,) float32 zeros, in which the code is spread; zeros again afterwards.
        code: (latents, values) of the query.
        documents: (latents, low, high, factors) of all documents.
        k: Latents per document.
        words: See `search_blocks`.
        asking: Number of the query among those of ``words``.
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
    size = 0
    while size < top_k and keys[size] > 0:
        pool[size] = keys[size]
        size += 1
    score = np.empty(1, np.float32)
    bits = score.view(np.uint32)
    count = _drop_below(candidates, count, cut)
    for number in range(count):  # prefetches all rows from memory
        row = np.int64(candidates[number] & np.uint64(0xFFFFFFFF))
        touched += _first_latents(documents, row, k) + first_words(row, words)
    for number in range(count):
        row = np.int64(candidates[number] & np.uint64(0xFFFFFFFF))
        factor = factor_of(factors, row)
        by_code = exact_score(query, latents, low, high, row, k, factor)
        score[0] = by_code + words_score(asking, row, words)
        if score[0] > 0:
            position = np.uint64(0xFFFFFFFF) - np.uint64(row)
            pool[size] = (np.uint64(bits[0]) << np.uint64(32)) | position
            size += 1
    ordered = np.sort(pool[:size])
    for number in range(min(top_k, size)):
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
