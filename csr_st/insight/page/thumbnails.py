"""Small pictures for a page: JPEG, of the items that matter most, within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.data.images import decoded

SIDE = 128  # pixels of the longer side
QUALITY = 70  # of JPEG
STRONGEST = 10  # items of each latent that the page shows first


def thumbnails(pictures: Sequence[Any], codes: SparseCodes, room: int) -> dict[int, str]:
    """Small pictures by row, as JPEG in base64, as many as there is room for.

    First come the items in which a latent is strongest, then the second strongest of each latent,
    and so on to the tenth; then all others in their order. Nothing of an image is kept but pixels.

    Args:
        pictures: One for each code: a PIL image, an `EncodedImage`, or None where there is none.
        codes: (n, k) codes of unit length.
        room: Bytes of all JPEG together.

    Raises:
        ValueError: If an image cannot be decoded.
    """
    found: dict[int, str] = {}
    used = 0
    for row in in_order(codes).tolist():
        if pictures[row] is None:
            continue
        content = _jpeg(pictures[row])
        used += len(content)
        if used > room:
            break
        found[row] = base64.b64encode(content).decode()
    return found


def in_order(codes: SparseCodes) -> NDArray[np.int64]:
    """(n,) rows, those first that are the strongest of a latent."""
    rows, columns = np.nonzero(codes.values > 0)
    latents, values = codes.indices[rows, columns], codes.values[rows, columns]
    by_latent = np.lexsort((rows, -values, latents))
    _, starts, counts = np.unique(latents[by_latent], return_index=True, return_counts=True)
    ranks = np.arange(len(rows)) - np.repeat(starts, counts)
    uses = np.repeat(counts, counts)
    strong = ranks < STRONGEST
    by_rank = np.lexsort((-uses[strong], ranks[strong]))  # of one rank, latents used most first
    ordered = np.concatenate([rows[by_latent][strong][by_rank], np.arange(len(codes))])
    _, first = np.unique(ordered, return_index=True)
    found: NDArray[np.int64] = ordered[np.sort(first)]
    return found


def _jpeg(picture: Any) -> bytes:
    small = decoded([picture])[0].copy()
    small.thumbnail((SIDE, SIDE))
    small.info.clear()  # comments would be written
    small.save(stream := io.BytesIO(), "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()
