"""Distilled models: what they compute, how they load, what is refused, what survives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize

import csr_st
from csr_st.data.beir import RetrievalSet
from csr_st.distill import table
from csr_st.distill.bags import Bags
from csr_st.distill.pieces import chosen_texts, pieces_of
from csr_st.search.kernels.importing import load_kernels
from csr_st.static_queries import static_route

pytest.importorskip("numba")


def sentences(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(4, 9)))) for _ in range(n)]


@pytest.fixture
def contextual(masked_lm_folder) -> SentenceTransformer:
    """A head on a transformer whose vectors have unit norm."""
    backbone = SentenceTransformer(masked_lm_folder, device="cpu")
    backbone.append(Normalize())
    torch.manual_seed(1)
    return csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=8))


@pytest.fixture
def distilled(contextual):
    return csr_st.distill_queries(contextual, sentences(100), epochs=20, learning_rate=1e-2).model


def test_a_backbone_that_is_a_mean_of_tokens_is_found_again(model):
    found = csr_st.distill_queries(model, sentences(200), epochs=0)
    queries = ["the cat", "a dog in the sea", "red fish"]
    expected = csr_st.encode_dense(model, queries, role="query")
    vectors = csr_st.encode_dense(found.model, queries, role="query")
    np.testing.assert_allclose(vectors, expected, atol=0.05)
    assert found.agreement.code_cosine > 0.99
    assert found.path is None


def test_queries_are_looked_up_and_documents_are_not(contextual, distilled, monkeypatch):
    texts = ["the cat sat", "a blue bird"]
    documents = contextual.encode_document(texts)
    np.testing.assert_array_equal(distilled.encode_document(texts), documents)
    np.testing.assert_array_equal(distilled.encode(texts), documents)
    backbone = distilled.transformers_model

    def refuse(*_, **__):
        raise AssertionError("a forward pass of the backbone")

    monkeypatch.setattr(backbone, "forward", refuse)
    found = distilled.encode_query(texts, k=3)
    assert ((found > 0).sum(axis=1) <= 3).all()
    assert found.any()
    with pytest.raises(AssertionError, match="forward pass"):
        distilled.encode_document(texts)


def test_training_comes_nearer_than_vectors_of_tokens_alone(contextual, distilled):
    queries = sentences(50, seed=5)
    wanted = csr_st.encode_dense(contextual, queries, role="query")
    near = (csr_st.encode_dense(distilled, queries, role="query") * wanted).sum(axis=1).mean()
    alone = dict(zip(WORDS, csr_st.encode_dense(contextual, WORDS), strict=True))
    means = np.stack([sum(alone[word] for word in query.split()) for query in queries])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert near > (means * wanted).sum(axis=1).mean() + 0.01


def test_a_saved_model_loads_with_plain_sentence_transformers(contextual, tmp_path):
    texts = ["the cat sat on the mat", "a dog"]
    folder = tmp_path / "fast"
    made = csr_st.distill_queries(contextual, sentences(60), folder, data_name="cats")
    assert made.path == folder
    for kind in (SentenceTransformer, SparseEncoder):
        loaded = kind(str(folder), device="cpu")
        for method in ("encode_query", "encode_document"):
            found, wanted = (getattr(one, method)(texts, k=4) for one in (loaded, made.model))
            found = found.to_dense().numpy() if isinstance(found, torch.Tensor) else found
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert static_route(loaded) is not None
    again = tmp_path / "again"
    csr_st.save(SentenceTransformer(str(folder), device="cpu"), again)
    found = SentenceTransformer(str(again), device="cpu").encode_query(texts)
    np.testing.assert_allclose(found, made.model.encode_query(texts), atol=1e-6)


def test_the_card_has_both_measured(contextual, tmp_path):
    texts = sentences(60)
    judged = RetrievalSet(texts, texts[:5], [{row: 1.0} for row in range(5)])
    csr_st.distill_queries(contextual, texts, tmp_path, judged=judged, data_name="cats")
    card = (tmp_path / "README.md").read_text()
    assert "**Queries need no backbone**" in card
    assert "On cats (60 documents at k=8, 5 queries at k=32), nDCG@10 is " in card
    assert " with static queries and 100.0 with the backbone's" in card


def test_a_stopped_run_goes_on_with_the_vectors_that_it_has(contextual, tmp_path, monkeypatch):
    texts, backbone = sentences(60), contextual.transformers_model

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("csr_st.distill.distilling.refined", stop)
        with pytest.raises(KeyboardInterrupt):
            csr_st.distill_queries(contextual, texts, tmp_path)
    assert not (tmp_path / "modules.json").exists()
    forward, calls = type(backbone).forward, []

    def counted(self, *args, **kwargs):
        calls.append(args)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr("csr_st.distill.distilling.agreement", lambda *_: None)
    monkeypatch.setattr("csr_st.distill.distilling.encode", lambda *_, **__: csr_st.SparseCodes(
        np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.float32), 64))  # fmt: skip
    monkeypatch.setattr(type(backbone), "forward", counted)
    csr_st.distill_queries(contextual, texts, tmp_path)
    assert calls == []
    assert SentenceTransformer(str(tmp_path), device="cpu").encode_query(["a cat"]).any()


def test_equal_seeds_give_equal_models(contextual):
    one, other = (
        csr_st.distill_queries(contextual, sentences(40), seed=3).model.encode_query(["the sea"])
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


def test_least_squares_solves_a_case_by_hand():
    """Texts a, b and ab with means of orthogonal vectors: E solves them exactly."""
    bags = Bags(np.array([0, 1, 0, 1]), np.array([0, 1, 2, 4]))
    targets = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    found = table.least_squares(bags, targets, np.zeros((3, 2), np.float32), ridge=1e-6)
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0, 0]], atol=1e-4)
    prior = np.full((3, 2), 7, np.float32)
    np.testing.assert_array_equal(table.least_squares(bags, targets, prior)[2], [7, 7])


def test_pieces_are_parts_of_their_text():
    text = "One two three four five six. Seven eight nine ten eleven twelve thirteen fourteen."
    found = pieces_of(text, 12, np.random.default_rng(0))
    assert len(found) == 12
    assert all(piece in text for piece in found)
    assert all(3 <= len(piece.split()) <= 12 for piece in found)


def test_texts_set_aside_are_not_fitted():
    texts = [f"number {place} of the texts" for place in range(100)]
    chosen = chosen_texts(texts, ["a query"], seed=0)
    set_aside = set(texts) - set(chosen.training)
    assert len(set_aside) == len(chosen.asked) == 5
    assert set(chosen.documents) == set(texts)
    assert "a query" in chosen.training


@pytest.mark.parametrize(
    ("texts", "options", "words"),
    [
        (["a cat"], {}, "there are 1 texts that are not empty; static queries need at least 20"),
        ("a cat", {}, "is one str"),
        ([*sentences(30), None], {}, "input 30 is None"),
        ([*sentences(30), {"text": "a"}], {}, "text 30 is {'text': 'a'}"),
        (sentences(30), {"epochs": -1}, "epochs=-1 must be at least 0"),
        (sentences(30), {"batch_size": 0}, "batch_size=0 must be at least 1"),
        (sentences(30), {"learning_rate": 0}, "learning_rate=0 must be above 0"),
    ],
)
def test_what_is_refused(model, texts, options, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        csr_st.distill_queries(model, texts, **options)
    assert words in str(caught.value)


def test_models_that_cannot_be_distilled_are_refused(backbone, distilled):
    texts = sentences(30)
    with pytest.raises(ValueError, match="0 SparseCSRHead modules"):
        csr_st.distill_queries(backbone, texts)
    with pytest.raises(ValueError, match="has static queries already"):
        csr_st.distill_queries(distilled, texts)
    tokens = csr_st.attach(backbone, csr_st.SparseCSRHead(16, level="token"))
    with pytest.raises(ValueError, match="level='token'"):
        csr_st.distill_queries(tokens, texts)


def test_the_largest_are_the_largest(rng):
    """The compiled top-k against a sort."""
    kernel = load_kernels("static_queries")
    found = rng.normal(size=97).astype(np.float32)
    wanted = np.maximum(np.sort(found)[::-1], 0)
    for k in (1, 2, 31, 97):
        values, latents = np.empty(k, np.float32), np.empty(k, np.uint16)
        n = kernel._largest(found, values, latents)
        assert n == min(k, (found > 0).sum())
        np.testing.assert_array_equal(values, wanted[:k])
        np.testing.assert_array_equal(found[latents[:n]], values[:n])
