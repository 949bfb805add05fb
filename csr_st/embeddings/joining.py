"""Two stores whose rows belong together, such as images and captions, as one store of pairs.

Each side is shifted so that both have the same mean, which removes the modality gap before
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.embeddings.manifest import StoreInfo
from csr_st.embeddings.matrix import PartedMatrix
from csr_st.embeddings.store import EmbeddingStore

MEAN_OF = 100_000  # rows of a side that its mean is taken from


def joined(sides: Sequence[EmbeddingStore]) -> tuple[EmbeddingStore, NDArray[np.float32]]:
    """One store of both sides' rows, row i of each a pair, and the shift of each side.

    Args:
        sides: Two stores of n rows each, of equal width.

    Returns:
        The (2n, d) store, the first side's rows first, and the (2, d) shifts: each side's mean
        minus the mean of both.

    Raises:
        ValueError: If there are not two sides, or their lengths or widths differ.
    """
    if len(sides) != 2:
        raise ValueError(f"{len(sides)} sides; pairs have two")
    first, second = sides
    if len(first) != len(second):
        raise ValueError(
            f"the sides have {len(first)} and {len(second)} rows; row i of one must belong to row "
            "i of the other: drop the rows that have no partner"
        )
    if first.dim != second.dim:
        raise ValueError(
            f"the sides have widths {first.dim} and {second.dim}; one head needs vectors of one "
            "space, such as CLIP's"
        )
    means = np.stack([side.sample(MEAN_OF).mean(axis=0) for side in sides])
    shifts = (means - means.mean(axis=0)).astype(np.float32)
    n = len(first)
    pairs = np.stack([np.arange(n), n + np.arange(n)], axis=1)
    info = StoreInfo(n=2 * n, dim=first.dim, dtype=first.info.dtype)
    return EmbeddingStore(_ShiftedSides(sides, shifts), info, pairs=pairs), shifts


class _ShiftedSides(PartedMatrix):
    """Rows of several stores, those of each shifted."""

    def __init__(self, sides: Sequence[EmbeddingStore], shifts: NDArray[np.float32]) -> None:
        self._sides = sides
        self._shifts = shifts
        self.starts = np.cumsum([0, *map(len, sides)])
        self.dim = sides[0].dim
        self.identity = lambda: " ".join(side.fingerprint() for side in sides)
        self.reopen = (_ShiftedSides, (sides, shifts))

    def gather(self, index: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Rows ``index`` (m,), in this order, as (m, dim) float32."""
        out = np.empty((len(index), self.dim), np.float32)
        number = np.searchsorted(self.starts, index, side="right") - 1
        for side, store in enumerate(self._sides):
            mine = np.flatnonzero(number == side)
            local = index[mine].astype(np.int64) - self.starts[side]
            out[mine] = store.rows(local) - self._shifts[side]
        return out

    def verify(self) -> None:
        """Read everything."""
        for side in self._sides:
            side.verify()
