"""Codes of noisy views, by the compiled loops and by torch."""

import pytest
import torch

from csr_st.head import SparseCSRHead
from csr_st.training.compiled import dispatch as compiled
from csr_st.training.noisy_views import encoded, encoded_with_noisy_views

D, H, B = 6, 24, 8


def make_head():
    head = SparseCSRHead(D, H, k=4)
    generator = torch.Generator().manual_seed(2)
    head.reset_parameters(generator)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return head


def make_vectors():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(4))


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """The two implementations: compiled loops and torch."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(compiled, "available", lambda: False)


def made(head, vectors, noise=1.0):
    generator = torch.Generator().manual_seed(4)
    return encoded_with_noisy_views(head, vectors, (5, 3), noise, generator)


def gradients_of(head, pre, *codes, also_dense):
    """By parameter, of a weighted sum of all values, and of pre-activations if ``also_dense``."""
    weights = (torch.rand(code.values.shape, generator=seeded(1)) for code in codes)
    total = sum((w * code.values).sum() for w, code in zip(weights, codes, strict=True))
    if also_dense:
        total = total + pre.square().sum()
    total.backward()
    return {name: parameter.grad for name, parameter in head.named_parameters()}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("also_dense", [False, True])
def test_codes_by_linearity_are_those_of_the_noisy_vectors(way, also_dense):
    quick_head, head, vectors = make_head(), make_head(), make_vectors()
    # As of a backbone in training: then the noisy vectors themselves are encoded.
    quick, plain = made(quick_head, vectors), made(head, vectors.clone().requires_grad_())
    torch.testing.assert_close(quick[0], plain[0])
    for one, other in zip(quick[1:], plain[1:], strict=True):
        assert torch.equal(one.indices, other.indices)
        torch.testing.assert_close(one.values, other.values)
    found = gradients_of(quick_head, *quick, also_dense=also_dense)
    expected = gradients_of(head, *plain, also_dense=also_dense)
    assert found["decoder_weight"] is expected["decoder_weight"] is None
    for name in ("encoder_weight", "latent_bias", "pre_bias"):
        torch.testing.assert_close(found[name], expected[name])


def test_codes_are_those_of_the_head(way):
    head, vectors = make_head(), make_vectors()
    pre, code = encoded(head, vectors, 2 * H)  # more than there are latents
    expected = head.encode(vectors, H)
    torch.testing.assert_close(pre, head.pre_activations(vectors))
    torch.testing.assert_close(code.values, expected.values)
    positive = expected.values > 0  # any order of the others is correct
    assert torch.equal(code.indices[positive], expected.indices[positive])


def test_a_latent_that_is_not_active_gets_no_gradient(way):
    head = SparseCSRHead(2, 2, k=2)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.eye(2))
    _, code = encoded(head, torch.tensor([[3.0, -1.0]]), 2)
    assert code.values.tolist() == [[3, 0]]
    code.values.sum().backward()
    assert head.encoder_weight.grad.tolist() == [[3, -1], [0, 0]]
    assert head.latent_bias.grad.tolist() == [1, 0]


def test_equal_entries_are_each_taken_once(way):
    head = make_head()
    with torch.no_grad():
        head.encoder_weight.zero_()
        head.latent_bias.fill_(2)
    _, code = encoded(head, make_vectors(), 7)
    assert code.values.tolist() == [[2] * 7] * B
    assert all(len(set(row)) == 7 for row in code.indices.tolist())


@pytest.mark.parametrize("latents", [[0], [5], range(1, H), range(H)])
def test_nan_in_weights_gives_nan_values(way, latents):
    head = make_head()
    with torch.no_grad():
        head.encoder_weight[list(latents)] = torch.nan
    _, code, views = made(head, make_vectors())
    assert code.values.isnan().any(dim=1).all()
    assert views.values.isnan().any(dim=1).all()


def test_a_noisy_view_differs_by_a_difference_of_two_items(way):
    head = SparseCSRHead(2, 2, k=2)
    with torch.no_grad():  # one latent per coordinate: codes of positive vectors equal them
        head.encoder_weight.copy_(torch.eye(2))
    vectors = torch.tensor([[10.0, 10.0], [11.0, 10.0], [10.0, 12.0]])
    directions = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        _, _, views = encoded_with_noisy_views(head, vectors, (2, 2), 1.0, generator)
        moved = torch.zeros(3, 2).scatter(1, views.indices, views.values.detach()) - vectors
        for x, y in moved.abs().tolist():
            assert x <= 1 / 2**0.5 + 1e-5
            assert y <= 2 / 2**0.5 + 1e-5
            if max(x, y) > 0.01:
                directions.add(round(y / max(x, 1e-3), 1) if x > 1e-3 else "up")
    assert directions == {0.0, 2.0, "up"}  # only (1, 0), (1, -2) and (0, 2)


def test_without_noise_a_view_equals_its_item(way):
    _, code, views = made(make_head(), make_vectors(), noise=0.0)
    assert torch.equal(views.indices, code.indices[:, :3])
    torch.testing.assert_close(views.values, code.values[:, :3])
