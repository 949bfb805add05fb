"""Rescoring: the query's dense vector against documents decoded from their codes.

Coefficients a decode to v̂ = W_decᵀ a + b, so q·v̂ = Σ_r a_r (W_dec q)_r + q·b. With t = W_dec q
computed once per query, a candidate costs one gather of k numbers, and nothing more is stored. For
short codes W_dec includes their map, see `Decoder`, which also says what a are. Residual bits,
where the documents have them, add q·r̂, and the cosine is that of q and v̂ + r̂.

Rescoring finds more of the dense model's neighbours at every k. In nDCG and accuracy it is ahead of
a query at 4k where the dense vectors are; see tests/benchmarks/README.md for where codes are above
them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.decoder import Decoder
from csr_st.model.coefficients import RIDGE, SWEEPS
from csr_st.search.documents import Documents
from csr_st.search.kernels.importing import load_kernels

Metric: TypeAlias = Literal["cosine", "dot"]
Share: TypeAlias = Callable[[slice, NDArray[np.int64], NDArray[np.float32]], None]

_QUERIES_AT_ONCE = 256  # bounds t, which is (queries, hidden_dim)
_CANDIDATES_AT_ONCE = 2**15  # stay in the cache
_METRICS = get_args(Metric)
_ROWS_AT_ONCE = 1024  # decoded


def check_metric(metric: str) -> None:
    """Check a metric of rescoring.

    Raises:
        ValueError: If it is not one of `Metric`.
    """
    if metric not in _METRICS:
        choices = " or ".join(map(repr, _METRICS))
        raise ValueError(f"metric={metric!r} is unknown; pass {choices}")


def check_decoder(decoder: Decoder, documents: Documents) -> None:
    """Check that a decoder is of the head that made the codes.

    Raises:
        ValueError: If its hidden_dim, or the width or basis of the residual, is another.
    """
    if decoder.hidden_dim != documents.hidden_dim:
        raise ValueError(
            f"the decoder has hidden_dim={decoder.hidden_dim}, the codes "
            f"{documents.hidden_dim}; pass the decoder of the head that made the codes"
        )
    if documents.residual is not None:
        decoder.check_residual(documents.residual)


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

    The coefficients of a document's latents and the norm of what is decoded are computed when it
    first becomes a candidate, and kept in 4 * (k + 1) bytes. Residual bits are used at the k at
    which they were made, which is the stored one.
    """

    def __init__(self, documents: Documents, decoder: Decoder, k: int) -> None:
        check_decoder(decoder, documents)
        self.documents = documents
        self.k = k
        self._decoder = decoder
        self._weight = decoder.weight_at(k, documents.fitted)
        self._residual = documents.residual if k == documents.k else None
        self._coefficients = np.empty((len(documents), k), np.float32)  # pages cost when written
        self._norms = np.full(len(documents), np.nan, np.float32)  # NaN: not a candidate so far

    def rescore(
        self,
        queries: NDArray[np.float32],
        positions: NDArray[np.int64],
        top_k: int,
        metric: Metric,
        threads: int,
        share: Share | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best candidates by the decoder's score.

        Args:
            queries: (n_queries, input_dim) float32.
            positions: (n_queries, n_candidates), padded with -1; or (n_candidates,), the same
                for every query.
            top_k: Documents to return per query, at most n_candidates.
            metric: Cosine of query and reconstruction, or their dot product.
            threads: Threads.
            share: Adds what is not by codes to the scores (n, n_candidates) of some queries.

        Returns:
            Positions (n_queries, top_k), padded with -1, and scores.
        """
        self._fill(positions, threads)
        n_queries, n_candidates = len(queries), positions.shape[-1]
        candidates = np.broadcast_to(positions, (n_queries, n_candidates))
        best = np.empty((n_queries, top_k), np.int64)
        scores = np.empty((n_queries, top_k), np.float32)
        step = min(_QUERIES_AT_ONCE, _CANDIDATES_AT_ONCE // n_candidates, -(-n_queries // threads))
        step = max(1, step)

        def work(start: int) -> None:
            rows = slice(start, start + step)
            chosen = np.array(candidates[rows], order="C")
            found = self._scores(queries[rows], chosen, metric)
            if share is not None:
                share(rows, chosen, found)
            least = np.partition(found, -top_k, axis=1)[:, -top_k]
            kernels = load_kernels("reconstruction")
            kernels.best(found, chosen, np.ascontiguousarray(least), best[rows], scores[rows])

        run_all([partial(work, start) for start in range(0, n_queries, step)], threads)
        return best, scores

    def _scores(
        self, queries: NDArray[np.float32], positions: NDArray[np.int64], metric: Metric
    ) -> NDArray[np.float32]:
        """(n_queries, n_candidates) scores, -inf where the position is -1."""
        products, offsets = queries @ self._weight.T, queries @ self._decoder.pre_bias
        scores = np.empty(positions.shape, np.float32)
        load_kernels("reconstruction").gather_scores(
            products, offsets, positions, self.documents.latents, self._coefficients, scores
        )
        if self._residual is not None:
            load_kernels("residual").add_residual_scores(
                self._residual.query_weights(queries, self._decoder.residual_basis),
                positions,
                self._residual.levels,
                self._residual.scales,
                scores,
            )
        if metric == "cosine":
            length = np.linalg.norm(queries, axis=1)[:, None] * self._norms[positions]
            np.divide(scores, length, out=scores, where=length > 0)
            scores[length == 0] = 0
            scores[positions < 0] = -np.inf
        return scores

    def _fill(self, positions: NDArray[np.int64], threads: int) -> None:
        """Compute and keep what belongs to new candidates."""
        new = np.isnan(self._norms[positions]) & (positions >= 0)
        if not new.any():
            return
        rows = np.unique(positions[new])
        size = min(_ROWS_AT_ONCE, -(-len(rows) // threads))
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        norms = run_all([partial(self._filled, part) for part in parts], threads)
        # The norms last: another thread takes the rows of which it sees one.
        self._norms[rows] = np.concatenate(norms)

    def _filled(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Keep the coefficients of some documents; return the norms of what is decoded."""
        coefficients = self._coefficients[rows] = decoder_coefficients(
            self.documents, rows, self.k, self._decoder
        )
        decoded = np.empty((len(rows), self._decoder.input_dim), np.float32)
        load_kernels("reconstruction").decode(
            self._weight,
            self._decoder.pre_bias,
            self.documents.latents,
            rows,
            coefficients,
            decoded,
        )
        if self._residual is not None:
            decoded += self._residual[rows].decode(self._decoder.residual_basis)
        squares = np.einsum("nd,nd->n", decoded, decoded, dtype=np.float64)
        norms: NDArray[np.float32] = np.sqrt(squares).astype(np.float32)
        return norms


def decoder_coefficients(
    documents: Documents, rows: NDArray[np.int64], k: int, decoder: Decoder
) -> NDArray[np.float32]:
    """(len(rows), k) weights of the decoder's rows at the first k latents of some documents."""
    coefficients = np.empty((len(rows), k), np.float32)
    stored = documents.low, documents.high, documents.norms
    load_kernels("reconstruction").write_coefficients(stored, rows, 1 / decoder.power, coefficients)
    if decoder.encoder_weight is not None and not documents.fitted:
        weights = decoder.encoder_weight, decoder.weight, decoder.row_products(len(documents))
        load_kernels("debiasing").debias(
            documents.latents, rows, *weights, decoder.latent_bias, RIDGE, SWEEPS, coefficients
        )
    return coefficients
