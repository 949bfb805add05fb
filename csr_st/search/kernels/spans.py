"""Compiled loops that turn stored documents into the spans of `pruning`. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array, factor_of, stored_value

SPAN_BITS = 4  # of a posting, for the place in its span; the other four are for a level
SPAN = 1 << SPAN_BITS  # documents
LEVELS = 1 << (8 - SPAN_BITS)
SPANS = 4096  # of a block
BLOCK = SPAN * SPANS  # documents
COUNT_BITS = 4  # of the number of a latent's postings in a span
MOST = (1 << COUNT_BITS) - 1
DENSE_SHARE = 8  # a latent in more than an eighth of a block's spans takes one byte for each span


@njit(nogil=True, cache=True)
def count_spans(documents: Any, rows: Array, k: int, listed: Array, sizes: Array) -> None:
    """Count what one block takes.

    Args:
        documents: (latents, low, high) of all documents.
        rows: Rows of the block's documents, in their new order.
        k: Latents per document.
        listed: (hidden_dim,) int64 zeros, receives the spans of each latent.
        sizes: (n_spans, 2) int64, receives each span's entries and postings.
    """
    latents, low, high = documents
    seen = np.full(listed.shape[0], -1, np.int64)
    having = np.zeros(listed.shape[0], np.int64)
    total = 0
    for place in range(rows.shape[0]):
        row, span = rows[place], place >> SPAN_BITS
        for rank in range(k):
            if low[row, rank] == 0 and high[row, rank] == 0:
                break
            latent = latents[row, rank]
            sizes[span, 1] += 1
            if seen[latent] != span:
                seen[latent], having[latent] = span, 0
                listed[latent] += 1
            if having[latent] % MOST == 0:
                sizes[span, 0] += 1
                total += 1
            having[latent] += 1
    if total % 2:  # so that no two blocks write to the same byte
        sizes[(rows.shape[0] - 1) >> SPAN_BITS, 0] += 1


@njit(nogil=True, cache=True)
def fill_spans(
    documents: Any,
    rows: Array,
    k: int,
    rounding: Any,
    lists: Any,
    spans: Any,
    largest: Array,
) -> None:
    """Write one block.

    Args:
        documents: (latents, low, high, factors) of all documents.
        rows: As for `count_spans`.
        k: Latents per document.
        rounding: (scale, levels): 8-bit steps per unit, and the levels (of 8 bits, rising).
        lists: (cursors, numbers, tops, dense_rows, dense): where each latent's list begins,
            (hidden_dim,) int64, changed; the span and the top of each entry, written; the row of
            each latent in ``dense``, (hidden_dim,), or -1; (n_dense, SPANS), written.
        spans: (offsets, latents, counts, postings): where the entries and postings of each span
            begin, (n_spans + 1, 2); the latent and the number of postings of each entry, and these,
            written. Two counts, of at most ``MOST``, are in one byte: a latent that more documents
            have has a second entry.
        largest: (hidden_dim,) uint8 zeros, receives the largest top of each latent.
    """
    cursors, numbers, tops, dense_rows, dense = lists
    offsets, entry_latents, entry_counts, postings = spans
    highest = np.zeros(cursors.shape[0], np.float64)
    places = np.full(cursors.shape[0], -1, np.int64)
    found, having = np.empty(SPAN * k, np.int64), np.empty(SPAN * k, np.int64)
    for first in range(0, rows.shape[0], SPAN):
        span, here = first >> SPAN_BITS, rows[first : first + SPAN]
        n_found = _gather(documents, here, k, rounding[0], places, highest, found, having)
        entry, posting = offsets[span, 0], offsets[span, 1]
        for number in range(n_found):
            latent, left = found[number], having[number]
            places[latent] = posting
            posting += left
            while left > 0:
                count = min(left, MOST)
                entry_latents[entry] = latent
                entry_counts[entry >> 1] |= count << ((entry & 1) * COUNT_BITS)
                entry, left = entry + 1, left - count
            top = min(max(np.ceil(highest[latent]), 1.0), 255.0)
            largest[latent] = max(largest[latent], np.int64(top))
            if dense_rows[latent] >= 0:
                dense[dense_rows[latent], span] = top
            else:
                numbers[cursors[latent]] = span
                tops[cursors[latent]] = top
                cursors[latent] += 1
        if entry < offsets[span + 1, 0]:  # see `count_spans`
            entry_latents[entry] = 0
        _write_postings(documents, here, k, rounding, postings, places)
        for number in range(n_found):
            places[found[number]] = -1


@njit(nogil=True, cache=True)
def _gather(
    documents: Any,
    rows: Array,
    k: int,
    scale: float,
    places: Array,
    highest: Array,
    found: Array,
    having: Array,
) -> int:
    """The latents of one span, how many documents have each, and its highest value.

    Args:
        documents: As for `fill_spans`.
        rows: Rows of the span's documents.
        k: As for `fill_spans`.
        scale: As for `fill_spans`.
        places: (hidden_dim,) of -1, receives the place of each latent in ``found``.
        highest: (hidden_dim,), written for these latents.
        found: (SPAN * k,), receives the latents.
        having: (SPAN * k,), receives the numbers of documents.

    Returns:
        How many latents there are.
    """
    latents, low, high, factors = documents
    n_found = 0
    for row in rows:
        factor = factor_of(factors, row)
        for rank in range(k):
            steps = stored_value(low, high, row, rank)
            if steps == 0:
                break
            latent = latents[row, rank]
            if places[latent] < 0:
                places[latent] = n_found
                found[n_found], having[n_found] = latent, 0
                highest[latent] = 0.0
                n_found += 1
            having[places[latent]] += 1
            highest[latent] = max(highest[latent], steps * factor * scale)
    return n_found


@njit(nogil=True, cache=True)
def _write_postings(
    documents: Any, rows: Array, k: int, rounding: Any, postings: Array, places: Array
) -> None:
    """Write the postings of one span; ``places`` has the next place of each latent."""
    latents, low, high, factors = documents
    scale, levels = rounding
    for number in range(rows.shape[0]):
        row = rows[number]
        factor = factor_of(factors, row) * scale
        for rank in range(k):
            steps = stored_value(low, high, row, rank)
            if steps == 0:
                break
            level = 0
            while level < levels.shape[0] - 1 and levels[level] < steps * factor:
                level += 1
            latent = latents[row, rank]
            postings[places[latent]] = number | (level << SPAN_BITS)
            places[latent] += 1
