"""`csr_st.train_model` with the recipe of tokens: from texts, a mixture or a store to a model."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, StaticEmbedding
from token_models import token_head

import csr_st
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.evaluation.held_out import evaluate_model, evaluate_tokens
from csr_st.publishing.facts import CardFacts

CONFIG = csr_st.recipe("token", k=8, query_k=6, k_token=4, hidden_dim=48, steps=10)
pytestmark = pytest.mark.filterwarnings("ignore:.*are few for hidden_dim")


@pytest.fixture
def lines(rng) -> list[str]:
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(60)]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )


def assert_same_weights(one, other):
    first, second = (dict(head.named_parameters()) for head in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_texts_become_a_model_that_is_measured_on_others(token_backbone, lines, tmp_path):
    trained = csr_st.train_model(token_backbone, lines, tmp_path / "m", CONFIG)
    head = csr_st.find_head(trained.model)
    assert (head.level, head.k, head.query_k, head.k_token) == ("token", 8, 6, 4)
    training, held_out = TokenStore.open(tmp_path / "m/tokens").split(11)
    again = csr_st.train_tokens(training, CONFIG, show_progress=False).head
    assert_same_weights(again, head)
    found = evaluate_tokens(head, held_out)
    assert trained.evaluation.scores == found.scores
    assert (trained.evaluation.n_documents, trained.evaluation.fvu) == (11, {})
    loaded = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_array_equal(loaded.encode(lines[:5]), trained.model.encode(lines[:5]))
    assert not (tmp_path / "m/vectors").exists()
    card = (tmp_path / "m/README.md").read_text()
    assert "Measured on held-out rows (at most 64 tokens of each): 11 documents" in card


def test_a_model_with_a_head_gets_a_new_one(token_model, lines, tmp_path):
    trained = csr_st.train_model(token_model, lines, tmp_path / "m", CONFIG)
    assert csr_st.find_head(trained.model).hidden_dim == 48
    text_level = csr_st.train_model(
        token_model, lines, tmp_path / "t", csr_st.recipe(k=4, hidden_dim=32, steps=5)
    )
    assert csr_st.find_head(text_level.model).level == "text"
    facts = [json.loads((tmp_path / n / "csr_card.json").read_text()) for n in ("m", "t")]
    assert facts[0]["level"] == "token"
    assert "level" not in facts[1]


def test_a_store_of_tokens_is_trained_on_as_it_is(token_backbone, lines, tmp_path):
    store = TokenStore.embed(token_backbone, lines, tmp_path / "s", tokens_per_text=3)
    trained = csr_st.train_model(token_backbone, store, tmp_path / "m", CONFIG)
    assert not (tmp_path / "m/tokens").exists()
    expected = csr_st.train_tokens(store.split(11)[0], CONFIG, show_progress=False).head
    assert_same_weights(csr_st.find_head(trained.model), expected)


def test_a_column_and_a_mixture(token_backbone, lines, tmp_path):
    rows = datasets.Dataset.from_dict({"number": range(60), "body": lines})
    trained = csr_st.train_model(token_backbone, rows, tmp_path / "m", CONFIG, text_column="body")
    plain = csr_st.train_model(token_backbone, lines, tmp_path / "p", CONFIG)
    assert_same_weights(csr_st.find_head(trained.model), csr_st.find_head(plain.model))
    for name, part in (("a", lines[:30]), ("b", lines[30:])):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    mixture = csr_st.mix([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    csr_st.train_model(token_backbone, mixture, tmp_path / "x", CONFIG)
    assert sum(share.rows for share in CardFacts.load(tmp_path / "x").mixture) == 60


def test_a_run_goes_on_where_it_stopped(token_backbone, lines, tmp_path, monkeypatch):
    whole = csr_st.train_model(token_backbone, lines, tmp_path / "w", CONFIG)
    monkeypatch.setattr("csr_st.embed_and_train.train_tokens", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        csr_st.train_model(token_backbone, lines, tmp_path / "m", CONFIG)
    monkeypatch.undo()
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    resumed = csr_st.train_model(token_backbone, lines, tmp_path / "m", CONFIG, resume=True)
    assert_same_weights(csr_st.find_head(resumed.model), csr_st.find_head(whole.model))


def test_figures_that_fail_leave_a_saved_model(token_backbone, lines, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("planted")

    monkeypatch.setattr("csr_st.workflow.evaluate_tokens", fail)
    with pytest.warns(UserWarning, match="the evaluation failed .RuntimeError: planted"):
        trained = csr_st.train_model(token_backbone, lines, tmp_path / "m", CONFIG)
    assert trained.evaluation is None
    loaded = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_array_equal(loaded.encode(lines[:5]), trained.model.encode(lines[:5]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label_column": "kind"}, "label_column: a token-level head is trained on texts alone"),
        ({"pair_columns": ("a", "b")}, "pair_columns: a token-level head is trained on texts"),
        (
            {"pair_columns": ("a", "b"), "score_column": "s"},
            "pair_columns, score_column: a token-level head",
        ),
    ],
)
def test_labels_and_pairs_are_refused(token_backbone, lines, tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        csr_st.train_model(token_backbone, lines, tmp_path / "m", CONFIG, **columns)
    assert not Path(tmp_path, "m/tokens").exists()


def test_data_without_tokens_are_refused(token_backbone, lines, tmp_path, rng):
    vectors = rng.normal(size=(60, 16)).astype(np.float32)
    data = EmbeddingStore.from_array(vectors)
    with pytest.raises(ValueError, match="needs texts, or a TokenStore of their tokens"):
        csr_st.train_model(token_backbone, data, tmp_path / "m", CONFIG)
    np.save(tmp_path / "vectors.npy", vectors)
    with pytest.raises(ValueError, match="needs texts"):
        csr_st.train_vectors(tmp_path / "vectors.npy", tmp_path / "v", CONFIG)
    store = TokenStore.embed(token_backbone, lines, tmp_path / "s")
    with pytest.raises(ValueError, match=r"has no columns: leave out \['text_column'\]"):
        csr_st.train_model(token_backbone, store, tmp_path / "m", CONFIG, text_column="a")
    with pytest.raises(TypeError, match="data is TokenStore"):
        csr_st.train_model(token_backbone, store, tmp_path / "m")


def test_a_store_of_another_model_s_width_is_refused(token_backbone, backbone, lines, tmp_path):
    store = TokenStore.embed(token_backbone, lines, tmp_path / "s")
    narrow = SentenceTransformer(
        modules=[StaticEmbedding(backbone[0].tokenizer, embedding_dim=8)], device="cpu"
    )
    with pytest.raises(ValueError, match=r"a store of width 16, the model's tokens have \[8\]"):
        csr_st.train_model(narrow, store, tmp_path / "m", CONFIG)


def test_a_head_is_not_adapted_by_the_recipe_of_tokens(model, lines, tmp_path):
    with pytest.raises(TypeError, match=r"recipe 'token' is for token-level heads, .*train_tokens"):
        csr_st.train_model(model, lines, tmp_path / "m", CONFIG, adapted_from="published")
    assert not (tmp_path / "m/vectors").exists()


def test_vectors_alone_are_no_data_for_the_recipe_of_tokens(rng, tmp_path):
    vectors = EmbeddingStore.from_array(rng.normal(size=(40, 16)).astype(np.float32))
    with pytest.raises(ValueError, match=r"needs texts, or a TokenStore .*csr_st\.train_tokens"):
        csr_st.train_vectors(vectors, tmp_path / "m", CONFIG)


def test_a_token_level_head_is_not_adapted(token_backbone, lines, tmp_path):
    model = csr_st.attach(token_backbone, token_head())
    with pytest.raises(ValueError, match="level='token' cannot be adapted"):
        csr_st.train_model(model, lines, tmp_path / "m", adapted_from="org/tokens")
    assert not (tmp_path / "m/vectors").exists()


def test_a_module_after_the_pooling_may_change_the_width(token_backbone, lines, tmp_path):
    """The tokens are as wide as the transformer; the dense vector is compared at its own width."""
    narrow = SentenceTransformer(
        modules=[token_backbone[0], token_backbone[1], Dense(16, 8)], device="cpu"
    )
    trained = csr_st.train_model(narrow, lines, tmp_path / "m", CONFIG)
    head = csr_st.find_head(trained.model)
    assert (head.input_dim, trained.evaluation.input_dim) == (16, 8)
    assert trained.evaluation.dense_bytes_per_item == 32
    loaded = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    assert loaded.encode(lines[:5]).shape == (5, 48)
    wide = csr_st.attach(token_backbone, head)
    np.testing.assert_allclose(loaded.encode(lines[:5]), wide.encode(lines[:5]), atol=1e-6)
    store = TokenStore.open(tmp_path / "m/tokens")
    assert (store.dim, store.dense.dim) == (16, 8)
    np.testing.assert_allclose(store.dense.vectors(), narrow.encode(lines), atol=1e-3)
    store.verify()
    figures = evaluate_model(trained.model, lines)
    assert figures.input_dim == 8
    with pytest.raises(ValueError, match="vectors of width 8 or 16, the head takes input_dim=12"):
        csr_st.attach(narrow, csr_st.SparseCSRHead(12, level="token"))
