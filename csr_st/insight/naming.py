"""Names of latents from contrast: words of texts with a latent against those without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.insight.chance import beats_chance, weighted_auc
from csr_st.insight.names import LatentName, LatentNames
from csr_st.insight.vocabulary import Vocabulary
from csr_st.insight.word_vectors import WordVectors
from csr_st.packed_codes import PackedCodes

NameWith: TypeAlias = Callable[[list[str], list[str]], "str | Sequence[str]"]

WORDS = 8
CANDIDATES = 40
NAMING_SHARE = 0.6
STRONGEST = 10
NEIGHBOURS = 5


def name_latents(
    codes: SparseCodes | PackedCodes,
    texts: Iterable[str],
    name_with: NameWith | None = None,  # noqa: ARG001
) -> LatentNames:
    """."""
    if isinstance(codes, PackedCodes):
        codes = codes.unpack()
    listed = list(texts)
    codes = codes.normalize()
    matrix = codes.to_scipy()
    n = len(codes)
    order = np.random.default_rng(0).permutation(n)
    naming, testing = np.split(order, [round(NAMING_SHARE * n)])
    import time; t0=time.time()
    vocabulary = Vocabulary.of(listed); print('voc', time.time()-t0, vocabulary.matrix.shape)
    vectors = WordVectors.fit(vocabulary.matrix, matrix, naming); print('vec', time.time()-t0)
    chosen = _chosen(vocabulary, vectors, matrix[naming], naming); print('cho', time.time()-t0)
    directions = np.stack([vectors.words[places].sum(axis=0) for places in chosen], axis=1)
    scores = vectors.texts[testing] @ directions
    held = matrix[testing].tocsc()
    near = _neighbours(matrix)
    columns = matrix.tocsc()
    found = []
    for latent in np.flatnonzero(np.diff(columns.indptr)):
        weights = held[:, [latent]].toarray().ravel() ** 2
        auc = weighted_auc(scores[:, latent], weights)
        places = chosen[latent] if beats_chance(auc, weights) else []
        words = tuple(str(vocabulary.words[place]) for place in places)
        start, end = columns.indptr[latent], columns.indptr[latent + 1]
        strongest = np.argsort(-columns.data[start:end], kind="stable")[:STRONGEST]
        rows = columns.indices[start:end][strongest]
        found.append(
            LatentName(
                int(latent), words, auc, float((end - start) / n), tuple(rows.tolist()), near[latent]
            )
        )
    print('all', time.time()-t0)
    return LatentNames(found, hidden_dim=codes.hidden_dim, k=codes.k, n_texts=n)


def _chosen(vocabulary, vectors, codes, naming):
    present = (vocabulary.matrix[naming] > 0).astype(np.float32)
    active = (codes > 0).astype(np.float32)
    both = (active.T @ present).tocsr()
    share = np.asarray(present.mean(axis=0)).ravel()
    used = np.asarray(active.sum(axis=0)).ravel()
    texts = vectors.texts[naming]
    mean = texts.mean(axis=0)
    spread = np.cov(texts, rowvar=False)
    ev, axes = np.linalg.eigh(spread)
    scaled = vectors.words @ (axes * np.sqrt(np.maximum(ev, 0)))
    squares = codes.multiply(codes)
    total = np.asarray(squares.sum(axis=0)).ravel()
    centres = (squares.T @ texts) / np.where(total > 0, total, 1)[:, None] - mean
    chosen = []
    for latent in range(codes.shape[1]):
        row = slice(both.indptr[latent], both.indptr[latent + 1])
        words, times = both.indices[row], both.data[row]
        words, times = words[times >= 2], times[times >= 2]
        expected = used[latent] * share[words]
        z = (times - expected) / np.sqrt(expected + 0.1)
        along = vectors.words[words] @ centres[latent]
        cand = np.union1d(words[np.argsort(-z)[:CANDIDATES]], words[np.argsort(-along)[:CANDIDATES]])
        chosen.append(_greedy(cand, vectors.words[cand] @ centres[latent], scaled[cand]))
    return chosen


def _greedy(cand, along, scaled):
    got, total, height = [], np.zeros(scaled.shape[1]), 0.0
    best = 0.0
    squares = np.einsum("nd,nd->n", scaled, scaled)
    while len(got) < min(WORDS, len(cand)):
        length = np.sqrt(total @ total + 2 * scaled @ total + squares)
        f = (height + along) / np.maximum(length, 1e-9)
        f[got] = -np.inf
        j = int(np.argmax(f))
        if f[j] <= best: break
        best = f[j]
        got.append(j); total = total + scaled[j]; height += along[j]
    return cand[got]


def _neighbours(matrix: scipy.sparse.csr_matrix) -> list[tuple[int, ...]]:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    scaled = matrix @ scipy.sparse.diags(1 / np.where(lengths > 0, lengths, 1))
    alike = (scaled.T @ scaled).tocsr()
    found = []
    for latent in range(matrix.shape[1]):
        row = slice(alike.indptr[latent], alike.indptr[latent + 1])
        others = alike.indices[row] != latent
        order = np.argsort(-alike.data[row][others], kind="stable")[:NEIGHBOURS]
        found.append(tuple(alike.indices[row][others][order].tolist()))
    return found
