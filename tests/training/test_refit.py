"""The decoder that is solved for, against numpy's least squares."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import csr_st
from csr_st.training.refit import (
    RIDGE,
    fit_residual_basis,
    fit_short_maps,
    refit_decoder,
    refit_for_pursuit,
)


def trained_like_head(tied=True):
    torch.manual_seed(0)
    return csr_st.SparseCSRHead(6, 10, k=3, tied=tied)


def prefix_rows(head, vectors, k):
    """(n, h) dense codes at k."""
    code = head.encode(vectors, k)
    return torch.zeros(len(vectors), head.hidden_dim).scatter(1, code.indices, code.values)


def test_many_steps_reach_the_least_squares_decoder():
    head, vectors = trained_like_head(), torch.randn(400, 6)
    start = [head.decode(*head.encode(vectors, k)) for k in (1, 3)]
    scale = [1 / float((vectors - part).square().mean().detach()) ** 0.5 for part in start]
    stacked = np.concatenate(
        [
            s * prefix_rows(head, vectors, k).detach().numpy()
            for s, k in zip(scale, (1, 3), strict=True)
        ]
    )
    target = (vectors - head.pre_bias).detach().numpy()
    expected, *_ = np.linalg.lstsq(stacked, np.concatenate([s * target for s in scale]), rcond=None)
    fitted = refit_decoder(head, vectors, (1, 3), iterations=200)
    np.testing.assert_allclose(fitted.decoder_weight.detach().numpy(), expected, atol=2e-3)


def test_a_few_steps_lower_the_error_and_leave_codes_and_the_given_head_alone():
    head, vectors = trained_like_head(), torch.randn(5000, 6)
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    fitted = refit_decoder(head, vectors, (1, 3), iterations=5)
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, before[name])
    code, new = head.encode(vectors, 3), fitted.encode(vectors, 3)
    assert torch.equal(code.values, new.values)
    assert torch.equal(code.indices, new.indices)
    errors = [(vectors - h.decode(*code)).square().mean() for h in (head, fitted)]
    assert errors[1] < 0.9 * errors[0]
    assert not fitted.tied


@pytest.mark.parametrize("tied", [False, True])
def test_rounds_on_pursuit_serve_both_kinds_of_codes(tied):
    torch.manual_seed(0)
    head = csr_st.SparseCSRHead(12, 40, k=4, tied=tied, debias=True)
    vectors = torch.randn(1500, 12) ** 3  # with structure: few large entries
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    fitted = refit_for_pursuit(head, vectors, (2, 8), rounds=2)
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, before[name])
    assert fitted.debias
    assert torch.equal(fitted.encode(vectors, 8).indices, head.encode(vectors, 8).indices)

    def error(of, pursuit):
        with torch.no_grad():
            code = of.encode(vectors, 8, pursuit=pursuit)
            return float((vectors - of.decode(*code, fitted=pursuit)).square().mean())

    assert error(fitted, pursuit=True) < 0.9 * error(head, pursuit=True)
    assert error(fitted, pursuit=False) < error(head, pursuit=False)


def test_a_decoder_that_is_exact_stays_as_it_is():
    head = trained_like_head(tied=False)
    code = head.encode(torch.randn(50, 6), 3)
    exact = head.decode(*code).detach()
    # Vectors whose codes decode to them: the head's own reconstructions under an inverse encoder.
    with torch.no_grad():
        head.encoder_weight.zero_()
        head.encoder_weight[:6] = torch.eye(6)
        head.decoder_weight.zero_()
        head.decoder_weight[:6] = torch.eye(6)
        head.pre_bias.zero_()
    vectors = exact.relu()
    vectors[:, 3:] = 0
    fitted = refit_decoder(head, vectors, (3,), iterations=20)
    torch.testing.assert_close(fitted.decoder_weight, head.decoder_weight)


def test_maps_are_ridge_regressions_about_the_identity():
    head, vectors = trained_like_head(), torch.randn(300, 6)
    fitted = fit_short_maps(head, vectors, [1, 2])
    assert fitted.short_ks == [1, 2]
    for k, found in zip((1, 2), fitted.short_maps, strict=True):
        sums = prefix_rows(head, vectors, k) @ head.decoder_weight
        x, y = (part.detach().double().numpy() for part in (sums, vectors - head.pre_bias))
        # Rows of √λ I draw the map to the identity.
        drawn = np.sqrt(RIDGE * (x**2).sum() / 6) * np.eye(6)
        expected, *_ = np.linalg.lstsq(
            np.concatenate([x, drawn]), np.concatenate([y, drawn]), rcond=None
        )
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_maps_rebuild_unseen_vectors_better_and_change_nothing_else():
    head = trained_like_head()
    vectors, unseen = (torch.randn(n, 6) @ torch.diag(torch.arange(1.0, 7)) for n in (2000, 500))
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    fitted = fit_short_maps(head, vectors, [1, 2])
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, before[name])
        assert torch.equal(weight, fitted.state_dict()[name])
    for k in (1, 2, 3):
        code = head.encode(unseen, k)
        with torch.no_grad():
            errors = [(unseen - h.decode(*code)).square().mean() for h in (head, fitted)]
        assert errors[1] < 0.9 * errors[0] if k < 3 else errors[1] == errors[0]


def test_a_refit_drops_maps_of_the_old_decoder():
    head = fit_short_maps(trained_like_head(), torch.randn(50, 6), [2])
    assert refit_decoder(head, torch.randn(50, 6), (1, 3), iterations=2).short_ks == []


def test_axes_of_residuals_are_orthogonal_and_the_first_is_where_they_extend_furthest():
    """Vectors are in the span of the decoder's rows, but for a part that no row has."""
    head, vectors = trained_like_head(), torch.randn(3000, 6)
    with torch.no_grad():
        head.decoder_weight[:, 4] = 0
        vectors[:, 4] *= 3
    fitted = fit_residual_basis(head, vectors)
    axes = fitted.residual_axes.double()
    torch.testing.assert_close(axes @ axes.T, torch.eye(6).double(), atol=1e-6, rtol=0)
    assert axes[0, 4].abs() > 0.99
    assert (fitted.residual_deviations.diff() <= 0).all()
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, fitted.state_dict()[name])
    again = fit_residual_basis(head, vectors)
    assert (
        again.residual_basis
        == fitted.residual_basis
        != fit_residual_basis(head, vectors[:2000]).residual_basis
    )


