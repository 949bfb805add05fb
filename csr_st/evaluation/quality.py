"""Quality against k and bytes: a head's codes beside full and shortened dense vectors.

Works on vectors, and so for any backbone; where their texts are given, words are measured too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from csr_st.codes import SparseCodes, index_dtype
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
from csr_st.evaluation.results import METHODS, RECALL_DEPTHS, WORD_METHODS, Evaluation
from csr_st.evaluation.words import Texts
from csr_st.head import SparseCSRHead

KS = (2, 4, 8, 16, 32, 64)
TOKEN_KS = (16, 32, 64, 128, 256)  # of token-level heads
# Of n candidates the best n / 10 are looked at: a random ranking then finds a tenth of them.
CANDIDATES_PER_RANK = 10
LEAST = 11  # documents: those that depth 1 needs, and the query itself


def evaluate(  # public; what is measured and how are all options of their own
    head: SparseCSRHead,
    documents: NDArray[Any],
    queries: NDArray[Any] | None = None,
    *,
    ks: Sequence[int] | None = None,
    codes: tuple[SparseCodes, SparseCodes] | None = None,
    relevant: Sequence[Mapping[int, float]] | None = None,
    document_labels: NDArray[Any] | None = None,
    query_labels: NDArray[Any] | None = None,
    fit_on: NDArray[Any] | None = None,
    texts: Texts | None = None,
    rescore: int = 200,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure a head on vectors that it was not trained on.

    Args:
        head: The trained head.
        documents: (n, input_dim) dense vectors that are searched.
        queries: (m, input_dim) dense vectors; when None, up to 1,000 of the documents are the
            queries, each of which is left out of its own results.
        ks: Active latents to measure at; those above hidden_dim are left out. `KS` when None, or
            `TOKEN_KS` for a token-level head with as many latents.
        codes: Of a token-level head, which does not encode vectors: the codes of the documents at
            the largest of ks, and those of the queries at 4 times that (the documents' own at that
            length where they are the queries).
        relevant: For each query (each document where they are the queries) the relevant documents'
            row numbers and gains; adds nDCG@10 (`ndcg_at` says what counts).
        document_labels: (n,) class of each document; with ``query_labels`` adds 5-NN accuracy. A
            class is a whole number from 0, a bool or a string; -1, None, NaN and "" mean that
            there is none, and such rows must be left out.
        query_labels: (m,) class of each query.
        fit_on: Vectors that PCA is fitted on, ``documents`` when None.
        texts: The texts of documents and queries. Adds what words give alone, beside codes (as
            `SparseIndex` with words) and beside full dense vectors (0.6 of dense and 0.4 of words,
            both scaled to 0..1), to nDCG@10 and accuracy; needs one of these, for the dense
            neighbours do not say which document is right.
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
        TypeError: If labels, relevant or texts are of the wrong type.
        ImportError: If there are texts, and what words need is not installed.
    """
    of_tokens = head.level == "token"
    documents = _matrix("documents", documents, None if of_tokens else head.input_dim)
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
        queries = _matrix("queries", queries, documents.shape[1])
        query_classes = as_classes("query_labels", query_labels, len(queries))
    check_classes(classes, query_classes)
    ks = measured_ks(head, ks)

    dense_ranking = cosine_top(documents, queries, 10, leave_out)
    candidates = len(documents) - (leave_out is not None)
    depth = next(n for n in RECALL_DEPTHS if candidates >= CANDIDATES_PER_RANK * n)
    measures = _measures(dense_ranking[:, :depth], relevant, classes, query_classes)
    by_words = _by_words(texts, list(measures), documents, queries, leave_out)
    scores: dict[str, dict[str, dict[int, float]]] = {
        metric: {method: {} for method in _methods(metric, texts, of_tokens)} for metric in measures
    }
    stored_codes, query_codes = _codes_at(head, ks, (documents, queries), codes, leave_out)
    decoder = None if of_tokens else Decoder.from_head(head)
    rescore_top = min(rescore, candidates)
    projected = _projected(documents if fit_on is None else fit_on, max(ks), documents, queries)

    def rankings(k: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
        stored, wide = stored_codes.prefix(k), query_codes.prefix(min(4 * k, query_codes.k))
        yield "symmetric", sparse_top(stored, query_codes.prefix(k), 10, leave_out)
        yield "query_4k", sparse_top(stored, wide, 10, leave_out)
        if decoder is not None:
            again = (stored, wide, decoder, queries, rescore_top, 10, leave_out)
            yield "rescored", rescored_top(*again)
        yield from by_words(stored, wide).items()
        if k <= projected[0].shape[1]:  # PCA has as many components as rows, at most
            yield "pca", cosine_top(projected[0][:, :k], projected[1][:, :k], 10, leave_out)
        if k <= documents.shape[1]:
            yield "truncation", cosine_top(documents[:, :k], queries[:, :k], 10, leave_out)

    for k in ks:
        for method, ranking in rankings(k):
            for metric in (metric for metric in scores if method in scores[metric]):
                scores[metric][method][k] = measures[metric](ranking)
    width = index_dtype(head.hidden_dim).itemsize
    return Evaluation(
        ks=ks,
        n_documents=len(documents),
        n_queries=len(queries),
        input_dim=documents.shape[1],
        hidden_dim=head.hidden_dim,
        rescore=rescore,
        fvu={} if decoder is None else unexplained_variance(documents, stored_codes, decoder, ks),
        dead_fraction={k: 1 - float(active_latents(stored_codes, k).mean()) for k in ks},
        bytes_per_item={k: k * (width + 2) + 4 for k in ks},
        dense_bytes_per_item=4 * documents.shape[1],
        dense={metric: measure(dense_ranking) for metric, measure in measures.items()},
        scores=scores,
        about=_about(about, texts),
    )


def _matrix(name: str, vectors: NDArray[Any], width: int | None) -> NDArray[np.float32]:
    """Vectors as float32; of any width where None."""
    matrix = np.ascontiguousarray(vectors, np.float32)
    if matrix.ndim != 2 or not len(matrix) or matrix.shape[1] != (width or matrix.shape[1]):
        needed = width or "d"
        raise ValueError(f"{name} have shape {matrix.shape}; the head needs (n, {needed}), n >= 1")
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


def measured_ks(head: SparseCSRHead, ks: Sequence[int] | None = None) -> tuple[int, ...]:
    """The active latents to measure a head at, rising; `KS` or `TOKEN_KS` by the head when None.

    Raises:
        TypeError: If one is not an integer.
        ValueError: If none is within 1..hidden_dim.
    """
    of_tokens = head.level == "token" and head.hidden_dim >= min(TOKEN_KS)
    wanted = ks if ks is not None else TOKEN_KS if of_tokens else KS
    found = tuple(sorted({head.check_k(k) for k in wanted if k <= head.hidden_dim}))
    if not found:
        raise ValueError(f"ks={tuple(wanted)} has none within 1..hidden_dim={head.hidden_dim}")
    return found


def query_width(head: SparseCSRHead, ks: Sequence[int]) -> int:
    """Latents of a query that is measured at all of ``ks``."""
    return min(head.hidden_dim, 4 * max(ks))


def _codes_at(
    head: SparseCSRHead,
    ks: Sequence[int],
    vectors: tuple[NDArray[np.float32], NDArray[np.float32]],
    given: tuple[SparseCodes, SparseCodes] | None,
    asked: NDArray[np.int64] | None,
) -> tuple[SparseCodes, SparseCodes]:
    """The codes of documents and queries for all of ``ks``: those given, or of their vectors.

    ``asked`` are the documents that are the queries, None if there are others.
    """
    widths = max(ks), query_width(head, ks)
    if given is None:
        documents, queries = (
            encode_vectors(head, rows, k) for rows, k in zip(vectors, widths, strict=True)
        )
        return documents, queries
    given = given if asked is None else (given[0], given[1][asked])
    for codes, rows, k in zip(given, vectors, widths, strict=True):
        if len(codes) != len(rows) or codes.k < k:
            raise ValueError(f"{codes} given; {len(rows)} codes of k={k} are needed")
    return given


def _methods(metric: str, texts: Texts | None, of_tokens: bool) -> list[str]:
    """What a metric measures: words by no recall, which knows no right document."""
    without = texts is None or metric.startswith("recall")
    methods = [method for method in METHODS if not (of_tokens and method == "rescored")]
    return [method for method in methods if not (without and method in WORD_METHODS)]


def _about(about: Mapping[str, Any] | None, texts: Texts | None) -> dict[str, Any]:
    words = {} if texts is None else {"words": texts.about()}
    return {**words, **(about or {})}


def _by_words(
    texts: Texts | None,
    metrics: list[str],
    documents: NDArray[np.float32],
    queries: NDArray[np.float32],
    leave_out: NDArray[np.int64] | None,
) -> Callable[[SparseCodes, SparseCodes], dict[str, NDArray[np.int64]]]:
    """A function from codes of documents and queries to the ranking of each of `WORD_METHODS`."""
    if texts is None:
        return lambda *_: {}
    if all(metric.startswith("recall") for metric in metrics):
        raise ValueError(
            "texts are given, but neither relevant nor labels, without which words have no figure"
        )
    words = texts.scores(len(documents), len(queries), leave_out)
    whole = {
        "words": words.top(10, leave_out),
        "dense_and_words": words.top_with_dense(documents, queries, 10, leave_out),
    }
    return lambda stored, asked: {
        "codes_and_words": words.top_with_codes(stored, asked, 10, leave_out),
        **whole,
    }


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
