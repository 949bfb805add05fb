"""The data sets of the quality benchmark, embedded once, each with its own metric."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score

from csr_st.evaluation.brute_force import top_rows
from csr_st.evaluation.metrics import knn_accuracy, ndcg_at

SETS = ("scifact", "cranfield", "clinc150", "trec6", "stsb")


@dataclass(frozen=True)
class Task:
    """Training vectors, indexed documents, queries, and the ground truth.

    ``pairs`` are row numbers of ``train``.
    """

    name: str
    kind: str
    train: np.ndarray
    documents: np.ndarray
    queries: np.ndarray
    relevant: list[dict[int, float]] = field(default_factory=list)
    document_labels: np.ndarray | None = None
    query_labels: np.ndarray | None = None
    truth: np.ndarray | None = None
    labels: np.ndarray | None = None
    pairs: np.ndarray | None = None
    scores: np.ndarray | None = None

    @property
    def metric(self) -> str:
        return {"retrieval": "nDCG@10", "classification": "5-NN", "sts": "Spearman"}[self.kind]

    def halved(self) -> Task:
        """The same task with half of the documents unseen in training."""
        rows = np.random.default_rng(0).permutation(len(self.documents))
        seen = np.sort(rows[: len(rows) // 2])
        return replace(
            self, name=f"{self.name}, half unseen", train=self.documents[seen], pairs=None
        )

    def unlabelled(self) -> Task:
        """The task without labels and pairs; retrieval then trains on documents only."""
        extra = self.kind == "retrieval" and self.pairs is not None
        train = self.documents if extra else self.train
        return replace(self, train=train, labels=None, pairs=None, scores=None)

    def ranked(self, ranking: np.ndarray) -> float:
        """The figure in percent of a ranking of documents, (queries, >= 10) rows, best first."""
        if self.kind == "retrieval":
            return 100 * ndcg_at(ranking, self.relevant, 10)
        return 100 * knn_accuracy(ranking[:, :5], self.document_labels, self.query_labels)

    def scored(self, documents, queries) -> float:
        """The figure in percent of two matrices whose dot products are the similarities."""
        if self.kind == "sts":
            products = (
                documents.multiply(queries).sum(axis=1)
                if _sparse(documents)
                else (documents * queries).sum(axis=1)
            )
            return 100 * float(spearmanr(np.asarray(products).ravel(), self.truth).statistic)
        return self.ranked(rank(documents, queries, 10))

    def probed(self, documents, queries) -> dict[str, float]:
        """Logistic regression and clustering on a representation; classification only."""
        classes = len(np.unique(self.document_labels))
        probe = LogisticRegression(max_iter=200, C=10).fit(documents, self.document_labels)
        clusters = KMeans(classes, n_init=3, random_state=0).fit_predict(queries)
        return {
            "logistic regression": 100 * float(probe.score(queries, self.query_labels)),
            "v-measure": 100 * float(v_measure_score(self.query_labels, clusters)),
        }


def _sparse(matrix) -> bool:
    return scipy.sparse.issparse(matrix)


def rank(documents, queries, top: int) -> np.ndarray:
    """(m, top) best rows of ``documents`` by dot product."""
    found = []
    for i in range(0, queries.shape[0], 256):
        products = queries[i : i + 256] @ documents.T
        found.append(
            top_rows(np.asarray(products.todense() if _sparse(products) else products), top)
        )
    return np.concatenate(found)


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean fraction of a row of ``wanted`` that is in the same row of ``found``."""
    return float(
        np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)])
    )


def load(name: str, data: Path, cache: Path, embed: Callable[[list[str]], np.ndarray]) -> Task:
    """One data set, with vectors from ``cache`` or embedded now."""
    root = data / name

    def vectors(part: str, texts: list[str]) -> np.ndarray:
        path = cache / f"{name}-{part}.npy"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, embed(texts))
        return np.load(path)

    if (root / "corpus.jsonl").exists():
        return _retrieval(name, root, vectors)
    if name == "stsb":
        return _sts(root, vectors)
    return _classification(name, root, vectors)


def _retrieval(name, root, vectors) -> Task:
    corpus, asked = (
        [json.loads(line) for line in (root / f"{part}.jsonl").open(encoding="utf-8")]
        for part in ("corpus", "queries")
    )
    rows = {item["_id"]: row for row, item in enumerate(corpus)}
    judged = _qrels(root / "qrels.tsv", rows)
    known = [item for item in asked if item["_id"] in judged]
    documents = vectors("corpus", [f"{d.get('title', '')} {d['text']}".strip() for d in corpus])
    queries = vectors("queries", [item["text"] for item in known])
    train, pairs = documents, None
    if (root / "qrels" / "train.tsv").exists():
        answers = _qrels(root / "qrels" / "train.tsv", rows)
        asking = [item for item in asked if item["_id"] in answers]
        extra = vectors("train-queries", [item["text"] for item in asking])
        train = np.concatenate([documents, extra])
        pairs = np.array(
            [
                (len(documents) + i, row)
                for i, item in enumerate(asking)
                for row in answers[item["_id"]]
            ]
        )
    relevant = [judged[item["_id"]] for item in known]
    return Task(name, "retrieval", train, documents, queries, relevant=relevant, pairs=pairs)


def _qrels(path: Path, rows: dict[str, int]) -> dict[str, dict[int, float]]:
    judged: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")[:3]
        if document in rows and float(gain) > 0:
            judged.setdefault(query, {})[rows[document]] = float(gain)
    return judged


def _classification(name, root, vectors) -> Task:
    parts = {}
    for part in ("train", "test"):
        lines = (root / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        parts[part] = [line.split("\t", 1) for line in lines]
    names = sorted({label for label, _ in parts["train"]})
    labels = {
        part: np.array([names.index(label) for label, _ in rows]) for part, rows in parts.items()
    }
    train, test = (vectors(part, [text for _, text in parts[part]]) for part in ("train", "test"))
    return Task(
        name,
        "classification",
        train,
        train,
        test,
        document_labels=labels["train"],
        query_labels=labels["test"],
        labels=labels["train"],
    )


def _sts(root, vectors) -> Task:
    parts = {}
    for part in ("train", "test"):
        lines = (root / f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        scores = np.array([float(score) for score, *_ in rows], np.float32)
        sides = [vectors(f"{part}-{i}", [row[i] for row in rows]) for i in (1, 2)]
        parts[part] = scores, sides
    scores, (first, second) = parts["train"]
    truth, (one, other) = parts["test"]
    n = len(first)
    return Task(
        "stsb",
        "sts",
        np.concatenate([first, second]),
        other,
        one,
        truth=truth,
        pairs=np.stack([np.arange(n), n + np.arange(n)], axis=1),
        scores=scores / 5,
    )
