"""Figures of token-level heads, from codes that are given with the vectors."""

from __future__ import annotations

import numpy as np
import pytest
from token_models import MANY, token_head, transformer_of

import csr_st
from csr_st.embeddings import TokenStore
from csr_st.evaluation.held_out import evaluate_model, evaluate_tokens
from csr_st.evaluation.quality import TOKEN_KS

TEXTS = [f"{text} {i % 3 * 'sea '}" for i, text in enumerate(MANY)]


def recall(found, dense, k, query_k, depth):
    """Recall of the dense neighbours among codes, by NumPy; each text asks for the others."""
    code, query = found.prefix(k).to_dense(), found.prefix(query_k).to_dense()
    unit = dense / np.linalg.norm(dense, axis=1, keepdims=True)
    total = 0
    for row in range(len(dense)):
        others = np.delete(np.arange(len(dense)), row)
        true = others[np.argsort(-(unit[others] @ unit[row]), kind="stable")[:depth]]
        best = others[np.argsort(-(code[others] @ query[row]), kind="stable")[:depth]]
        total += len(set(true) & set(best)) / depth
    return total / len(dense)


def test_each_text_searches_for_its_dense_neighbours(token_model):
    found = evaluate_model(token_model, TEXTS)
    assert found.ks == (16, 32, 64)  # of 16, 32, 64, 128 and 256, those within the head
    assert found.fvu == {}
    codes = csr_st.encode(token_model, TEXTS, k=64, role="document")
    dense = csr_st.encode_dense(token_model, TEXTS)
    for k in (16, 32):
        symmetric = recall(codes, dense, k, k, 5)
        wide = recall(codes, dense, k, min(4 * k, 64), 5)
        assert found.scores["recall@5"]["symmetric"][k] == pytest.approx(symmetric, abs=0.02)
        assert found.scores["recall@5"]["query_4k"][k] == pytest.approx(wide, abs=0.02)
    assert "rescored" not in found.scores["recall@5"]
    used = (codes.prefix(16).to_dense() > 0).any(axis=0).mean()
    assert found.dead_fraction[16] == pytest.approx(1 - used)


def test_stored_tokens_give_the_figures_of_the_model(token_model, token_backbone, tmp_path):
    store = TokenStore.embed(
        token_backbone, TEXTS, tmp_path / "s", role="document", dtype="float32"
    )
    head = csr_st.find_head(token_model)
    found = evaluate_tokens(head, store, {"data": "some"})
    expected = evaluate_model(token_model, TEXTS, about={"data": "some"})
    assert found.about == expected.about
    for metric, rows in expected.scores.items():
        for method, figures in rows.items():
            assert found.scores[metric][method] == pytest.approx(figures, abs=0.02)
    view = evaluate_tokens(head, store.subset(np.arange(20)))
    assert (view.n_documents, view.n_queries) == (20, 20)


def test_queries_are_encoded_as_queries(token_backbone):
    model = csr_st.attach(token_backbone, token_head(query_k=4))
    queries, relevant = MANY[:12], [{i: 1.0} for i in range(12)]
    found = evaluate_model(model, TEXTS, queries, relevant)
    documents = csr_st.encode(model, TEXTS, k=16, role="document").to_dense()
    asked = csr_st.encode(model, queries, k=64, role="query").to_dense()
    ranks = np.argsort(-(asked @ documents.T), axis=1, kind="stable")[:, :10]
    gains = [1 / np.log2(2 + np.flatnonzero(rank == i)).sum() if i in rank else 0
             for i, rank in enumerate(ranks)]  # fmt: skip
    assert found.scores["ndcg@10"]["query_4k"][16] == pytest.approx(np.mean(gains), abs=0.02)


def test_codes_that_are_not_scaled_rank_by_cosine_too(token_backbone):
    scaled = csr_st.attach(token_backbone, token_head())
    plain = csr_st.attach(token_backbone, token_head(normalize=False))
    found, expected = evaluate_model(plain, TEXTS), evaluate_model(scaled, TEXTS)
    assert found.scores == expected.scores
    queries = MANY[:12], [{i: 1.0} for i in range(12)]
    found, expected = (evaluate_model(one, TEXTS, *queries) for one in (plain, scaled))
    assert found.scores == expected.scores


def test_texts_without_tokens_are_measured_too(token_model):
    found = evaluate_model(token_model, ["", *TEXTS[:20], "[SEP]"])
    assert found.n_documents == 22


def test_codes_of_another_number_or_length_are_refused(token_model):
    head = csr_st.find_head(token_model)
    codes = csr_st.encode(token_model, TEXTS, k=64)
    dense = csr_st.encode_dense(token_model, TEXTS)
    for given in ((codes[:-1], codes), (codes.prefix(63), codes), (codes, codes.prefix(63))):
        with pytest.raises(ValueError, match="codes of k=64 are needed"):
            csr_st.evaluate(head, dense, codes=given)
    with pytest.raises(ValueError, match="codes of k=64 are needed"):
        csr_st.evaluate(head, dense, dense[:5], codes=(codes, codes))
    with pytest.raises(ValueError, match="level='token'"):
        csr_st.evaluate(head, dense)


def test_a_small_head_is_measured_at_what_it_has(token_folder):
    head = csr_st.SparseCSRHead(16, 12, k=4, level="token", skipped_tokens=[0, 1, 2, 3])
    model = csr_st.attach(transformer_of(token_folder), head)
    found = evaluate_model(model, TEXTS)
    assert found.ks == (2, 4, 8)
    assert TOKEN_KS == (16, 32, 64, 128, 256)
