"""Compiled loops that turn stored documents into the spans of `pruning`. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array, stored_value

SPAN_BITS = 4  # of a posting, for the place in its span; the other four are for a level
SPAN = 1 << SPAN_BITS  # documents
LEVELS = 1 << (8 - SPAN_BITS)
SPANS = 4096  # of a block
BLOCK = SPAN * SPANS  # documents
DENSE_SHARE = 8  # a latent in more than an eighth of a block's spans takes one byte for each span


@njit(nogil=True, cache=True)
def count_spans(documents: Any, rows: Array, k: int, entries: Array, sizes: Array) -> None:
    """Count a block's entries, which are pairs of a latent and a span where it is active.

    Args:
        documents: (latents, low, high) of all documents.
        rows: Of the block's documents, in their new order.
        k: Latents per document.
        entries: (hidden_dim,) int32 zeros, receives the spans of each latent.
        sizes: (n_spans, 2) int64, receives each span's entries and postings.
    """
    latents, low, high = documents
    seen = np.full(entries.shape[0], -1, np.int64)
    for place in range(rows.shape[0]):
        row, span = rows[place], place >> SPAN_BITS
        for rank in range(k):
            if low[row, rank] == 0 and high[row, rank] == 0:
                break
            latent = latents[row, rank]
            sizes[span, 1] += 1
            if seen[latent] != span:
                seen[latent] = span
                entries[latent] += 1
                sizes[span, 0] += 1


@njit(nogil=True, cache=True)
def fill_spans(
    documents: Any,
    rows: Array,
    k: int,
    rounding: Any,
    lists: Any,
    dense: Any,
    spans: Any,
    largest: Array,
) -> None:
    """Write one block.

    Args:
        documents: (latents, low, high, factors) of all documents.
        rows: As for `count_spans`.
        k: Latents per document.
        rounding: (scale, levels): 8-bit steps per unit, and the levels (of 8 bits, rising).
        lists: (cursors, numbers, tops): where each latent's list begins, (hidden_dim,) int64,
            changed; the span and the top of each entry, written.
        dense: (rows, tops): row of each latent in ``tops``, or -1; (n_dense, spans), written.
        spans: (entry_starts, posting_starts, latents, counts, postings): where each span begins;
            the latent and the number of postings of each entry, and these, written.
        largest: (hidden_dim,) uint8 zeros, receives the largest top of each latent.
    """
    cursors, numbers, tops = lists
    dense_rows, dense_tops = dense
    entry_starts, posting_starts, entry_latents, entry_counts, _ = spans
    highest = np.zeros(cursors.shape[0], np.float64)
    places = np.full(cursors.shape[0], -1, np.int64)
    for first in range(0, rows.shape[0], SPAN):
        span, here = first >> SPAN_BITS, rows[first : first + SPAN]
        start = entry_starts[span]
        end = _write_entries(documents, here, k, rounding[0], spans, start, places, highest)
        posting = posting_starts[span]
        for entry in range(start, end):
            latent = entry_latents[entry]
            places[latent] = posting
            posting += entry_counts[entry]
            top = min(max(np.ceil(highest[latent]), 1.0), 255.0)
            largest[latent] = max(largest[latent], np.int64(top))
            if dense_rows[latent] >= 0:
                dense_tops[dense_rows[latent], span] = top
            else:
                numbers[cursors[latent]] = span
                tops[cursors[latent]] = top
                cursors[latent] += 1
        _write_postings(documents, here, k, rounding, spans[4], places)
        for entry in range(start, end):
            places[entry_latents[entry]] = -1


@njit(nogil=True, cache=True)
def _write_entries(
    documents: Any,
    rows: Array,
    k: int,
    scale: float,
    spans: Any,
    start: int,
    places: Array,
    highest: Array,
) -> int:
    """Write the entries of one span from ``start`` on, and the highest value of each latent.

    Args:
        documents: As for `fill_spans`.
        rows: Of the span's documents.
        k: As for `fill_spans`.
        scale: As for `fill_spans`.
        spans: As for `fill_spans`.
        start: Of its entries.
        places: (hidden_dim,) of -1, receives the entry of each latent.
        highest: (hidden_dim,), written for these latents.

    Returns:
        Where the entries end.
    """
    latents, low, high, factors = documents
    _, _, entry_latents, entry_counts, _ = spans
    end = start
    for row in rows:
        for rank in range(k):
            steps = stored_value(low, high, row, rank)
            if steps == 0:
                break
            latent = latents[row, rank]
            if places[latent] < 0:
                places[latent] = end
                entry_latents[end] = latent
                entry_counts[end] = 0
                highest[latent] = 0.0
                end += 1
            entry_counts[places[latent]] += 1
            highest[latent] = max(highest[latent], steps * factors[row] * scale)
    return end


@njit(nogil=True, cache=True)
def _write_postings(
    documents: Any, rows: Array, k: int, rounding: Any, postings: Array, places: Array
) -> None:
    """Write the postings of one span; ``places`` has the next place of each latent."""
    latents, low, high, factors = documents
    scale, levels = rounding
    for number in range(rows.shape[0]):
        row = rows[number]
        for rank in range(k):
            steps = stored_value(low, high, row, rank)
            if steps == 0:
                break
            level = 0
            while level < levels.shape[0] - 1 and levels[level] < steps * factors[row] * scale:
                level += 1
            latent = latents[row, rank]
            postings[places[latent]] = number | (level << SPAN_BITS)
            places[latent] += 1
