"""Where the latents of a page lie on its map: near each other if they mean the same.

The map is t-SNE (van der Maaten and Hinton, 2008) of scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder

LANDMARKS = 1000  # latents that t-SNE places; the time grows with them
WIDTH, COMPONENTS = 50, 30
STEPS = 400
PERPLEXITY = 15
NEAREST = 3
LEAST = 4  # latents that t-SNE can place


def positions(
    codes: SparseCodes, latents: NDArray[np.int64], decoder: Decoder | None
) -> NDArray[np.float32]:
    """(n, 2) places of n latents, each axis within 0..1.

    Latents are alike if their decoder rows point the same way; without a decoder, if they are
    active in the same texts. t-SNE places the first 1,000; the others come to the mean of their
    three nearest. The same input gives the same places.

    Args:
        codes: Codes of the texts.
        latents: Numbers of the latents, those that matter most first.
        decoder: That of the head.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from sklearn.neighbors import KNeighborsRegressor

    n = len(latents)
    in_line = np.column_stack([np.arange(n, dtype=np.float32), np.zeros(n, np.float32)])
    if n < LEAST:
        return _within_unit(in_line)
    with threadpool_limits(1):  # sums of several threads differ in the last bits
        rows = _directions(codes, latents, decoder)
        first = rows[:LANDMARKS]
        reduced = min(COMPONENTS, len(first), rows.shape[1])
        if reduced < 2 or np.allclose(first, first[0]):
            return _within_unit(in_line)
        pca = PCA(reduced, svd_solver="full").fit(first)
        near = pca.transform(first)
        placed = TSNE(
            init="pca",
            max_iter=STEPS,
            perplexity=min(PERPLEXITY, (len(first) - 1) / 3),
            random_state=0,
            n_jobs=1,
        ).fit_transform(near)
        if n > LANDMARKS:
            model = KNeighborsRegressor(NEAREST, weights="distance").fit(near, placed)
            rest = model.predict(pca.transform(rows[LANDMARKS:]))
            placed = np.concatenate([placed, rest])
    return _within_unit(placed)


def _directions(
    codes: SparseCodes, latents: NDArray[np.int64], decoder: Decoder | None
) -> NDArray[np.float32]:
    """One row for each latent; similar latents have rows of similar direction, of unit length."""
    if decoder is not None:
        rows = decoder.weight[latents]
    else:
        from sklearn.decomposition import TruncatedSVD

        columns = codes.to_scipy().T.tocsr()[latents]
        width = min(WIDTH, len(latents) - 1)
        is_small = columns.shape[1] <= WIDTH
        svd = TruncatedSVD(width, random_state=0)
        # It divides by the variance, which may be 0.
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = columns.toarray() if is_small else svd.fit_transform(columns)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def _within_unit(placed: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    low, high = placed.min(axis=0, initial=np.inf), placed.max(axis=0, initial=-np.inf)
    spread = np.where(high > low, high - low, 1)
    scaled: NDArray[np.float32] = ((placed - low) / spread).astype(np.float32)
    return scaled
