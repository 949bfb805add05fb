"""Measure a head on rows that it was not trained on, and a model on inputs of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st.codes import SparseCodes, index_dtype
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.encoding import Role, encode_dense
from csr_st.evaluation.quality import LEAST, evaluate, measured_ks, query_width
from csr_st.evaluation.results import Evaluation
from csr_st.evaluation.tuning import judged_queries, tune_for_codes, tune_weight
from csr_st.evaluation.words import Texts
from csr_st.head import SparseCSRHead, find_head
from csr_st.two_levels import codes_and_vectors

SAMPLE = 20_000  # training vectors that figures use at most


def evaluate_held_out(
    head: SparseCSRHead,
    training: EmbeddingStore,
    held_out: EmbeddingStore,
    about: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure on rows that were not trained on.

    With labels, up to 20,000 training rows are the documents and held-out rows the queries, as for
    a k-NN classifier, both without rows of unknown class. Without labels, or with too few or of
    one class only, the held-out rows are both.
    """
    fit_on = training.sample(SAMPLE)
    known, queries = _labelled(training), _labelled(held_out)[:1000]
    if (
        training.labels is None
        or held_out.labels is None
        or min(len(known), LEAST * len(queries)) < LEAST
        or len(np.unique(training.labels[known])) < 2
    ):
        return evaluate(head, held_out.vectors(), fit_on=fit_on, about=about)
    rows = np.random.default_rng(0).permutation(known)[:SAMPLE]
    return evaluate(
        head,
        training.rows(rows),
        held_out.rows(queries),
        document_labels=training.labels[rows],
        query_labels=held_out.labels[queries],
        fit_on=fit_on,
        about=about,
    )


def evaluate_tokens(
    head: SparseCSRHead, held_out: TokenStore, about: Mapping[str, Any] | None = None
) -> Evaluation:
    """Measure a token-level head on texts that it was not trained on, by their stored tokens.

    Each text searches for its dense neighbours among the others.
    """
    ks = measured_ks(head)
    wide, parts = query_width(head, ks), []
    with torch.inference_mode():
        for part in held_out.batches():
            values, latents = head.encode_tokens(part.on(head.pre_bias.device), wide)
            indices = latents.cpu().numpy().astype(index_dtype(head.hidden_dim))
            parts.append(SparseCodes(indices, values.float().cpu().numpy(), head.hidden_dim))
    codes = SparseCodes.concatenate(parts).normalize()
    dense = held_out.dense.vectors()
    return evaluate(head, dense, codes=(codes.prefix(max(ks)), codes), about=about)


def _labelled(store: EmbeddingStore) -> NDArray[np.int64]:
    """The rows whose class is known."""
    return np.flatnonzero([] if store.labels is None else store.labels >= 0)


def evaluate_model(
    model: SentenceTransformer,
    documents: Any,
    queries: Any = None,
    relevant: list[dict[int, float]] | None = None,
    about: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    texts: Texts | None = None,
    tune: bool = False,
) -> Evaluation:
    """Embed documents and queries with a model's backbone and measure its head on them.

    Args:
        model: A model with a head.
        documents: Inputs to search.
        queries: Inputs to search with; when None, the documents, each for the others.
        relevant: For each query the gain of each relevant document, by row.
        about: Words to keep with the figures.
        batch_size: Items that the backbone takes at once.
        texts: The texts of documents and queries, to measure their words too, see `evaluate`.
        tune: Choose the weight of words by the judged queries, see `tune_weight`.

    Raises:
        ValueError: If the model has no head, there are too few documents, or too few judged queries
            to choose a weight by.
    """
    head = find_head(model)
    if tune:
        if texts is None or relevant is None or queries is None:
            raise ValueError("tune=True needs texts, queries and relevant")
        judged_queries(relevant)
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": True}
    if head.level == "token":
        found, codes = _measured_by_tokens(
            model, documents, queries, options, relevant=relevant, texts=texts, about=about
        )
        if tune and texts is not None and relevant is not None:
            stored, wide = codes
            k, query_k = min(head.k, stored.k), min(head.resolve_k(task="query"), wide.k)
            prefixes = stored.prefix(k), wide.prefix(query_k)
            found = replace(found, tuning=tune_for_codes(*prefixes, relevant, texts))
        return found
    vectors = encode_dense(model, documents, role="document", **options)
    if queries is not None:
        queries = encode_dense(model, queries, role="query", **options)
    found = evaluate(head, vectors, queries, relevant=relevant, texts=texts, about=about)
    if tune and texts is not None and relevant is not None:
        found = replace(found, tuning=tune_weight(head, vectors, queries, relevant, texts))
    return found


def _measured_by_tokens(
    model: SentenceTransformer,
    documents: Any,
    queries: Any,
    options: Mapping[str, Any],
    **further: Any,
) -> tuple[Evaluation, tuple[SparseCodes, SparseCodes]]:
    """The figures of a token-level head, and the codes of documents and queries that they are of.

    The codes have unit norm, as those of vectors do.
    """
    head = find_head(model)
    ks = measured_ks(head)
    wide = query_width(head, ks)

    def of(inputs: Any, k: int, role: Role) -> tuple[SparseCodes, NDArray[np.float32]]:
        parts = list(codes_and_vectors(model, inputs, k, role=role, **options))
        if not parts:
            raise ValueError(f"there is no {role} to measure on; give at least {LEAST} documents")
        codes = SparseCodes.concatenate([codes for codes, _ in parts]).normalize()
        return codes, np.concatenate([dense for _, dense in parts])

    if queries is None:
        asked, vectors = of(documents, wide, "document")
        pair, dense = (asked.prefix(max(ks)), asked), None
    else:
        stored, vectors = of(documents, max(ks), "document")
        asked, dense = of(queries, wide, "query")
        pair = stored, asked
    return evaluate(head, vectors, dense, codes=pair, **further), pair
