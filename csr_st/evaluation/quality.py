"""What a head keeps and what it costs: quality against k, beside full and shortened dense vectors.

Works on vectors, so it serves any backbone. Nothing here trains, and nothing is printed: an
`Evaluation` is data, `Evaluation.table` is text, `csr_st.evaluation.plots.draw` is the picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st._io.files import write_atomically
from csr_st.codes import index_dtype
from csr_st.decoder import Decoder
from csr_st.encoding import encode_vectors
from csr_st.evaluation.brute_force import cosine_top, rescored_top, sparse_top
from csr_st.evaluation.metrics import knn_accuracy, ndcg_at, overlap_at
from csr_st.head import SparseCSRHead

KS = (2, 4, 8, 16, 32, 64)
LEAST = 11  # documents: ten neighbours and the one that asks
METHODS = {
    "symmetric": "sparse, query at k",
    "query_4k": "sparse, query at 4k",
    "rescored": "rescored through the decoder",
    "pca": "PCA to k dimensions",
    "truncation": "first k dimensions",
}
METRICS = {
    "recall@10": "Recall@10 of the dense neighbours",
    "ndcg@10": "nDCG@10",
    "accuracy": "5-NN accuracy",
}
Ranker = Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Evaluation:
    """Measured quality and cost of one head. Every figure comes from vectors it was given.

    Attributes:
        ks: Active latents of a document, and dimensions of the dense baselines.
        n_documents: Documents searched.
        n_queries: Queries asked.
        input_dim: Width of the dense vectors.
        hidden_dim: Number of latents.
        rescore: Candidates re-ranked in the "rescored" rows, found with the query at 4k.
        fvu: Fraction of the documents' variance that the reconstruction misses, by k.
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
        """Write JSON, whole or not at all."""
        write_atomically(Path(path), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is no such JSON.
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
            raise ValueError(f"{path} is no saved evaluation: {error}") from error

    def table(self, metric: str | None = None) -> str:
        """Markdown: a line a method, a column a k; the most telling metric when None."""
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
            f"| bytes an item (dense: {self.dense_bytes_per_item:,}) | " + " | ".join(cost) + " |"
        )
        return "\n".join(lines)

    @property
    def main_metric(self) -> str:
        """The metric nearest to what users see: judged quality before neighbour recall."""
        return next(m for m in ("ndcg@10", "accuracy", "recall@10") if m in self.scores)

    def kept(self, method: str, k: int, metric: str | None = None) -> float:
        """Share of the full dense figure that a method keeps at k."""
        metric = metric or self.main_metric
        return self.scores[metric][method][k] / max(self.dense[metric], 1e-12)


def _integer_keys(row: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in row.items()}


