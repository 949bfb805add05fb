"""Adapting and calibrating a head: what a user sees of quality, meaning and settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from csr_st import EmbeddingStore, SparseCSRHead, adapt, calibrate, encode_vectors, recipe, train
from csr_st.training.adapting import adapt_recipe, kept_latents

WIDTH = 24


def _grouped(seed: int, shift: float = 0.0) -> np.ndarray:
    """Unit vectors in 30 groups, around a common direction that is `shift` long."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, WIDTH))
    rows = centres[rng.integers(30, size=600)] + 0.5 * rng.normal(size=(600, WIDTH))
    rows[:, 0] += shift * np.sqrt(WIDTH)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _unexplained(head: SparseCSRHead, vectors: np.ndarray, k: int) -> float:
    with torch.no_grad():
        x = torch.from_numpy(vectors)
        error = x - head.decode(*head.encode(x, k))
    return float(error.square().sum() / (x - x.mean(dim=0)).square().sum())


@pytest.fixture(scope="module")
def head() -> SparseCSRHead:
    settings = recipe(steps=60, k=8, hidden_dim=48, ks=(2, 4, 8))
    return train(EmbeddingStore.from_array(_grouped(0)), settings, show_progress=False).head


def test_adapting_takes_on_the_corpus_and_leaves_the_head_as_it_was(head: SparseCSRHead) -> None:
    corpus = _grouped(1)
    before = {name: x.clone() for name, x in head.named_parameters()}
    found = adapt(head, EmbeddingStore.from_array(corpus), show_progress=False)
    assert _unexplained(found.head, corpus, 4) < 0.6 * _unexplained(head, corpus, 4)
    for name, x in head.named_parameters():
        torch.testing.assert_close(x, before[name])


def test_fewer_replaced_latents_keep_more_meaning(head: SparseCSRHead) -> None:
    store = EmbeddingStore.from_array(_grouped(1))
    none, most = (
        adapt(head, store, replaced=share, show_progress=False).kept for share in (0, 0.9)
    )
    assert 0 <= most < none <= 1


def test_a_head_that_is_not_changed_keeps_all_latents(head: SparseCSRHead) -> None:
    assert kept_latents(head, head, torch.from_numpy(_grouped(0))) == 1


def test_latents_in_another_order_keep_none(head: SparseCSRHead) -> None:
    """Each latent's strongest vectors are then those of another."""
    other = SparseCSRHead(**head.get_config_dict())
    other.load_state_dict(head.state_dict())
    with torch.no_grad():
        other.encoder_weight.copy_(head.encoder_weight.roll(1, dims=0))
        other.latent_bias.copy_(head.latent_bias.roll(1))
    assert kept_latents(head, other, torch.from_numpy(_grouped(0))) < 0.1


def test_settings_of_the_head_stay(head: SparseCSRHead) -> None:
    given = SparseCSRHead(WIDTH, 48, k=5, query_k=9, normalize=False, power=0.7, residual_seed=3)
    found = adapt(given, EmbeddingStore.from_array(_grouped(1)), show_progress=False).head
    names = ("hidden_dim", "k", "query_k", "normalize", "power", "residual_seed")
    assert [getattr(found, n) for n in names] == [getattr(given, n) for n in names]


def test_it_resumes_from_the_same_head_only(head: SparseCSRHead, tmp_path: Path) -> None:
    store = EmbeddingStore.from_array(_grouped(1))
    settings = adapt_recipe(len(store), steps=20)
    options = {"output": tmp_path, "show_progress": False}
    whole = adapt(head, store, settings, **options).head
    again = adapt(head, store, settings, resume=True, **options).head
    torch.testing.assert_close(again.encoder_weight, whole.encoder_weight)
    other = SparseCSRHead(**head.get_config_dict())
    with pytest.raises(ValueError, match=r"start was .* train into another folder"):
        adapt(other, store, settings, resume=True, **options)


def test_calibrating_moves_the_centre_half_way_and_explains_more(head: SparseCSRHead) -> None:
    corpus = _grouped(2, shift=1.5)
    found = calibrate(head, EmbeddingStore.from_array(corpus))
    mean = torch.from_numpy(corpus.mean(axis=0))
    torch.testing.assert_close(found.pre_bias, (head.pre_bias + mean) / 2)
    torch.testing.assert_close(found.encoder_weight, head.encoder_weight)
    assert _unexplained(found, corpus, 4) < _unexplained(head, corpus, 4)
    assert len(np.unique(encode_vectors(found, corpus, 1).indices)) > len(
        np.unique(encode_vectors(head, corpus, 1).indices)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"replaced": 1.5}, "replaced=1.5 must be within 0..1"),
        ({"config": recipe(hidden_dim=64)}, "hidden_dim=64 differs from the 48 latents"),
    ],
)
def test_wrong_settings(head: SparseCSRHead, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(head, EmbeddingStore.from_array(_grouped(1)), show_progress=False, **wrong)


def test_vectors_of_another_model(head: SparseCSRHead) -> None:
    store = EmbeddingStore.from_array(np.eye(30, dtype=np.float32))
    for change in (adapt, calibrate):
        with pytest.raises(ValueError, match=r"width 24.*30|30.*width 24"):
            change(head, store)


def test_a_head_of_two_modalities_is_refused() -> None:
    given = SparseCSRHead(WIDTH, 48, k=5, modalities=["text", "image"])
    with pytest.raises(ValueError, match=r"csr_st\.train_pairs"):
        adapt(given, EmbeddingStore.from_array(_grouped(1)))
