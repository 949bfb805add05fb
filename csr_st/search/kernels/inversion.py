"""Compiled loops that turn stored documents into postings. Needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from csr_st._io.compiling import njit
from csr_st.search.kernels.fixed_point import Array, factor_of, stored_value

BLOCK = 16384  # documents; 2-byte accumulators of one block fill 32 KiB
GROUP = 4  # lists are padded to a multiple of this
DENSE_SHARE = 18  # a latent in more than BLOCK / 18 documents takes one byte per document


@njit(nogil=True, cache=True)
def count_block(latents: Array, low: Array, high: Array, k: int, counts: Array) -> None:
    """Add to ``counts`` (hidden_dim,) how many of these documents have each latent."""
    for row in range(latents.shape[0]):
        for rank in range(k):
            if low[row, rank] == 0 and high[row, rank] == 0:
                break
            counts[latents[row, rank]] += 1


@njit(nogil=True, cache=True)
def fill_block(
    documents: Any,
    k: int,
    value_scale: float,
    cursors: Array,
    dense_rows: Array,
    ids: Array,
    codes: Array,
    dense: Array,
) -> tuple[float, float, float]:
    """Write one block's postings, each list in order of position.

    Args:
        documents: (latents, low, high, factors) of the block's documents: three arrays
            (rows, k_stored), and factors (rows,), or one for all.
        k: Latents per document.
        value_scale: 8-bit steps per unit.
        cursors: (hidden_dim,) where each list begins in ``ids`` and ``codes``; advanced.
        dense_rows: (hidden_dim,) row of ``dense`` of a latent, or -1.
        ids: Position within the block of each posting.
        codes: 8-bit value of each posting.
        dense: (n_dense, BLOCK) 8-bit values, 0 where a document lacks the latent.

    Returns:
        Over the rows, the largest squared norm of the parts rounded down, of the parts rounded
        up and of the 8-bit values.
    """
    latents, low, high, factors = documents
    below, above, largest = 0.0, 0.0, 0.0
    for row in range(latents.shape[0]):
        row_below, row_above, square = 0.0, 0.0, 0.0
        for rank in range(k):
            steps = stored_value(low, high, row, rank)
            if steps == 0:
                break
            scaled = steps * factor_of(factors, row) * value_scale
            code = min(max(np.floor(scaled + 0.5), 1.0), 255.0)
            row_below += max(scaled - code, 0.0) ** 2
            row_above += max(code - scaled, 0.0) ** 2
            square += code * code
            latent = latents[row, rank]
            if dense_rows[latent] >= 0:
                dense[dense_rows[latent], row] = code
            else:
                place = cursors[latent]
                cursors[latent] = place + 1
                ids[place] = row
                codes[place] = code
        below = max(below, row_below)
        above = max(above, row_above)
        largest = max(largest, square)
    return below, above, largest
