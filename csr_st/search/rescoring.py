"""Rescoring: the query's dense vector against documents decoded from their codes.

Magnitudes z decode to v̂ = W_decᵀ z + b, so q·v̂ = Σ_r z_r (W_dec q)_r + q·b. With t = W_dec q
computed once per query, a candidate costs one gather of k numbers, and nothing more is stored. For
short codes W_dec includes their map, see `Decoder.weight_at`.

Rescoring finds more of the dense model's neighbours at every k. In nDCG and accuracy it is ahead of
a query at 4k only for small k (4 or less on the sets of tests/benchmarks/README.md).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.decoder import Decoder
from csr_st.search.documents import Documents
from csr_st.search.kernels.loading import load_kernels

Metric: TypeAlias = Literal["cosine", "dot"]

_QUERIES_AT_ONCE = 256  # bounds t, which is (queries, hidden_dim)


def check_metric(metric: str) -> None:
    """Check a metric of rescoring.

    Raises:
        ValueError: If it is not one of `Metric`.
    """
    if metric not in get_args(Metric):
        choices = " or ".join(map(repr, get_args(Metric)))
        raise ValueError(f"metric={metric!r} is unknown; pass {choices}")


def checked_dense(
    rescore: int, top_k: int, queries_dense: Any, n_queries: int, decoder: Decoder | None
) -> NDArray[np.float32]:
    """The dense queries of a search that rescores, as float32.

    Raises:
        ValueError: If there is no decoder, or ``rescore`` or the dense queries do not fit.
    """
    if decoder is None:
        raise ValueError(
            "rescoring needs a decoder: build the index with decoder=Decoder.from_head(head), or "
            "pass it to search"
        )
    if rescore < top_k:
        raise ValueError(f"rescore={rescore} is less than top_k={top_k}; pass at least top_k")
    if queries_dense is None:
        raise ValueError("rescoring needs queries_dense, the dense vectors of the queries")
    dense = np.asarray(queries_dense)
    if dense.shape != (n_queries, decoder.input_dim):
        raise ValueError(
            f"queries_dense has shape {dense.shape}; pass ({n_queries}, {decoder.input_dim}): the "
            "dense vector of each query code, as wide as the decoder"
        )
    dense = np.ascontiguousarray(dense, np.float32)
    if not np.isfinite(dense).all():
        raise ValueError("queries_dense has NaN or infinite values")
    return dense


class Rescorer:
    """Scores candidates through a decoder at one document k.

    The norm of a reconstruction costs O(k·input_dim); it is computed when a document first becomes
    a candidate, and kept in 4 bytes per document.
    """

    def __init__(self, documents: Documents, decoder: Decoder, k: int) -> None:
        self.documents = documents
        self.k = k
        self._decoder = decoder
        self._weight = decoder.weight_at(k)
        self._norms = np.full(len(documents), np.nan, np.float32)

    def rescore(
        self,
        queries: NDArray[np.float32],
        positions: NDArray[np.int64],
        top_k: int,
        metric: Metric,
        threads: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best candidates by the decoder's score.

        Args:
            queries: (n_queries, input_dim) float32.
            positions: (n_queries, n_candidates), padded with -1; or (n_candidates,), rising, the
                same for every query.
            top_k: Documents to return per query, at most n_candidates.
            metric: Cosine of query and reconstruction, or their dot product.
            threads: Threads.

        Returns:
            Positions (n_queries, top_k), padded with -1, and scores.
        """
        if metric == "cosine":
            self._fill_norms(positions, threads)
        if positions.ndim == 1:
            return self._rescore_all(queries, positions, top_k, metric, threads)
        scores = np.empty(positions.shape, np.float32)
        tasks = [
            partial(self._score, queries, positions, metric, scores, slice(at, at + step))
            for step in [min(_QUERIES_AT_ONCE, -(-len(queries) // threads) or 1)]
            for at in range(0, len(queries), step)
        ]
        run_all(tasks, threads)
        order = np.lexsort((positions, -scores), axis=-1)[:, :top_k]
        return np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)

    def _rescore_all(
        self,
        queries: NDArray[np.float32],
        positions: NDArray[np.int64],
        top_k: int,
        metric: Metric,
        threads: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One query at a time: of many candidates only the best are sorted."""
        best = np.empty((len(queries), top_k), np.int64)
        scores = np.empty((len(queries), top_k), np.float32)

        def work(query: int) -> None:
            found = np.empty((1, len(positions)), np.float32)
            self._score(queries[query : query + 1], positions[None], metric, found, slice(1))
            least = np.partition(found[0], -top_k)[-top_k]
            rows = np.flatnonzero(found[0] >= least)
            rows = rows[np.argsort(-found[0, rows], kind="stable")[:top_k]]
            best[query], scores[query] = positions[rows], found[0, rows]

        run_all([partial(work, query) for query in range(len(queries))], threads)
        return best, scores

    def _score(
        self,
        queries: NDArray[np.float32],
        positions: NDArray[np.int64],
        metric: Metric,
        scores: NDArray[np.float32],
        rows: slice,
    ) -> None:
        dense = queries[rows]
        products = dense @ self._weight.T
        documents = self.documents
        load_kernels("rescoring").gather_scores(
            products, dense @ self._decoder.pre_bias, positions[rows],
            documents.latents, documents.low, documents.high, documents.norms,
            self.k, 1 / self._decoder.power, scores[rows],
        )  # fmt: skip
        if metric == "cosine":
            length = np.linalg.norm(dense, axis=1)[:, None] * self._norms[positions[rows]]
            scores[rows] /= np.where(length > 0, length, np.inf)
        scores[rows][positions[rows] < 0] = -np.inf

    def _fill_norms(self, positions: NDArray[np.int64], threads: int) -> None:
        rows = np.unique(positions[positions >= 0])
        rows = rows[np.isnan(self._norms[rows])]
        documents = self.documents
        compute = partial(
            load_kernels("rescoring").reconstruction_norms,
            self._weight,
            self._decoder.pre_bias,
            latents=documents.latents,
            low=documents.low,
            high=documents.high,
            norms=documents.norms,
            k=self.k,
            exponent=1 / self._decoder.power,
            lengths=self._norms,
        )
        parts = [part for part in np.array_split(rows, threads) if len(part)]
        run_all([partial(compute, part) for part in parts], threads)
