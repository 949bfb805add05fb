"""Compiled loops over the words of documents: their postings, first pass and exact scores.

Documents are (ends, words, counts): those of document i lie before ``ends[i]`` and from the end of
the one before it, words rising. A word that occurs more than 255 times has several entries. The
impact of a word that occurs t times in a document is t / (t + d), where the damping d depends on
the document's length, see `csr_st.search.bm25`. Needs numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array
from csr_st.search.kernels.inversion import BLOCK
from csr_st.search.kernels.sums import FOLD, add_dense, add_list

IMPACT_STEPS = 255.0  # impacts are below 1


@njit(nogil=True, cache=True)
def count_words(ends: Array, words: Array, first: int, last: int, counts: Array) -> None:
    """Add to ``counts`` (n_words,) how many of the documents first..last - 1 have each word."""
    place = ends[first - 1] if first else 0
    for row in range(first, last):
        start = place
        while place < ends[row]:
            if place == start or words[place] != words[place - 1]:
                counts[words[place]] += 1
            place += 1


@njit(nogil=True, cache=True)
def fill_words(
    documents: Any, first: int, damping: Array, cursors: Array, ids: Array, values: Array,
    dense: Array,
) -> tuple[float, float]:  # fmt: skip
    """Write the postings of one block, each list in order of position.

    Args:
        documents: (ends, words, counts) of all documents.
        first: Position of the block's first document.
        damping: (rows,) float64 of the block's documents.
        cursors: (n_words,) int64, where a word's list begins in ``ids`` and ``values``; advanced.
            Or -1 - its row in ``dense``.
        ids: Position within the block of each posting.
        values: 8-bit impact of each posting.
        dense: (n_dense, BLOCK) 8-bit impacts, 0 where a document lacks the word.

    Returns:
        The most that an impact was rounded down and up, in steps.
    """
    ends, words, counts = documents
    below, above = 0.0, 0.0
    place = ends[first - 1] if first else 0
    for row in range(damping.shape[0]):
        while place < ends[first + row]:
            word, count = words[place], np.float64(counts[place])
            place += 1
            while place < ends[first + row] and words[place] == word:
                count += counts[place]
                place += 1
            scaled = count / (count + damping[row]) * IMPACT_STEPS
            value = max(np.floor(scaled + 0.5), 1.0)
            below, above = max(below, scaled - value), max(above, value - scaled)
            cursor = cursors[word]
            if cursor < 0:
                dense[-1 - cursor, row] = value
            else:
                cursors[word] = cursor + 1
                ids[cursor] = row
                values[cursor] = value
    return below, above


@njit(nogil=True, cache=True)
def word_room(words: Any, block: int) -> Any:
    """What the traversal from a block on needs for words, empty if ``words`` is None.

    Returns:
        (BLOCK + 1,) uint32 sums; for each word of the queries the place of its next list; and
        (n, 2) uint64 for the bounds of the lists of one query.
    """
    if words is None:
        return np.empty(0, np.uint32), np.empty(0, np.int64), np.empty((0, 2), np.uint64)
    (ends, asked, _, _), postings, _ = words
    starts, blocks = postings[0], postings[1]
    cursors = np.empty(asked.shape[0], np.int64)
    for rank in range(ends[0], ends[-1]):
        place = starts[asked[rank]]
        while place < starts[asked[rank] + 1] and blocks[place] < block:
            place += 1
        cursors[rank] = place
    return np.empty(BLOCK + 1, np.uint32), cursors, np.empty((asked.shape[0], 2), np.uint64)


@njit(nogil=True, cache=True)
def add_words(query: int, width: int, block: int, words: Any, room: Any) -> Any:
    """The first pass of the words of one query over one block.

    As in `csr_st.search.kernels.traversal`, the first loop prefetches, and what is returned means
    nothing.

    Args:
        query: Number of the query.
        width: Documents of the block.
        block: The block; each query meets the blocks in their order.
        words: See `search_blocks`.
        room: From `word_room`; to the sums in it is added.
    """
    (ends, all_asked, _, all_weights), postings, _ = words
    sums, all_cursors, bounds = room
    part = slice(ends[query], ends[query + 1])
    asked, weights, cursors = all_asked[part], all_weights[part], all_cursors[part]
    starts, blocks, firsts, lengths, ids, values, dense = postings
    touched = 0
    for rank in range(asked.shape[0]):
        place = cursors[rank]
        bounds[rank, 0], bounds[rank, 1] = 0, 0
        if place < starts[asked[rank] + 1] and blocks[place] == block:
            cursors[rank] = place + 1
            first = np.uint64(firsts[place])
            if lengths[place] == 0:
                bounds[rank, 0] = first + np.uint64(1)
            else:
                first *= np.uint64(4)
                bounds[rank, 0] = first
                bounds[rank, 1] = first + np.uint64(4) * np.uint64(lengths[place])
                touched += ids[first] + values[first]
    for rank in range(asked.shape[0]):
        first, last = bounds[rank, 0], bounds[rank, 1]
        if last > first:
            add_list(sums, ids, values, first, last, weights[rank])
        elif first > 0:
            add_dense(sums[:width], dense[first - np.uint64(1), :width], weights[rank])
    return touched


@njit(nogil=True, cache=True)
def words_score(query: int, row: int, words: Any) -> float:
    """The exact score of a document by the words of a query.

    Args:
        query: Number of the query.
        row: Position of the document.
        words: See `search_blocks`; the score is 0 for None. The asked words of a query rise, and
            its values, float64, are by what the impacts are multiplied. Documents are (ends, words,
            counts, lengths, [damping of a document without words, damping a word of its length]).
    """
    if words is None:
        return 0.0
    (query_ends, asked, values, _), _, (ends, stored, counts, lengths, damping) = words
    place = ends[row - 1] if row else 0
    end = ends[row]
    damp = damping[0] + damping[1] * lengths[row]
    total = 0.0
    for rank in range(query_ends[query], query_ends[query + 1]):
        word, high = asked[rank], end
        while place < high:  # the first entry that is not below the word
            middle = (place + high) >> 1
            if stored[middle] < word:
                place = middle + 1
            else:
                high = middle
        count = 0.0
        while place < end and stored[place] == word:
            count += counts[place]
            place += 1
        if count > 0:
            total += values[rank] * count / (count + damp)
    return total


@njit(nogil=True, cache=True)
def first_words(row: int, words: Any) -> Any:
    """Read what `words_score` reads first, so that it is fetched from memory."""
    if words is None:
        return np.int64(0)
    _, _, (ends, stored, counts, lengths, _) = words
    place = ends[row - 1] if row else 0
    if place == ends[row]:
        return np.int64(0)
    middle = (place + ends[row]) >> 1
    return np.int64(stored[middle]) + np.int64(counts[middle]) + np.int64(lengths[row])


@njit(nogil=True, cache=True)
def add_scores(words: Any, positions: Array, scores: Array) -> None:
    """Add to ``scores`` (n_queries, n) those of documents by words; position -1 is no document."""
    for query in range(positions.shape[0]):
        for rank in range(positions.shape[1]):
            if positions[query, rank] >= 0:
                scores[query, rank] += words_score(query, positions[query, rank], words)


@njit(nogil=True, cache=True)
def weigh(latents: Any, words: Any, rounding: Any, weights: Array, word_weights: Array) -> Array:
    """Integer weights of each query, and the error bound of its first-pass sums.

    As `csr_st.search.kernels.traversal.weigh_queries`, whose bound it extends: both parts get the
    same gain G, and a word of value u, impact v and 8-bit impact c adds

        |w·c - G·u·v| <= |w - g·u|·255 + g·u·|c - 255·v|     with g = G / 255, w = round(g·u)

    Args:
        latents: (values, doc_k, value_scale, row_norm, below, above), values (n_queries, k)
            float32, falling; the others as in that function, 8-bit steps per unit as value_scale.
        words: (ends, values) of the queries, float64.
        rounding: (below, above) of impacts, in steps.
        weights: (n_queries, k) uint32, written.
        word_weights: uint32, one for each of the words' values, written.

    Returns:
        (n_queries,) int64 bounds of the folded sums.
    """
    values, doc_k, value_scale, row_norm, below, above = latents
    ends, word_values = words
    bands = np.zeros(values.shape[0], np.int64)
    for query in range(values.shape[0]):
        first, last = ends[query], ends[query + 1]
        square, largest = 0.0, 0.0
        for value in values[query]:
            square += np.float64(value) ** 2
        for place in range(first, last):
            largest += word_values[place]
        norm = np.sqrt(square)
        largest += norm * row_norm / value_scale
        if largest == 0:
            weights[query] = 0
            continue
        # Rounding up adds at most 1 to each weight.
        room = FOLD * 65535.0 - IMPACT_STEPS * (doc_k + last - first)
        gain = room / largest
        code_gain, word_gain = gain / value_scale, gain / IMPACT_STEPS
        over, under, band = 0.0, 0.0, 0.0
        for rank in range(values.shape[1]):
            exact = values[query, rank] * code_gain
            weight = max(np.floor(exact + 0.5), 1.0) if exact > 0 else 0.0
            over += max(weight - exact, 0.0) ** 2
            under += max(exact - weight, 0.0) ** 2
            weights[query, rank] = np.uint32(weight)
        band += (np.sqrt(over) + np.sqrt(under)) * row_norm
        band += code_gain * norm * (below + above)
        for place in range(first, last):
            exact = word_values[place] * word_gain
            weight = max(np.floor(exact + 0.5), 1.0)
            band += abs(weight - exact) * IMPACT_STEPS + exact * (rounding[0] + rounding[1])
            word_weights[place] = np.uint32(weight)
        bands[query] = np.int64(band / FOLD) + 3
    return bands
