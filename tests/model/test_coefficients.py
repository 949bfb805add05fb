"""Debiased coefficients and matching pursuit, against the least squares of other libraries."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import OrthogonalMatchingPursuit

from csr_st.codes import SparseCodes
from csr_st.config import recipe
from csr_st.decoder import Decoder
from csr_st.embeddings import EmbeddingStore
from csr_st.encoding import encode_vectors
from csr_st.head import SparseCSRHead
from csr_st.model.coefficients import solved
from csr_st.model.pursuit import pursue
from csr_st.training.loop import train


def head_of(dim=16, hidden_dim=48, **settings):
    """An untrained head with biases, tied: its measurements are those of the decoder's rows."""
    torch.manual_seed(0)
    head = SparseCSRHead(dim, hidden_dim, 6, tied=True, debias=True, **settings)
    with torch.no_grad():
        head.pre_bias.normal_(0, 0.1)
        head.latent_bias.uniform_(-0.2, 0)
    return head.eval()


def vectors(n=50, dim=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_two_overlapping_rows_by_hand():
    """Rows (1, 0) and (0.6, 0.8) of v = 2 (1, 0) + 1 (0.6, 0.8) measure 2.6 and 2.2."""
    products = np.array([[[1.0, 0.6], [0.6, 1.0]]])
    measured = np.array([[2.6, 2.2]])
    found = solved(measured, measured, products)
    np.testing.assert_allclose(found, [[2, 1]], atol=0.15)  # the ridge, and three sweeps
    np.testing.assert_array_equal(
        solved(torch.tensor(measured), torch.tensor(measured), torch.tensor(products)), found
    )


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_decoding_comes_near_the_projection_on_the_active_rows(k, power):
    """The vector itself is not known to the decoder, yet what it makes is nearly its projection."""
    head, x = head_of(power=power), vectors()
    with torch.no_grad():
        values, latents = head.encode(torch.from_numpy(x), k)
        decoded = head.decode(values, latents).numpy()
        head.debias = False
        plain = head.decode(values, latents).numpy()
    rows, mean = head.decoder_weight.detach().numpy(), head.pre_bias.detach().numpy()
    nearest = np.empty_like(x)
    for i, (value, latent) in enumerate(zip(values.numpy(), latents.numpy(), strict=True)):
        active = rows[latent[value > 0]]
        nearest[i] = mean + active.T @ np.linalg.lstsq(active.T, x[i] - mean, rcond=None)[0]
    best, found, before = (((x - y) ** 2).sum() for y in (nearest, decoded, plain))
    assert best <= found < best + 0.1 * (before - best)


def test_decoder_and_head_agree(rng):
    head, x = head_of(power=0.5), vectors()
    codes = encode_vectors(head, x, 6)
    with torch.no_grad():
        expected = head.decode(*head.encode(torch.from_numpy(x), 6)).numpy()
    np.testing.assert_allclose(Decoder.from_head(head).decode(codes), expected, atol=1e-5)


def test_an_encoder_that_measures_something_else_does_no_harm():
    """Coefficients never leave the measurements further off than magnitudes do."""
    rng = np.random.default_rng(0)
    products = rng.normal(size=(200, 8, 8))
    magnitudes = np.abs(rng.normal(size=(200, 8)))
    found = solved(magnitudes, magnitudes, products)

    def missing(coefficients):
        return ((magnitudes - np.einsum("nij,nj->ni", products, coefficients)) ** 2).sum(axis=1)

    assert np.isfinite(found).all()
    assert (missing(found) <= missing(magnitudes) + 1e-9).all()


def test_latents_without_a_value_take_no_part():
    head = head_of()
    codes = SparseCodes(np.array([[3, 5, 0, 1]]), np.array([[2.0, 1.0, 0, 0]], np.float32), 48)
    decoder = Decoder.from_head(head)
    np.testing.assert_allclose(decoder.decode(codes), decoder.decode(codes.prefix(2)), atol=1e-6)


def test_gradient_reaches_the_values():
    head = head_of()
    values, latents = head.encode(torch.from_numpy(vectors(4)), 3)
    head.decode(values, latents).square().sum().backward()
    assert head.encoder_weight.grad.abs().sum() > 0


@pytest.mark.parametrize("k", [1, 4, 8])
def test_pursuit_equals_that_of_sklearn(k):
    """Up to 8 latents are added one at a time, as in the original; both signs are kept apart."""
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(size=(40, 64)))  # rows and vectors without negative entries
    x = np.abs(rng.normal(size=(30, 12, 64)) @ np.eye(64)).sum(axis=1)
    coefficients, latents = pursue(torch.from_numpy(x), torch.from_numpy(rows), k)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for i in range(len(x)):
        peer = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False).fit(unit.T, x[i])
        if (peer.coef_ < 0).any():
            continue
        made = np.zeros(40)
        made[latents[i]] = coefficients[i]
        expected = peer.coef_ / np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(made, expected, atol=2e-3 * expected.max())