def evaluate(
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
        queries: (m, input_dim) dense vectors that ask; when None, up to 1,000 of the documents do,
            each leaving itself out of its answers.
        ks: Active latents to measure at; those above hidden_dim are left out.
        relevant: For each query (each document where they ask) the relevant documents' row
            numbers and gains; adds nDCG@10.
        document_labels: (n,) class of each document; with ``query_labels`` adds 5-NN accuracy.
        query_labels: (m,) class of each query.
        fit_on: Vectors that PCA is fitted on, ``documents`` when None.
        rescore: Candidates that the decoder re-ranks.
        about: Words to keep with the figures.

    Returns:
        The figures.

    Raises:
        ValueError: If shapes do not fit, there are too few documents, or a class is -1: unknown.
    """
    documents = _matrix("documents", documents, head.input_dim)
    if len(documents) < LEAST:
        raise ValueError(
            f"{len(documents)} documents are too few to measure on; give at least {LEAST}"
        )
    leave_out = None
    if queries is None:
        _check_count("document_labels", document_labels, len(documents))
        _check_count("relevant", relevant, len(documents))
        picked = np.random.default_rng(0).permutation(len(documents))[:1000]
        queries, leave_out = documents[picked], picked
        query_labels = None if document_labels is None else np.asarray(document_labels)[picked]
        relevant = None if relevant is None else [relevant[i] for i in picked]
    queries = _matrix("queries", queries, head.input_dim)
    _check_count("document_labels", document_labels, len(documents))
    _check_count("query_labels", query_labels, len(queries))
    _check_count("relevant", relevant, len(queries))
    _check_known("document_labels", document_labels)
    _check_known("query_labels", query_labels)
    wanted, ks = ks, tuple(sorted({head.check_k(k) for k in ks if k <= head.hidden_dim}))
    if not ks:
        raise ValueError(f"ks={tuple(wanted)} holds none within 1..hidden_dim={head.hidden_dim}")

    rankers = _rankers(head, documents, queries, max(ks), fit_on, rescore, leave_out)
    dense_ranking = cosine_top(documents, queries, 10, leave_out)
    measures = _measures(dense_ranking, relevant, document_labels, query_labels)
    scores: dict[str, dict[str, dict[int, float]]] = {
        metric: {method: {} for method in METHODS} for metric in measures
    }
    for k in ks:
        for method, ranker in rankers.items():
            if method in ("pca", "truncation") and k > head.input_dim:
                continue
            ranking = ranker(k)
            for metric, measure in measures.items():
                scores[metric][method][k] = measure(ranking)
    fvu, dead = _reconstruction(head, documents, ks)
    width = index_dtype(head.hidden_dim).itemsize
    return Evaluation(
        ks=ks,
        n_documents=len(documents),
        n_queries=len(queries),
        input_dim=head.input_dim,
        hidden_dim=head.hidden_dim,
        rescore=rescore,
        fvu=fvu,
        dead_fraction=dead,
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


def _check_count(name: str, given: Any, expected: int) -> None:
    if given is not None and len(given) != expected:
        raise ValueError(f"{name} has {len(given)} entries; give one for each of {expected} rows")


def _check_known(name: str, labels: Any) -> None:
    given = np.asarray([] if labels is None else labels)
    if given.dtype.kind == "i" and (given < 0).any():
        raise ValueError(
            f"{name} has {int((given < 0).sum())} entries below 0, which stand for an unknown "
            "class; leave these rows out"
        )


def _rankers(
    head: SparseCSRHead,
    documents: NDArray[np.float32],
    queries: NDArray[np.float32],
    max_k: int,
    fit_on: NDArray[Any] | None,
    rescore: int,
    leave_out: NDArray[np.int64] | None,
) -> dict[str, Ranker]:
    """For each method, a function from k to the rows of the ten best documents of each query."""
    widest = min(head.hidden_dim, 4 * max_k)
    document_codes = encode_vectors(head, documents, max_k)
    query_codes = encode_vectors(head, queries, widest)
    decoder = Decoder.from_head(head)
    basis = pca_basis(documents if fit_on is None else np.asarray(fit_on, np.float32))

    def sparse(k: int, query_k: int) -> NDArray[np.int64]:
        asked = query_codes.prefix(min(query_k, widest))
        return sparse_top(document_codes.prefix(k), asked, 10, leave_out)

    def rescored(k: int) -> NDArray[np.int64]:
        stored, asked = document_codes.prefix(k), query_codes.prefix(min(4 * k, widest))
        candidates = min(rescore, len(documents) - 1)
        return rescored_top(stored, asked, decoder, queries, candidates, 10, leave_out)

    def projected(k: int) -> NDArray[np.int64]:
        project = basis[0], basis[1][:, :k]
        shorter = [(x - project[0]) @ project[1] for x in (documents, queries)]
        return cosine_top(shorter[0], shorter[1], 10, leave_out)

    return {
        "symmetric": lambda k: sparse(k, k),
        "query_4k": lambda k: sparse(k, 4 * k),
        "rescored": rescored,
        "pca": projected,
        "truncation": lambda k: cosine_top(documents[:, :k], queries[:, :k], 10, leave_out),
    }


def pca_basis(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (d,) and principal directions (d, d), by falling variance, of (n, d) vectors."""
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    _, directions = np.linalg.eigh(centred.T @ centred)
    return mean, np.ascontiguousarray(directions[:, ::-1])


def _measures(
    dense_ranking: NDArray[np.int64],
    relevant: Sequence[Mapping[int, float]] | None,
    document_labels: NDArray[Any] | None,
    query_labels: NDArray[Any] | None,
) -> dict[str, Callable[[NDArray[np.int64]], float]]:
    measures: dict[str, Callable[[NDArray[np.int64]], float]] = {
        "recall@10": lambda ranking: overlap_at(ranking, dense_ranking)
    }
    if relevant is not None:
        measures["ndcg@10"] = lambda ranking: ndcg_at(ranking, relevant, 10)
    if document_labels is not None and query_labels is not None:
        known, asked = np.asarray(document_labels), np.asarray(query_labels)
        measures["accuracy"] = lambda ranking: knn_accuracy(ranking[:, :5], known, asked)
    return measures


def _reconstruction(
    head: SparseCSRHead, documents: NDArray[np.float32], ks: Sequence[int]
) -> tuple[dict[int, float], dict[int, float]]:
    """Unexplained variance and share of unused latents, by k."""
    error = dict.fromkeys(ks, 0.0)
    used = {k: np.zeros(head.hidden_dim, bool) for k in ks}
    # Not below what fp16 rounding of equal rows gives.
    floor = max(1e-6 * float((documents**2).sum()), 1e-30)
    total = max(float(((documents - documents.mean(axis=0)) ** 2).sum()), floor)
    with torch.inference_mode():
        for start in range(0, len(documents), 1024):
            batch = torch.as_tensor(documents[start : start + 1024], device=head.pre_bias.device)
            code = head.encode(batch, max(ks))
            for k in ks:
                values, indices = code.values[:, :k], code.indices[:, :k]
                error[k] += float((batch - head.decode(values, indices)).square().sum())
                used[k][indices[values > 0].cpu().numpy()] = True
    return (
        {k: error[k] / total for k in ks},
        {k: 1 - float(used[k].mean()) for k in ks},
    )
