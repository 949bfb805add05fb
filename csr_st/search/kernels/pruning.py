"""The compiled search that passes over most documents, and why its result is exact. Needs numba.

Documents are ordered so that neighbours have their strongest latents in common, and every few of
them that follow each other, a span, have a bound for each latent: the largest value of any of them.
The search has three passes:

1. For each span a bound: U = Σ w_i·top_i over the query's latents.
2. For each document of the spans whose bound reaches the cut, a sum of coarse values,
   A = Σ w_i·level_i.
3. For each document whose sum reaches the cut, its exact score, from the stored values.

The cut is the top_k-th best exact score so far. All integers are rounded up: the weights
w = ⌈q·gain⌉, the tops ⌈v·scale⌉, and the levels, of which there are 16. So neither U nor A is
below gain·scale·score, and a document that is passed over cannot be among the best. (Ding and Suel
2011 bound blocks of postings like this, Mallia et al. 2024 blocks of documents.) U has 16 bits and
stays at 65535 where it would be more; ``gain`` is such that no score is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.bounds import GROUP
from csr_st.search.kernels.candidates import settle
from csr_st.search.kernels.fixed_point import Array
from csr_st.search.kernels.prefetching import LINE, prefetch
from csr_st.search.kernels.spans import COUNT_BITS, MOST, SPAN, SPAN_BITS

SEEDS = 32  # groups at least, the best of whose spans give the first cut
ROOM = 256  # candidates that are scored together, beside twice top_k
AHEAD = 10  # spans that are fetched from memory before they are needed
ONE = np.uint64(1)
SLACK = 1e-6  # relative, far above the rounding errors of floats


@njit(nogil=True, cache=True)
def _level(sums: Array, wanted: int) -> int:
    """The largest multiple of 256 that ``wanted`` of the sums reach, else 1."""
    bins = np.zeros(512, np.int32)
    for place in range(sums.shape[0]):
        bins[min(np.int64(sums[place]) >> 8, 511)] += 1
    total = 0
    for level in range(511, 0, -1):
        total += bins[level]
        if total >= wanted:
            return level << 8
    return 1


@njit(nogil=True, cache=True)
def _any_allowed(rows: Array, allowed: Array) -> bool:
    found = False
    for row in rows:
        found |= allowed[row]
    return found


@njit(nogil=True, cache=True)
def _fetch_places(span: int, spans: Any, order: Array) -> None:
    """Have the processor fetch where a span lies, and its documents."""
    prefetch(spans[0], np.uint64(2 * span))
    prefetch(spans[0], np.uint64(2 * span + 3))
    prefetch(order, np.uint64(span * SPAN))


@njit(nogil=True, cache=True)
def _fetch_ahead(chosen: Array, number: int, first: int, spans: Any, order: Array) -> None:
    """Fetch what is needed after span ``number`` of the chosen ones, counted from ``first``."""
    places, span = number + 2 * AHEAD, number + AHEAD
    if places < chosen.shape[0]:
        _fetch_places(first + chosen[places], spans, order)
    if 0 <= span < chosen.shape[0]:
        _fetch_span(first + chosen[span], spans)


@njit(nogil=True, cache=True)
def _fetch_span(span: int, spans: Any) -> None:
    """Have the processor fetch a span from memory."""
    offsets, latents, counts, postings = spans
    start, end = np.uint64(offsets[2 * span]), np.uint64(offsets[2 * span + 2])
    for entry in range(start, end, np.uint64(LINE // latents.itemsize)):
        prefetch(latents, np.uint64(entry))
    for entry in range(start, end, np.uint64(2 * LINE)):
        prefetch(counts, np.uint64(entry >> ONE))
    start, end = np.uint64(offsets[2 * span + 1]), np.uint64(offsets[2 * span + 3])
    for posting in range(start, end, np.uint64(LINE)):
        prefetch(postings, np.uint64(posting))


@njit(nogil=True, cache=True, inline="always")
def _count(counts: Array, entry: Any) -> Any:
    """How many postings an entry has: one of the two numbers in a byte."""
    shift = (entry & ONE) * np.uint64(COUNT_BITS)
    return (np.uint64(counts[entry >> ONE]) >> shift) & np.uint64(MOST)


@njit(nogil=True, cache=True)
def _add_span(
    sums: Array, span: int, weights: Array, spans: Any, levels: Array, found: Array
) -> None:
    """The second pass over one span: coarse sums of its documents.

    Which of the entries are the query's is not predictable: they are first gathered without a
    branch.

    Args:
        sums: (SPAN,) uint32 zeros, written.
        span: Its number among all.
        weights: (hidden_dim,) uint32 of the query.
        spans: As for `search_spans`.
        levels: As for `fill_spans`.
        found: (2, entries of a span + 1) uint64, for the entries and where their postings begin.
    """
    offsets, latents, counts, postings = spans
    mask, shift = np.uint8(SPAN - 1), np.uint8(SPAN_BITS)
    posting, n_found = np.uint64(offsets[2 * span + 1]), np.uint64(0)
    for entry in range(np.uint64(offsets[2 * span]), np.uint64(offsets[2 * span + 2])):
        found[0, n_found], found[1, n_found] = entry, posting
        n_found += np.uint64(weights[latents[entry]] > 0)
        posting += _count(counts, entry)
    for number in range(n_found):
        entry, posting = found[0, number], found[1, number]
        weight = weights[latents[entry]]
        for place in range(posting, posting + _count(counts, entry)):
            code = postings[place]
            sums[code & mask] += weight * levels[code >> shift]


@njit(nogil=True, cache=True)
def _choose(bounds: Array, highest: Array, group: int, least: int, chosen: Array) -> Any:
    """Gather the spans whose bound reaches ``least``, from a group on.

    Returns:
        How many there are in ``chosen`` (room,), and the group after the last one that was read.
    """
    count = 0
    while group < highest.shape[0] and count + GROUP < chosen.shape[0]:
        if highest[group] >= least:
            for span in range(group * GROUP, min(group * GROUP + GROUP, bounds.shape[0])):
                chosen[count] = span
                count += bounds[span] >= least
        group += 1
    return count, group


@njit(nogil=True, cache=True)
def _first_cut(
    candidates: Array, count: int, wanted: int, best: Array, query: Any, keys: Array
) -> Any:
    """Score the ``wanted`` best candidates exactly, for a first cut, and keep those it leaves.

    Returns:
        The cut, and how many candidates are left.
    """
    sums = np.empty(count, np.uint32)
    for number in range(count):
        sums[number] = candidates[number] >> np.uint64(32)
    level = _level(sums, wanted)
    n_best = 0
    for number in range(count):
        if sums[number] >= level:
            best[n_best] = candidates[number]
            n_best += 1
    cut, left = _score(best, n_best, 1, query, keys), 0
    for number in range(count):
        if cut <= sums[number] < level:
            candidates[left] = candidates[number]
            left += 1
    return cut, left


@njit(nogil=True, cache=True)
def _score(candidates: Array, count: int, cut: int, query: Any, keys: Array) -> int:
    """Score candidates exactly, keep the best in ``keys`` and return the cut that they give.

    Args:
        candidates: (room,) uint64, a sum above a document.
        count: Number of candidates.
        cut: Least sum of a candidate.
        query: (room, latents, values, gain, documents, k); room is (hidden_dim,) float32 zeros.
        keys: (top_k,) as in `settle`.
    """
    room, latents, values, gain, documents, k = query
    touched = np.zeros(1, np.int64)
    touched[0] = settle(
        candidates, count, cut, room, (latents, values), documents, k, None, 0, keys
    )
    last = keys[keys.shape[0] - 1]
    if last == 0:  # reading `touched` keeps the compiler from removing what `settle` only reads
        return cut if touched[0] >= 0 else 1
    bits = np.empty(1, np.uint32)
    bits[0] = np.uint32(last >> np.uint64(32))
    score = np.float64(bits.view(np.float32)[0])
    least: int = max(1, np.int64(np.floor(score * (1.0 - SLACK) * gain)) - 1)
    return least


@njit(nogil=True, cache=True)
def search_spans(
    queries: Any,
    shape: Any,
    spans: Any,
    levels: Array,
    documents: Any,
    order: Array,
    passed: float,
    allowed: Array,
    filtered: bool,
    bounds: Array,
    highest: Array,
    keys: Array,
) -> None:
    """The second and third pass of some queries over some spans.

    Args:
        queries: (latents, values, weights, gain): as for `search_blocks`, and units of a bound per
            unit of a score.
        shape: (k, hidden_dim, first): latents of a document; number of the first of these spans.
        spans: As for `csr_st.search.kernels.spans.fill_spans`, but offsets of one dimension.
        levels: As for `fill_spans`, uint32.
        documents: (latents, low, high, factors) of all documents.
        order: (n,) the document at each place.
        passed: 1 for an exact search; above it, spans are passed over whose bound is less than so
            many times the cut.
        allowed: (n,) bool, documents that may be returned.
        filtered: Whether any document may not be returned.
        bounds: From `csr_st.search.kernels.bounds.bound_spans`; changed.
        highest: From `bound_spans`.
        keys: (n_queries, top_k) uint64 zeros; receives keys as in `settle`, best first.
    """
    latents, values, weights, gain = queries
    k, hidden_dim, first = shape
    room = 2 * keys.shape[1] + ROOM
    zeros, spread = np.zeros(hidden_dim, np.float32), np.zeros(hidden_dim, np.uint32)
    candidates = np.empty((2, room + SPAN), np.uint64)
    found, sums = np.empty((2, SPAN * k + 1), np.uint64), np.empty(SPAN, np.uint32)
    for number in range(latents.shape[0]):
        for rank in range(latents.shape[1]):
            if weights[number, rank] > 0:
                spread[latents[number, rank]] = weights[number, rank]
        query = zeros, latents[number], values[number], gain, documents, k
        _search(
            query, spread, first, spans, levels, order, passed, (allowed, filtered),
            bounds[number], highest[number], (candidates, found, sums), keys[number],
        )  # fmt: skip
        for rank in range(latents.shape[1]):
            spread[latents[number, rank]] = 0


@njit(nogil=True, cache=True)
def _search(
    query: Any,
    weights: Array,
    first: int,
    spans: Any,
    levels: Array,
    order: Array,
    passed: float,
    filter_: Any,
    bounds: Array,
    highest: Array,
    room: Any,
    keys: Array,
) -> None:
    """As `search_spans`, for one query: first its best spans, for a cut, then all that reach it.

    Args:
        query: As for `_score`.
        weights: As for `_add_span`.
        first: Number of the first of these spans.
        spans: As for `search_spans`.
        levels: As for `search_spans`.
        order: As for `search_spans`.
        passed: As for `search_spans`.
        filter_: (allowed, filtered) of `search_spans`.
        bounds: (n_spans,).
        highest: (n_groups,).
        room: (candidates, found, sums): (2, n) of uint64, and as for `_add_span`.
        keys: (top_k,).
    """
    candidates, top_k = room[0][0], keys.shape[0]
    chosen = np.empty(8 * GROUP, np.int64)
    seed = _level(highest, SEEDS + top_k // 4)
    cut, count, group, seeding = 1, 0, 0, True
    while group < highest.shape[0]:
        least = max(seed, np.int64(cut * passed))
        n_chosen, group = _choose(bounds, highest, group, least, chosen)
        for ahead in range(-2 * AHEAD, n_chosen):
            _fetch_ahead(chosen[:n_chosen], ahead, first, spans, order)
            span = chosen[max(ahead, 0)]
            if ahead >= 0 and bounds[span] >= np.int64(cut * passed):
                bounds[span] = 0
                count = _read_span(
                    first + span, weights, spans, levels, order, filter_, cut,
                    room, count,
                )  # fmt: skip
            if count + SPAN > candidates.shape[0]:
                cut, count = _score(candidates, count, cut, query, keys), 0
        if seeding and group == highest.shape[0]:
            cut, count = _first_cut(candidates, count, 2 * top_k, room[0][1], query, keys)
            group, seeding, seed = 0, False, 1
        elif count >= ROOM // 4:
            cut, count = _score(candidates, count, cut, query, keys), 0
    _score(candidates, count, cut, query, keys)


@njit(nogil=True, cache=True)
def _read_span(
    span: int,
    weights: Array,
    spans: Any,
    levels: Array,
    order: Array,
    filter_: Any,
    cut: int,
    room: Any,
    count: int,
) -> int:
    """Add the documents of a span that reach the cut to the candidates; return how many there are.

    With a filter, a span of which no document may be returned is not read.
    """
    allowed, filtered = filter_
    rows = order[span * SPAN : (span + 1) * SPAN]
    if filtered and not _any_allowed(rows, allowed):
        return count
    candidates, found, sums = room
    sums[:] = 0
    _add_span(sums, span, weights, spans, levels, found)
    for number in range(rows.shape[0]):
        row = rows[number]
        if sums[number] >= cut and (not filtered or allowed[row]):
            candidates[0, count] = (np.uint64(sums[number]) << np.uint64(32)) | np.uint64(row)
            count += 1
    return count