def test_axes_of_equal_vectors_are_finite():
    fitted = fit_residual_basis(trained_like_head(), torch.zeros(9, 6))
    assert torch.isfinite(fitted.residual_axes).all()
    assert (fitted.residual_deviations > 0).all()


def test_weights_that_are_not_finite_are_refused():
    head, vectors = trained_like_head(), torch.full((9, 6), 1e30)
    for fit in (
        lambda: refit_decoder(head, vectors, (1, 3), 2),
        lambda: fit_short_maps(head, vectors, [2]),
        lambda: fit_residual_basis(head, vectors),
    ):
        with pytest.raises((ArithmeticError, torch.linalg.LinAlgError)):
            fit()


def test_maps_of_equal_vectors_are_finite():
    fitted = fit_short_maps(trained_like_head(), torch.zeros(9, 6), [2])
    torch.testing.assert_close(fitted.short_maps[0], torch.eye(6))


def test_maps_are_found_where_the_threads_of_torch_were_set():
    # https://github.com/pytorch/pytorch/issues/142815: an error at 160, a hang at 768.
    script = """
import torch
torch.set_num_threads(2)
import csr_st
from csr_st.training.refit import fit_residual_basis, fit_short_maps
for width in (160, 768):
    head = csr_st.SparseCSRHead(width, width, k=8)
    maps = fit_short_maps(head, torch.randn(200, width), [2, 4, 8]).short_maps
    assert torch.isfinite(maps).all()
    assert torch.isfinite(fit_residual_basis(head, torch.randn(200, width)).residual_axes).all()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
