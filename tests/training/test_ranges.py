"""Vectors of unusual size and place: trained on as well as others, or refused with the numbers."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from csr_st.config import RECIPES, recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.finetune import CSRLoss
from csr_st.training.loop import train, train_rows
from csr_st.training.refit import fit_short_maps, refit_decoder

TINY = {"hidden_dim": 64, "k": 4, "ks": (2, 4), "batch_size": 64}


def tiny(name, **settings):
    """A small configuration of a recipe; that of tokens has one k, under its own name."""
    own = {n: v for n, v in TINY.items() if n != "ks"} | {"k_token": 4}
    return recipe(name, **(own if name == "token" else TINY), **settings)


def sums(n=600, dim=16, atoms=32):
    """Sums of two of 32 directions, about their mean."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(atoms, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = np.argsort(rng.random((n, atoms)), axis=1)[:, :2]
    vectors = np.einsum("nk,nkd->nd", 1 + rng.random((n, 2)), directions[chosen])
    return vectors - vectors.mean(axis=0)


def fit(vectors, name="nested", **settings):
    config = recipe(name, **{**TINY, **settings})
    return train(EmbeddingStore.from_array(vectors), config, show_progress=False)


def unexplained(head, vectors, k=4):
    """The fraction of variance that a head misses, in float64."""
    with torch.no_grad():
        code = head.encode(torch.from_numpy(vectors), k)
        found = head.decode(*code).double().numpy()
    exact = vectors.astype(np.float64)
    used = len(set(code.indices[code.values > 0].tolist()))
    return ((exact - found) ** 2).sum() / ((exact - exact.mean(axis=0)) ** 2).sum(), used


@pytest.fixture(scope="module")
def without_mean():
    vectors = sums().astype(np.float32)
    result = fit(vectors, steps=150)
    return unexplained(result.head, vectors)[0], result.history[-1]["fvu"]["4"]


@pytest.mark.parametrize("size", [10.0, 1e3, 1e4])
def test_a_huge_common_mean_does_no_harm(without_mean, size):
    mean = size * np.random.default_rng(1).normal(size=16)
    vectors = (sums() + mean).astype(np.float32)
    result = fit(vectors, steps=150)
    error, used = unexplained(result.head, vectors)
    expected, in_training = without_mean
    assert error < expected + 0.05
    assert used > 50
    assert result.history[-1]["fvu"]["4"] == pytest.approx(in_training, abs=0.05)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_mean_that_leaves_nothing_of_the_differences_is_refused(tmp_path, dtype):
    size = {"float16": 1e4, "bfloat16": 1e4, "float32": 1e9}[dtype]
    vectors = sums() + size * np.random.default_rng(1).normal(size=16)
    if dtype == "bfloat16":
        from safetensors.torch import save_file

        save_file({"v": torch.from_numpy(vectors).bfloat16()}, tmp_path / "v.safetensors")
        store = EmbeddingStore.open(tmp_path / "v.safetensors")
    else:
        store = EmbeddingStore.from_array(vectors.astype(dtype))
    config = recipe("nested", **TINY, steps=2)
    words = f"differ from their mean by .*, but {dtype} rounds .*: store them as float32"
    with pytest.raises(ValueError, match=words):
        train(store, config, show_progress=False)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [1e20, 1e-20])
def test_vectors_too_large_or_small_for_float32_are_refused(name, size):
    store = EmbeddingStore.from_array((sums() * size).astype(np.float32))
    with pytest.raises(ValueError, match=r"mean length of .*e[+-](21|20|19).* scale them to"):
        train_rows(store, tiny(name, steps=2), show_progress=False)


@pytest.mark.parametrize("size", [1e12, 1e-12])
def test_vectors_of_any_other_size_are_trained_on(without_mean, size):
    vectors = (sums() * size).astype(np.float32)
    error, used = unexplained(fit(vectors, steps=150).head, vectors)
    assert error < without_mean[0] + 0.05
    assert used > 50


@pytest.mark.parametrize("name", RECIPES)
def test_training_that_diverges_raises_and_keeps_the_checkpoint_before(tmp_path, name, monkeypatch):
    from csr_st.training.objective import Objective

    forward = Objective.forward

    def broken(self, batch, step):
        outcome = forward(self, batch, step)
        if step.number < 7:
            return outcome
        return outcome._replace(terms={n: term * float("nan") for n, term in outcome.terms.items()})

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(ValueError, match=r"at step 8: the loss is nan; .*checkpoint of step 6"):
        train_rows(
            EmbeddingStore.from_array(sums()),
            tiny(name, steps=12),
            output=tmp_path,
            checkpoint_every=3,
            show_progress=False,
        )
    names = sorted(path.name[5:14] for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000003", "000000006"]


def test_a_rate_that_is_far_too_high_raises():
    with pytest.raises(ValueError, match=r"diverged at step .*learning_rate=1e\+30"):
        fit(sums(), learning_rate=1e30, steps=12)


def test_one_giant_row_gives_a_warning():
    vectors = sums()
    vectors[17] *= 1e5
    with pytest.warns(UserWarning, match="1 vectors are more than 100 times as long as the median"):
        result = fit(vectors, steps=12)
    assert all(weight.isfinite().all() for weight in result.head.parameters())


@pytest.mark.parametrize("kind", ["constant columns", "zero rows", "duplicates", "two clusters"])
def test_odd_vectors_give_a_head_with_many_latents(kind):
    vectors = sums()
    if kind == "constant columns":
        vectors[:, 8:] = 7
    elif kind == "zero rows":
        vectors[::2] = 0
    elif kind == "duplicates":
        vectors[300:] = vectors[:300]
    else:
        vectors[::2] += 1000
    error, used = unexplained(fit(vectors.astype(np.float32), steps=150).head, vectors.astype("f4"))
    assert error < 0.5
    assert used > 20


def test_the_variance_in_fine_tuning_is_exact_beside_a_large_mean(model):
    loss = CSRLoss(model, recipe("nested", **{**TINY, "k": 4}))
    rows = torch.from_numpy((sums() + 1000).astype(np.float32))
    with torch.no_grad():
        loss.head.pre_bias.copy_(rows.mean(dim=0))
    expected = float(torch.from_numpy(sums()).var(dim=0).sum())
    assert loss._spread(rows) == pytest.approx(expected, rel=1e-3)


def test_numbers_of_numpy_are_numbers_of_python_in_a_configuration():
    config = recipe(
        k=np.int64(4), ks=np.array([2, 4]), noise=np.float32(0.5), power=np.float32(0.5),
        learning_rate=np.float64(1e-3), hidden_dim=np.int32(64),
    )  # fmt: skip
    json.dumps(dataclasses.asdict(config))  # as checkpoints and cards have it
    assert config == recipe(k=4, ks=(2, 4), noise=0.5, power=0.5, learning_rate=1e-3, hidden_dim=64)
    with pytest.raises(TypeError, match="learning_rate='1e-3' must be a number"):
        recipe(learning_rate="1e-3")


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_training_within_another_mode_of_torch_gives_the_same_bits(mode):
    plain = fit(sums(), steps=3).head
    with mode():
        other = fit(sums(), steps=3).head
    for one, two in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert not two.is_inference()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_head_of_half_precision_is_refit_in_float32(dtype):
    head = fit(sums(), steps=3, refit=0, short_ks=()).head.to(dtype)
    vectors = torch.from_numpy(sums().astype(np.float32))
    assert refit_decoder(head, vectors, (2, 4), 2).decoder_weight.dtype == torch.float32
    assert fit_short_maps(head, vectors, [2]).short_maps.isfinite().all()
