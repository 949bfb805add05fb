"""Names of latents from contrast: words of texts with a latent against those without."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from csr_st.codes import SparseCodes
from csr_st.insight.names import LatentName, LatentNames
from csr_st.packed_codes import PackedCodes

NameWith = Callable[[Sequence[str], Sequence[str]], "str | Sequence[str]"]

WORDS = 5
STRONGEST = 10
NEIGHBOURS = 5


def name_latents(
    codes: SparseCodes | PackedCodes,
    texts: Sequence[str],
    name_with: NameWith | None = None,  # noqa: ARG001 - in the next change
) -> LatentNames:
    """Words for each latent, and how well they tell texts with it from texts without."""
    if isinstance(codes, PackedCodes):
        codes = codes.unpack()
    matrix = codes.to_scipy()
    n = len(codes)
    vectorizer = CountVectorizer(min_df=2, max_df=0.5, ngram_range=(1, 2))
    counts = vectorizer.fit_transform(texts).tocsr()
    vocabulary = vectorizer.get_feature_names_out()
    present = (counts > 0).astype(np.float32)
    active = (matrix > 0).astype(np.float32)
    naming = np.zeros(n, bool)
    naming[np.random.default_rng(0).permutation(n)[: n // 2]] = True
    both = (active[naming].T @ present[naming]).tocsr()
    of_word = np.asarray(present[naming].sum(axis=0)).ravel()
    of_latent = np.asarray(active[naming].sum(axis=0)).ravel()
    share = active.mean(axis=0).A1 if hasattr(active.mean(axis=0), "A1") else active.mean(axis=0)
    near = _neighbours(matrix)
    columns, held = matrix.tocsc(), np.flatnonzero(~naming)
    tested, active_columns = present[held].tocsc(), active[held].tocsc()
    found = []
    for latent in np.flatnonzero(share > 0):
        row = both[latent]
        p = of_word[row.indices] / max(naming.sum(), 1)
        z = (row.data - of_latent[latent] * p) / np.sqrt(of_latent[latent] * p + 0.1)
        z[row.data < 2] = -math.inf
        best = row.indices[np.lexsort((row.indices, -z))[:WORDS]]
        y = active_columns[:, latent].toarray().ravel() > 0
        auc = _auc(np.asarray(tested[:, best].sum(axis=1)).ravel(), y)
        words = tuple(map(str, vocabulary[best]))
        start, end = columns.indptr[latent], columns.indptr[latent + 1]
        order = np.argsort(-columns.data[start:end], kind="stable")[:STRONGEST]
        rows = columns.indices[start:end][order]
        bound = 0.5 + 1.645 * math.sqrt(1 / (12 * max(y.sum(), 1)))
        found.append(
            LatentName(
                int(latent),
                words if auc > bound else (),
                auc,
                float(share[latent]),
                tuple(map(int, rows)),
                near[latent],
            )
        )
    return LatentNames(found, hidden_dim=codes.hidden_dim, k=codes.k, n_texts=n)


def _auc(scores: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    ones, zeros = np.sort(scores[positive]), np.sort(scores[~positive])
    if not len(ones) or not len(zeros):
        return math.nan
    below = np.searchsorted(zeros, ones, "left") + np.searchsorted(zeros, ones, "right")
    return float(below.sum() / (2 * len(ones) * len(zeros)))


def _neighbours(matrix: scipy.sparse.csr_matrix) -> list[tuple[int, ...]]:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    scaled = matrix @ scipy.sparse.diags(1 / np.where(lengths > 0, lengths, 1))
    alike = (scaled.T @ scaled).tocsr()
    found = []
    for latent in range(matrix.shape[1]):
        part = alike[latent]
        keep = part.indices != latent
        order = np.argsort(-part.data[keep], kind="stable")[:NEIGHBOURS]
        found.append(tuple(map(int, part.indices[keep][order])))
    return found
