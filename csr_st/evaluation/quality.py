"""Quality against k and bytes: a head's codes beside full and shortened dense vectors.

Works on vectors, and so for any backbone. `Evaluation` is the data, `Evaluation.table` the text,
`csr_st.evaluation.plots.draw` the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from csr_st._io.files import write_atomically
from csr_st.codes import index_dtype
from csr_st.decoder import Decoder
from csr_st.encoding import encode_vectors
from csr_st.evaluation.brute_force import cosine_top, rescored_top, sparse_top
from csr_st.evaluation.ground_truth import as_classes, check_classes, check_relevant
from csr_st.evaluation.metrics import (
    active_latents,
    knn_accuracy,
    ndcg_at,
    overlap_at,
    unexplained_variance,
)
from csr_st.head import SparseCSRHead

KS = (2, 4, 8, 16, 32, 64)
# Of n candidates the best n / 10 are looked at: a random ranking then finds a tenth of them.
RECALL_DEPTHS = (10, 5, 1)
CANDIDATES_PER_RANK = 10
LEAST = 11  # documents: those that depth 1 needs, and the query itself
FEW = 100  # documents or queries below which a figure comes with a caution
METHODS = {
    "symmetric": "sparse, query at k",
    "query_4k": "sparse, query at 4k",
    "rescored": "rescored through the decoder",
    "pca": "PCA to k dimensions",
    "truncation": "first k dimensions",
}
SPARSE_METHODS = ("symmetric", "query_4k", "rescored")
METRICS = {
    **{f"recall@{n}": f"Recall@{n} of the dense neighbours" for n in RECALL_DEPTHS},
    "ndcg@10": "nDCG@10",
    "accuracy": "5-NN accuracy",
}


@dataclass(frozen=True)
class Evaluation:
    """Measured quality and cost of one head.

    Attributes:
        ks: Active latents of a document, and dimensions of the dense baselines.
        n_documents: Documents searched.
        n_queries: Queries.
        input_dim: Width of the dense vectors.
        hidden_dim: Number of latents.
        rescore: Candidates re-ranked in the "rescored" rows, found with the query at 4k.
        fvu: Unexplained fraction of the documents' variance, by k.
        dead_fraction: Fraction of latents that no document activates, by k.
        bytes_per_item: Bytes of a stored code (float16 values), by k.
        dense_bytes_per_item: Bytes of a dense float32 vector.
        dense: The full dense vector's figure, by metric.
        scores: Figure by metric, method and k; see `METRICS` and `METHODS`.
        about: What was measured: model, data, training, in words.
    """

    ks: tuple[int, ...]
    n_documents: int
    n_queries: int
    input_dim: int
    hidden_dim: int
    rescore: int
    fvu: dict[int, float]
    dead_fraction: dict[int, float]
    bytes_per_item: dict[int, int]
    dense_bytes_per_item: int
    dense: dict[str, float]
    scores: dict[str, dict[str, dict[int, float]]]
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write JSON, complete or not at all."""
        write_atomically(Path(path), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is not such JSON.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            data["ks"] = tuple(data["ks"])
            for name in ("fvu", "dead_fraction", "bytes_per_item"):
                data[name] = _integer_keys(data[name])
            data["scores"] = {
                metric: {method: _integer_keys(row) for method, row in rows.items()}
                for metric, rows in data["scores"].items()
            }
            return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved evaluation: {error}") from error

    def table(self, metric: str | None = None) -> str:
        """Markdown, one line per method and one column per k; of `main_metric` when None."""
        metric = metric or self.main_metric
        lines = [
            f"| {METRICS[metric]} (dense: {100 * self.dense[metric]:.1f}) | "
            + " | ".join(f"k={k}" for k in self.ks)
            + " |",
            "| --- |" + " ---: |" * len(self.ks),
        ]
        for method, row in self.scores[metric].items():
            cells = (f"{100 * row[k]:.1f}" if k in row else "" for k in self.ks)
            lines.append(f"| {METHODS[method]} | " + " | ".join(cells) + " |")
        cost = (f"{self.bytes_per_item[k]:,}" for k in self.ks)
        lines.append(
            f"| bytes per item (dense: {self.dense_bytes_per_item:,}) | " + " | ".join(cost) + " |"
        )
        return "\n".join(lines)

    @property
    def main_metric(self) -> str:
        """The metric nearest to what users see: judged quality before neighbour recall."""
        return next(m for m in ("ndcg@10", "accuracy", *METRICS) if m in self.scores)

    @property
    def caution(self) -> str | None:
        """What to say beside figures of few rows; None where there are enough."""
        if min(self.n_documents, self.n_queries) >= FEW:
            return None
        points = 50 / math.sqrt(self.n_queries)  # of a share of one half
        return (
            f"Too few rows for a reliable figure: {self.n_documents:,} documents and "
            f"{self.n_queries:,} queries, a standard error of up to {points:.0f} points."
        )

    def kept(self, method: str, k: int, metric: str | None = None) -> float:
        """Fraction of the full dense vector's figure that a method reaches at k."""
        metric = metric or self.main_metric
        return self.scores[metric][method][k] / max(self.dense[metric], 1e-12)


def _integer_keys(row: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in row.items()}


def evaluate(  # public; what is measured and how are all options of their own
    head: SparseCSRHead,
    documents: NDArray[Any],
    queries: NDArray[Any] | None = None,
    *,
    ks: Sequence[int] = KS,
    relevant: Sequence[Mapping[int, float]] | None = None,
    document_labels: NDArray[Any] | None = None,
    query_labels: NDArray[Any] | None = None,
    fit_on: NDArray[Any] | None = None,
    rescore: int = 200,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure a head on vectors that it was not trained on.

    Args:
        head: The trained head.
        documents: (n, input_dim) dense vectors that are searched.
        queries: (m, input_dim) dense vectors; when None, up to 1,000 of the documents are the
            queries, each of which is left out of its own results.
        ks: Active latents to measure at; those above hidden_dim are left out.
        relevant: For each query (each document where they are the queries) the relevant documents'
            row numbers and gains; adds nDCG@10 (`ndcg_at` says what counts).
        document_labels: (n,) class of each document; with ``query_labels`` adds 5-NN accuracy. A
            class is a whole number from 0, a bool or a string; -1, None, NaN and "" mean that
            there is none, and such rows must be left out.
        query_labels: (m,) class of each query.
        fit_on: Vectors that PCA is fitted on, ``documents`` when None.
        rescore: Candidates that the decoder re-ranks.
        about: Words to keep with the figures.

    Returns:
        The figures: Recall@10 of the dense neighbours where each query has at least 100 documents
        to choose from, else Recall@5 with 50, else Recall@1. With ten documents to choose from,
        Recall@10 would be 100 whatever the codes.

    Raises:
        ValueError: If shapes do not fit, there are fewer than 11 documents, a class is missing or
            there is only one, or a gain is not finite, none is above 0, or one is of a document
            that is not there.
        TypeError: If labels or relevant are of the wrong type.
    """
    documents = _matrix("documents", documents, head.input_dim)
    if len(documents) < LEAST:
        raise ValueError(
            f"{len(documents)} documents are too few to measure on; give at least {LEAST}"
        )
    classes = as_classes("document_labels", document_labels, len(documents))
    check_relevant(relevant, len(documents if queries is None else queries), len(documents))
    leave_out = None
    if queries is None:
        leave_out = np.random.default_rng(0).permutation(len(documents))[:1000]
        queries = documents[leave_out]
        query_classes = None if classes is None else classes[leave_out]
        relevant = None if relevant is None else [relevant[i] for i in leave_out]
    else:
        queries = _matrix("queries", queries, head.input_dim)
        query_classes = as_classes("query_labels", query_labels, len(queries))
    check_classes(classes, query_classes)
    wanted, ks = ks, tuple(sorted({head.check_k(k) for k in ks if k <= head.hidden_dim}))
    if not ks:
        raise ValueError(f"ks={tuple(wanted)} has none within 1..hidden_dim={head.hidden_dim}")

    dense_ranking = cosine_top(documents, queries, 10, leave_out)
    candidates = len(documents) - (leave_out is not None)
    depth = next(n for n in RECALL_DEPTHS if candidates >= CANDIDATES_PER_RANK * n)
    measures = _measures(dense_ranking[:, :depth], relevant, classes, query_classes)
    scores: dict[str, dict[str, dict[int, float]]] = {
        metric: {method: {} for method in METHODS} for metric in measures
    }
    codes = encode_vectors(head, documents, max(ks))
    query_codes = encode_vectors(head, queries, min(head.hidden_dim, 4 * max(ks)))
    decoder = Decoder.from_head(head)
    rescore_top = min(rescore, candidates)
    projected = _projected(documents if fit_on is None else fit_on, max(ks), documents, queries)

    def rankings(k: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
        stored, wide = codes.prefix(k), query_codes.prefix(min(4 * k, query_codes.k))
        yield "symmetric", sparse_top(stored, query_codes.prefix(k), 10, leave_out)
        yield "query_4k", sparse_top(stored, wide, 10, leave_out)
        yield "rescored", rescored_top(stored, wide, decoder, queries, rescore_top, 10, leave_out)
        if k <= projected[0].shape[1]:  # PCA has as many components as rows, at most
            yield "pca", cosine_top(projected[0][:, :k], projected[1][:, :k], 10, leave_out)
        if k <= head.input_dim:
            yield "truncation", cosine_top(documents[:, :k], queries[:, :k], 10, leave_out)

    for k in ks:
        for method, ranking in rankings(k):
            for metric, measure in measures.items():
                scores[metric][method][k] = measure(ranking)
    width = index_dtype(head.hidden_dim).itemsize
    return Evaluation(
        ks=ks,
        n_documents=len(documents),
        n_queries=len(queries),
        input_dim=head.input_dim,
        hidden_dim=head.hidden_dim,
        rescore=rescore,
        fvu=unexplained_variance(documents, codes, decoder, ks),
        dead_fraction={k: 1 - float(active_latents(codes, k).mean()) for k in ks},
        bytes_per_item={k: k * (width + 2) + 4 for k in ks},
        dense_bytes_per_item=4 * head.input_dim,
        dense={metric: measure(dense_ranking) for metric, measure in measures.items()},
        scores=scores,
        about=dict(about or {}),
    )


def _matrix(name: str, vectors: NDArray[Any], width: int) -> NDArray[np.float32]:
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or matrix.shape[1] != width or not len(matrix):
        raise ValueError(f"{name} have shape {matrix.shape}; the head needs (n, {width}), n >= 1")
    return matrix


def _projected(
    fit_on: NDArray[Any], k: int, *vectors: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Vectors on the first k principal components of ``fit_on``, or on all that it has."""
    fit_on = np.asarray(fit_on, np.float32)
    # Exact, and in time linear in the vectors.
    pca = PCA(min(k, *fit_on.shape), svd_solver="covariance_eigh")
    with np.errstate(invalid="ignore"):  # of equal vectors, a fraction of no variance
        pca.fit(fit_on)
    return [pca.transform(rows) for rows in vectors]


def _measures(
    dense_ranking: NDArray[np.int64],
    relevant: Sequence[Mapping[int, float]] | None,
    classes: NDArray[Any] | None,
    query_classes: NDArray[Any] | None,
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    depth = dense_ranking.shape[1]
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        f"recall@{depth}": lambda ranking: overlap_at(ranking[:, :depth], dense_ranking)
    }
    if relevant is not None:
        measures["ndcg@10"] = lambda ranking: ndcg_at(ranking, relevant, 10)
    if classes is not None and query_classes is not None:
        measures["accuracy"] = lambda ranking: knn_accuracy(ranking[:, :5], classes, query_classes)
    return measures
