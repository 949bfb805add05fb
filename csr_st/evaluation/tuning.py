"""The weight of words beside codes, chosen by judged queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.encoding import encode_vectors
from csr_st.evaluation.brute_force import score_blocks, top_rows
from csr_st.evaluation.ground_truth import check_relevant
from csr_st.evaluation.metrics import ndcg_of_each
from csr_st.evaluation.words import Texts
from csr_st.head import SparseCSRHead

WEIGHTS = (0, 0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2)
FOLDS = 5


@dataclass(frozen=True)
class Tuning:
    """A weight of words that was chosen by judged queries.

    Attributes:
        weight: The best of `WEIGHTS` for all queries.
        ndcg: nDCG@10 of each query at the weight that is best for the queries of the other folds.
        given_weight: The weight that it is compared with, that of `Texts`.
        given_ndcg: nDCG@10 of all queries at that weight.
        k: Latents of a document.
        query_k: Latents of a query.
        n_queries: Judged queries.
        folds: Parts of the queries.
    """

    weight: float
    ndcg: float
    given_weight: float
    given_ndcg: float
    k: int
    query_k: int
    n_queries: int
    folds: int = FOLDS

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int | float):  # from a file
                raise TypeError(f"{name}={value!r} of a tuning must be a number")

    def __str__(self) -> str:
        chosen = (
            f"nDCG@10 {100 * self.ndcg:.1f} where the weight is chosen by the other queries "
            f"({self.folds} folds of {self.n_queries} queries, documents at k={self.k}, queries at "
            f"{self.query_k})"
        )
        given = f"{100 * self.given_ndcg:.1f} at the weight {self.given_weight:g}"
        if self.ndcg <= self.given_ndcg:
            return f"Weight of words: keep {self.given_weight:g}. {chosen}, and {given}."
        return (
            f"Weight of words: {self.weight:g}, the best for these queries. {chosen}, but {given}. "
            f"To use it: csr-st index CODES --texts TEXTS --weight {self.weight:g} --output "
            "index.csr"
        )


def judged_queries(relevant: Sequence[Mapping[int, float]]) -> NDArray[np.int64]:
    """The queries that have a gain above 0.

    Raises:
        ValueError: If they are fewer than 10.
    """
    counted = np.flatnonzero([any(gain > 0 for gain in gains.values()) for gains in relevant])
    if len(counted) < 2 * FOLDS:
        raise ValueError(
            f"{len(counted)} judged queries are too few to choose a weight by; give at least "
            f"{2 * FOLDS}, better 100"
        )
    return counted


def tune_weight(
    head: SparseCSRHead,
    documents: NDArray[Any],
    queries: NDArray[Any],
    relevant: Sequence[Mapping[int, float]],
    texts: Texts,
    k: int | None = None,
) -> Tuning:
    """Choose the weight of words beside codes by judged queries, cross-validated.

    The queries are split into five folds. Each fold is measured at the weight that is best for the
    other four, so that no query has chosen the weight that it is measured at. The weight to use is
    the best for all queries.

    Args:
        head: The trained head.
        documents: (n, input_dim) dense vectors.
        queries: (m, input_dim) dense vectors.
        relevant: For each query the relevant documents' row numbers and gains.
        texts: Texts of documents and queries; its ``weight`` is what the new one is compared with.
        k: Latents of a document, the head's (at most hidden_dim) if None; queries have 4k.

    Raises:
        ValueError: If sizes do not fit, or fewer than 10 queries have a gain above 0.
    """
    check_relevant(relevant, len(queries), len(documents))
    judged_queries(relevant)
    k = head.check_k(min(head.k, head.hidden_dim) if k is None else k)
    query_k = min(4 * k, head.hidden_dim)
    codes, asked = encode_vectors(head, documents, k), encode_vectors(head, queries, query_k)
    return tune_for_codes(codes, asked, relevant, texts)


def tune_for_codes(
    codes: SparseCodes, asked: SparseCodes, relevant: Sequence[Mapping[int, float]], texts: Texts
) -> Tuning:
    """`tune_weight` for codes of documents and of queries that there are already."""
    check_relevant(relevant, len(asked), len(codes))
    counted = judged_queries(relevant)
    words = texts.scores(len(codes), len(asked))
    weights = np.array(sorted({*WEIGHTS, float(texts.weight)}))
    by_codes = score_blocks(codes.to_scipy().T.tocsr(), asked.to_scipy())
    by_words = score_blocks(words.documents.T.tocsr(), words.queries)
    figures = np.full((len(weights), len(asked)), np.nan)
    for (rows, first), (_, second) in zip(by_codes, by_words, strict=True):
        for place, weight in enumerate(weights):
            ranking = top_rows(first + np.float32(weight) * second, 10)
            figures[place, rows] = ndcg_of_each(ranking, relevant[rows], 10)
    given = int(np.flatnonzero(weights == float(texts.weight))[0])

    def best(chosen: NDArray[np.int64]) -> int:
        """The place of the best weight for some queries; of equal ones the nearest to the given."""
        means = figures[:, chosen].mean(axis=1)
        equal = np.flatnonzero(means >= means.max() - 1e-12)
        return int(equal[np.abs(weights[equal] - weights[given]).argmin()])

    folds = np.array_split(np.random.default_rng(0).permutation(counted), FOLDS)
    held_out = [figures[best(np.setdiff1d(counted, fold)), fold] for fold in folds]
    return Tuning(
        weight=float(weights[best(counted)]),
        ndcg=float(np.concatenate(held_out).mean()),
        given_weight=float(texts.weight),
        given_ndcg=float(figures[given, counted].mean()),
        k=codes.k,
        query_k=asked.k,
        n_queries=len(counted),
    )
