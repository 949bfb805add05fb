"""Training token-level heads: resumable to the bit, and weighted by what a collection has."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from token_models import MANY, pooled_by_hand, token_head, token_vectors
from training_runs import store_of

import csr_st
from csr_st import adapt, recipe, reweigh, train, train_pairs, train_tokens
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.training import tokens
from csr_st.training.checkpoint import TrainState

TINY = {
    "k": 8,
    "k_token": 3,
    "hidden_dim": 48,
    "batch_size": 32,
    "steps": 20,
    "dead_after_examples": 64,
    "seed": 3,
}


def config_of(**settings):
    return recipe("token", **{**TINY, **settings})


def fit(store, settings=None, **options):
    return train_tokens(store, config_of(**(settings or {})), show_progress=False, **options)


@pytest.fixture
def store(token_backbone, tmp_path) -> TokenStore:
    return TokenStore.embed(token_backbone, MANY, tmp_path / "tokens", dtype="float32")


def weights_of(head):
    return {name: value.detach() for name, value in head.named_parameters()}


def assert_same_head(one, other):
    assert one.get_config_dict() == other.get_config_dict()
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_head_has_the_settings_of_its_recipe_and_its_store(store):
    result = fit(store, {"pooling": "max", "query_k": 5})
    head = result.head
    assert (head.level, head.pooling, head.k_token) == ("token", "max", 3)
    assert (head.input_dim, head.hidden_dim, head.k, head.query_k) == (16, 48, 8, 5)
    assert head.skipped_tokens == store.skipped_tokens == [0, 1, 2, 3]
    assert result.config.ks == (6,)  # a token is rebuilt from twice as many
    assert head.text_share == 0  # for sums alone
    assert fit(store).head.text_share == 1 / 16
    assert fit(store, {"text_share": 0.0}).head.text_share == 0
    assert list(result.history[-1]["fvu"]) == ["6"]
    assert result.last is None


def test_training_explains_more_of_the_tokens(store):
    short, long = fit(store, {"steps": 25}), fit(store, {"steps": 200})
    assert long.history[-1]["fvu"]["6"] < short.history[-1]["fvu"]["6"] < 1


def test_sizes_of_the_recipe_fit_a_small_head(store):
    head = fit(store, {"hidden_dim": 8, "k_token": 16, "query_k": 64}).head
    assert (head.k, head.query_k, head.k_token) == (8, 8, 8)


def test_without_a_query_k_queries_have_k_latents(store):
    assert fit(store, {"query_k": None}).head.query_k is None


def test_the_default_recipe_is_that_of_tokens(store, monkeypatch):
    found = []
    monkeypatch.setattr(tokens, "train_rows", lambda _, config, **__: found.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_tokens(store)
    assert found == [recipe("token")]
    assert (found[0].k, found[0].query_k, found[0].hidden_dim, found[0].k_token) == (
        128,
        64,
        4096,
        8,
    )


def test_a_stopped_run_resumes_to_the_same_bits(store, tmp_path, monkeypatch):
    training, validation = store.split(11)
    settings, options = {"evaluate_every": 4}, {"validation": validation, "checkpoint_every": 5}
    whole = fit(training, settings, output=tmp_path / "whole", **options)

    original = TrainState.add_evaluation

    def stopping(self, found, head):
        if self.step == 12:
            raise KeyboardInterrupt
        return original(self, found, head)

    monkeypatch.setattr(TrainState, "add_evaluation", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(training, settings, output=tmp_path / "s", **options)
    monkeypatch.undo()
    assert list((tmp_path / "s/checkpoints").glob("step-*"))
    resumed = fit(training, settings, output=tmp_path / "s", resume=True, **options)
    assert_same_head(resumed.head, whole.head)
    assert_same_head(resumed.last, whole.last)
    assert resumed.evaluations == whole.evaluations
    assert [entry["step"] for entry in whole.evaluations] == [4, 8, 12, 16, 20]


def test_two_runs_are_equal(store):
    assert_same_head(fit(store).head, fit(store).head)


def test_validation_keeps_the_best_head_and_patience_ends_the_run(store):
    training, validation = store.split(15)
    settings = {"steps": 400, "evaluate_every": 5, "patience": 2, "learning_rate": 0.03}
    result = fit(training, settings, validation=validation)
    losses = [entry["loss"] for entry in result.evaluations]
    assert len(losses) < 80
    assert min(losses) not in losses[-2:]
    for head in (result.head, result.last):
        assert head.level == "token"
        assert_same_head(head, reweigh(head, training))  # of the training texts alone
    vectors = torch.from_numpy(validation.tokens().vectors())
    missed = [float((_rebuilt(head, vectors) - vectors).square().sum()) for head in
              (result.head, result.last)]  # fmt: skip
    assert missed[0] < missed[1]


def _rebuilt(head, vectors):
    with torch.no_grad():
        return head.decode(*head.encode(vectors, 2 * head.k_token))  # as many as are trained


def test_patience_needs_a_validation_set(store):
    with pytest.raises(ValueError, match="patience=3 needs validation="):
        fit(store, {"patience": 3})


def test_recipes_for_vectors_are_refused(store):
    for config in (recipe(), recipe("general"), recipe("csr")):
        with pytest.raises(TypeError, match=f"recipe '{config.recipe}' is for vectors of texts"):
            train_tokens(store, config)
    with pytest.raises(TypeError, match="recipe 'token' is for vectors of texts"):
        train_tokens(store, "token")


def test_stores_of_vectors_are_refused(store):
    with pytest.raises(TypeError, match=r"EmbeddingStore.*TokenStore\.embed"):
        train_tokens(store_of("nested"), config_of())
    with pytest.raises(TypeError, match=r"EmbeddingStore.*TokenStore\.embed"):
        train_tokens(store, config_of(), validation=store_of("nested"))
    with pytest.raises(TypeError, match=r"EmbeddingStore.*TokenStore\.embed"):
        reweigh(token_head(), store_of("nested"))
    with pytest.raises(TypeError, match=r"TokenStore.*csr_st.train_tokens"):
        csr_st.train(store, recipe())


@pytest.mark.parametrize(
    "settings", [{"debias": True}, {"short_ks": (2,)}, {"refit": 3}, {"power": 0.5}]
)
def test_what_belongs_to_pooled_vectors_is_refused_before_training(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: recipe 'token' has none"):
        config_of(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pooling": "mean"}, ValueError, "pooling='mean' is not one of 'sum', 'max'"),
        ({"k_token": 0}, ValueError, "k_token=0 is below 1"),
        ({"query_k": 0}, ValueError, "query_k=0 is below 1"),
        ({"k": 64}, ValueError, "k=64 exceeds hidden_dim=48"),
        ({"ks": (2, 4)}, TypeError, "ks"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        config_of(**settings)


@pytest.mark.parametrize(("pooling", "share"), [("sum", 0.0), ("sum", 0.5), ("max", 0.0)])
def test_weights_are_the_idf_of_the_collection(token_backbone, store, pooling, share):
    head = token_head(pooling=pooling, saturation=7.0, text_share=share)
    before = copy.deepcopy(weights_of(head))
    found = reweigh(head, store)
    table = np.stack([pooled_by_hand(head, token_vectors(token_backbone, text)) for text in MANY])
    active = table > 0
    f = active.sum(axis=0)
    idf = np.log(1 + (60 - f + 0.5) / (f + 0.5))
    assert 0 in f  # a latent that no text has gets a weight too
    assert f.max() > 20
    np.testing.assert_allclose(found.latent_weights.numpy(), np.sqrt(idf), rtol=1e-5)
    assert found.saturation == pytest.approx(table[active].mean(), rel=1e-5)
    after = weights_of(head)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert head.saturation == 7.0
    same = weights_of(found)
    assert all(torch.equal(before[n], same[n]) for n in before if n != "latent_weights")
    assert_same_head(reweigh(found, store), found)


def test_weights_are_of_a_view_s_texts(store):
    view = store.subset(np.arange(10, 15))
    found = reweigh(token_head(), view)
    most = np.sqrt(np.log(1 + 5.5 / 0.5))  # of a latent that none of five texts has
    assert float(found.latent_weights.max()) == pytest.approx(most, rel=1e-6)


def test_texts_in_several_batches_have_the_weights_of_one(store, monkeypatch):
    whole = reweigh(token_head(), store)
    monkeypatch.setattr("csr_st.embeddings.token_store.TEXTS_AT_ONCE", 7)
    parts = reweigh(token_head(), store)
    torch.testing.assert_close(parts.latent_weights, whole.latent_weights, rtol=0, atol=0)
    assert parts.saturation == pytest.approx(whole.saturation, rel=1e-6)


def test_of_many_texts_some_are_looked_at(store, monkeypatch):
    monkeypatch.setattr(tokens, "COUNTED", 10)
    most = np.sqrt(np.log(1 + 10.5 / 0.5))
    found = reweigh(token_head(), store)
    assert float(found.latent_weights.max()) == pytest.approx(most, rel=1e-6)


def test_texts_without_tokens_count_as_texts(token_backbone, tmp_path):
    store = TokenStore.embed(token_backbone, ["sea", "", "", ""], tmp_path / "s", dtype="float32")
    found = reweigh(token_head(), store)
    rare, common = np.sqrt(np.log(1 + 4.5 / 0.5)), np.sqrt(np.log(1 + 3.5 / 1.5))
    expected = np.full(64, rare)
    expected[pooled_by_hand(token_head(), token_vectors(token_backbone, "sea")) > 0] = common
    np.testing.assert_allclose(found.latent_weights.numpy(), expected, rtol=1e-6)


def test_no_active_latent_leaves_the_saturation_finite(store):
    head = token_head()
    with torch.no_grad():
        head.latent_bias.fill_(-100)
    found = reweigh(head, store)
    assert found.saturation == 1.0
    assert torch.isfinite(found.latent_weights).all()


def test_heads_that_do_not_fit_are_refused(store, head):
    with pytest.raises(ValueError, match="level='text'; only latents of tokens are weighted"):
        reweigh(head, store)
    with pytest.raises(ValueError, match="width 8, the store has width 16"):
        reweigh(csr_st.SparseCSRHead(8, level="token"), store)


@pytest.mark.parametrize("of_tokens", [True, False])
def test_training_on_vectors_refuses_the_recipe_of_tokens(store, rng, tmp_path, of_tokens):
    """It would make a text-level head, of vectors of texts or of tokens."""
    vectors = EmbeddingStore.from_array(rng.normal(size=(40, store.dim)).astype(np.float32))
    given = store.tokens() if of_tokens else vectors
    wanted = (
        r"recipe 'token' is for token-level heads, .* csr_st\.TokenStore to csr_st\.train_tokens"
    )
    with pytest.raises(TypeError, match=wanted):
        train(given, recipe("token"), output=tmp_path / "run")
    with pytest.raises(TypeError, match=wanted):
        train_pairs({"text": given, "image": given}, recipe("token"))
    head = csr_st.SparseCSRHead(store.dim, k=4)
    with pytest.raises(TypeError, match=wanted):
        adapt(head, given, recipe("token"))
    assert not (tmp_path / "run").exists()