def test_pursuit_never_has_a_negative_coefficient_and_is_the_best_without():
    rng = np.random.default_rng(1)
    rows, x = rng.normal(size=(30, 10)), rng.normal(size=(40, 10))
    coefficients, latents = pursue(torch.from_numpy(x), torch.from_numpy(rows), 8)
    assert (coefficients >= 0).all()
    assert (coefficients[:, 1:] <= coefficients[:, :-1]).all()
    for value, latent, target in zip(coefficients.numpy(), latents.numpy(), x, strict=True):
        assert len(set(latent)) == 8
        _, least = nnls(rows[latent].T, target)
        assert np.linalg.norm(target - value @ rows[latent]) == pytest.approx(least, abs=2e-3)


@pytest.mark.parametrize("kind", ["zero vector", "equal rows", "zero rows", "tiny", "huge"])
def test_pursuit_of_degenerate_input_is_finite(kind):
    rng = np.random.default_rng(2)
    rows, x = rng.normal(size=(12, 6)).astype("f4"), rng.normal(size=(3, 6)).astype("f4")
    if kind == "zero vector":
        x[1] = 0
    if kind == "equal rows":
        rows[6:] = rows[:6]
    if kind == "zero rows":
        rows[3:] = 0
    x *= {"tiny": 1e-20, "huge": 1e15}.get(kind, 1)
    coefficients, latents = pursue(torch.from_numpy(x), torch.from_numpy(rows), 12)
    assert torch.isfinite(coefficients).all()
    assert (latents.sort(dim=1).values == torch.arange(12)).all()
    if kind != "zero rows":
        error = np.linalg.norm(x - np.einsum("nk,nkd->nd", coefficients, rows[latents]))
        assert error < 0.9 * np.linalg.norm(x)


def test_pursuit_codes_come_closer_and_keep_the_power():
    x = vectors(600)
    head = train(EmbeddingStore.from_array(x), recipe(hidden_dim=64, k=4, steps=60)).head.eval()
    with torch.no_grad():
        chosen, pursued = (
            head.encode(torch.from_numpy(x), 8),
            head.encode(torch.from_numpy(x), 8, pursuit=True),
        )
        near = ((head.decode(*chosen) - torch.from_numpy(x)) ** 2).sum()
        nearer = ((head.decode(*pursued, fitted=True) - torch.from_numpy(x)) ** 2).sum()
    assert nearer < 0.9 * near
    assert (pursued.values[:, 1:] <= pursued.values[:, :-1]).all()


def test_a_saved_setting_decides(tmp_path):
    head = head_of()
    (tmp_path / "on").mkdir()
    head.save(str(tmp_path / "on"))
    assert SparseCSRHead.load(str(tmp_path / "on")).debias
    assert not SparseCSRHead(4, k=2).debias  # as heads saved without the setting
    with pytest.raises(TypeError, match="debias"):
        SparseCSRHead(4, k=2, debias="yes")
