"""One batch's loss against the same terms worked out from the head's own codes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from csr_st.config import recipe
from csr_st.head import SparseCSRHead
from csr_st.training import losses
from csr_st.training.objective import Batch, Objective, Step

D, H = 6, 24
VARIANCE = 5.0


def make_head(tied=False):
    head = SparseCSRHead(D, H, k=4, tied=tied)
    head.reset_parameters(torch.Generator().manual_seed(2))
    with torch.no_grad():  # no symmetry that could hide an exchanged weight or a forgotten bias
        generator = torch.Generator().manual_seed(3)
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return head


def make_batch(n=8, **others):
    return Batch(torch.randn(n, D, generator=torch.Generator().manual_seed(4)), **others)


def make_step(number=0, dead=None, seed=0):
    dead = torch.zeros(H, dtype=torch.bool) if dead is None else dead
    return Step(number, dead, torch.Generator().manual_seed(seed))


def outcome_of(config, batch=None, head=None, **step):
    head = head or make_head(config.tied)
    return Objective(head, config, VARIANCE)(batch or make_batch(), make_step(**step))


def dense_codes(head, vectors, k):
    """Equation 2, without the head's own top-k: keep what is not below the k-th, then ReLU."""
    pre = (vectors - head.pre_bias) @ head.encoder_weight.T + head.latent_bias
    kth = pre.sort(dim=1, descending=True).values[:, k - 1 : k]
    return torch.where(pre >= kth, pre, torch.zeros(())).relu()


def decoded(head, codes):
    return codes @ head.decoder_weight + head.pre_bias


@pytest.mark.parametrize("tied", [True, False])
def test_csr_is_equation_seven(tied):
    config = recipe("csr", k=3, tied=tied)
    head, batch = make_head(tied), make_batch()
    dead = torch.arange(H) % 3 == 0
    outcome = outcome_of(config, batch, head, dead=dead)
    x = batch.vectors
    near, wide = dense_codes(head, x, 3), dense_codes(head, x, 12)
    residual, unit = x - decoded(head, near), F.normalize(near, dim=1)
    pre = head.pre_activations(x)
    expected = {
        "l_k": residual.square().sum() / len(x),
        "l_4k": (x - decoded(head, wide)).square().sum() / len(x) / 8,
        "aux": losses.aux_k(residual, pre, dead, config.k_aux, head.decoder_weight) / 32,
        "contrast": 0.03 * F.cross_entropy(unit @ unit.T / 0.2, torch.arange(len(x))),
    }
    torch.testing.assert_close(outcome.terms, expected)
    torch.testing.assert_close(outcome.fvu, {3: expected["l_k"].detach() / VARIANCE})


def test_k_of_all_latents_leaves_nothing_for_4k():
    head = make_head()
    terms = outcome_of(recipe("csr", k=H), head=head).terms
    torch.testing.assert_close(terms["l_4k"], terms["l_k"] / 8)


def test_nested_reconstructs_at_every_k():
    config = recipe("nested", ks=(2, 3, 9), k=3)
    head, batch = make_head(config.tied), make_batch()
    x = batch.vectors
    expected = {
        k: (x - decoded(head, dense_codes(head, x, k))).square().sum() / len(x) / VARIANCE
        for k in (2, 3, 9)
    }
    found = outcome_of(config, batch, head).fvu
    torch.testing.assert_close(found, {k: error.detach() for k, error in expected.items()})


@pytest.mark.parametrize(
    ("number", "curriculum", "weights"),
    [
        (0, 1.0, (0.8, 0.2)),  # 1/2 and 1/8
        (5, 1.0, (2 / 3, 1 / 3)),  # halfway, their roots
        (10, 1.0, (0.5, 0.5)),
        (0, 0.0, (0.5, 0.5)),
        (0, 2.0, (16 / 17, 1 / 17)),
    ],
)
@pytest.mark.parametrize("floor", [0.0, 0.05, 2.0])
def test_nested_weighs_logarithms_above_a_floor_small_k_first(number, curriculum, weights, floor):
    settings = {"ks": (2, 8), "k": 2, "steps": 11, "reconstruction_weight": 3.0}
    config = recipe("nested", fvu_floor=floor, curriculum=curriculum, **settings)
    outcome = outcome_of(config, make_batch(), number=number)
    logs = (np.log(float(fvu) + floor) for fvu in outcome.fvu.values())
    expected = 3 * sum(weight * log for weight, log in zip(weights, logs, strict=True))
    assert float(outcome.terms["log_fvu"].detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [None, 10])
@pytest.mark.parametrize("learns", [True, False])
def test_every_k_has_equal_weight_without_an_end_or_without_gradient(steps, learns):
    """So that losses that only measure can be compared from step to step."""
    config = recipe("nested", ks=(2, 8), k=2, fvu_floor=0.0, curriculum=1.0, steps=steps)
    with torch.set_grad_enabled(learns):
        outcome = outcome_of(config, make_batch())
    alike = np.mean([np.log(float(fvu)) for fvu in outcome.fvu.values()])
    found = float(outcome.terms["log_fvu"].detach())
    if steps and learns:
        assert found != pytest.approx(alike, rel=1e-2)
    else:
        assert found == pytest.approx(alike, rel=1e-5)


def test_the_loss_is_not_rounded_by_autocast():
    config = recipe("nested", ks=(2, 8), k=2, curriculum=1.0, steps=10)
    with torch.autocast("cpu", torch.bfloat16):
        outcome = outcome_of(config, make_batch())
    assert outcome.terms["log_fvu"].dtype == torch.float32


def test_active_latents_are_those_of_the_trained_k_alone():
    head, batch = make_head(), make_batch()
    for config in (
        recipe("nested", ks=(2, 3, 9), k=3, tied=False),
        recipe("csr", k=3, tied=False),
    ):
        outcome = outcome_of(config, batch, head)
        used = (dense_codes(head, batch.vectors, 3) > 0).any(dim=0)
        assert set(outcome.active.tolist()) == set(used.nonzero()[:, 0].tolist())


def test_ks_above_hidden_dim_are_left_out():
    outcome = outcome_of(recipe("nested", ks=(4, H, 64), k=H))
    assert list(outcome.fvu) == [4, H]
    assert list(outcome_of(recipe("nested", ks=(64,), k=H)).fvu) == [H]


def test_contrast_without_noise_is_info_nce_of_the_codes_with_themselves():
    head, batch = make_head(), make_batch()
    config = recipe("nested", ks=(3,), k=3, tied=False, noise=0.0, contrastive_weight=2.0)
    codes = dense_codes(head, batch.vectors, 3)
    cosine = F.normalize(codes) @ F.normalize(codes).T / config.temperature
    expected = -cosine.log_softmax(dim=1).diagonal().mean()
    found = outcome_of(config, batch, head).terms["contrast"]
    torch.testing.assert_close(found, 2 * expected)


def test_noise_comes_from_differences_between_items():
    config = recipe("nested", ks=(3,), k=3, noise=0.8)
    still = recipe("nested", ks=(3,), k=3, noise=0.0)
    batch = make_batch()
    disturbed = outcome_of(config, batch).terms["contrast"]
    assert float(disturbed.detach()) > float(outcome_of(still, batch).terms["contrast"].detach())
    # Items that are all equal have no differences, so their noisy views are themselves.
    equal = Batch(torch.ones(4, D))
    one, other = (outcome_of(c, equal).terms["contrast"] for c in (config, still))
    torch.testing.assert_close(one, other)


def test_randomness_is_the_steps_alone():
    config = recipe("nested", ks=(2, 4, 8), k=4)
    first, again, other = (outcome_of(config, seed=seed).terms for seed in (5, 5, 6))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first["contrast"], other["contrast"])


@pytest.mark.parametrize(
    "term", ["reconstruction", "aux", "contrastive", "distillation", "supervised", "pair"]
)
def test_a_weight_scales_one_term_and_no_other(term):
    x = make_batch().vectors
    batch = make_batch(labels=torch.arange(8) % 3, anchors=x, positives=x.roll(1, 0))
    dead = torch.arange(H) % 2 == 0
    weights = ("reconstruction", "aux", "contrastive", "distillation", "supervised", "pair")
    base = {f"{name}_weight": 1.0 for name in weights}
    one = outcome_of(recipe("nested", **base), batch, dead=dead).terms
    two = outcome_of(recipe("nested", **base | {f"{term}_weight": 3.0}), batch, dead=dead).terms
    changed = [key for key in one if not torch.equal(one[key], two[key])]
    assert len(changed) == 1
    torch.testing.assert_close(two[changed[0]], 3 * one[changed[0]])


def test_terms_without_weight_are_not_computed():
    weights = ("aux", "contrastive", "supervised", "pair", "distillation")
    config = recipe("nested", **{f"{name}_weight": 0.0 for name in weights})
    batch = make_batch(labels=torch.arange(8))
    assert len(outcome_of(config, batch).terms) == 1


def test_distillation_is_zero_for_codes_with_the_dense_similarities():
    head, batch = make_head(), make_batch()
    batch = Batch(batch.vectors.abs())
    unit = F.normalize(batch.vectors, dim=1).numpy()
    spread = float(np.std((unit @ unit.T)[~np.eye(len(unit), dtype=bool)]))
    config = recipe(
        "nested",
        ks=(D,),
        k=D,
        tied=False,
        distillation_weight=1.0,
        noise=0.0,
        temperature=0.05,
        distillation_temperature=0.05 / spread,  # in standard deviations: then both are the same
    )
    other = float(outcome_of(config, batch, head).terms["distillation"].detach())
    with torch.no_grad():  # the first latents are the coordinates, the rest never fire
        head.pre_bias.zero_()
        head.encoder_weight.copy_(torch.eye(H, D))
        head.latent_bias.copy_(-10.0 * (torch.arange(H) >= D))
    same = float(outcome_of(config, batch, head).terms["distillation"].detach())
    assert same == pytest.approx(0, abs=1e-5)
    assert other > 0.01


def test_labels_take_the_place_of_ncl_in_csrv2_and_not_in_csr():
    batch = make_batch(labels=torch.arange(8) % 2)
    assert {"supervised"} < set(outcome_of(recipe("csrv2", k=3), batch).terms)
    assert "contrast" not in outcome_of(recipe("csrv2", k=3), batch).terms
    assert "contrast" in outcome_of(recipe("csrv2", k=3)).terms
    assert "supervised" not in outcome_of(recipe("csr", k=3), batch).terms
    unweighed = outcome_of(recipe("csrv2", k=3, supervised_weight=0), batch).terms
    assert "contrast" in unweighed
    assert "supervised" not in unweighed
    assert "contrast" not in outcome_of(recipe("csr", k=3, contrastive_weight=0)).terms


def test_pairs_cost_less_when_they_match():
    config = recipe("nested", ks=(4,), k=4)
    anchors = make_batch(8).vectors
    matched = make_batch(anchors=anchors, positives=anchors * 1.01)
    crossed = make_batch(anchors=anchors, positives=anchors.roll(1, 0))
    one, other = (float(outcome_of(config, b).terms["pairs"].detach()) for b in (matched, crossed))
    assert one < other / 2


def test_scored_pairs_cost_less_when_their_order_is_right():
    config = recipe("nested", ks=(4,), k=4)
    anchors = make_batch(8).vectors
    positives = torch.cat([anchors[:4], -anchors[4:]])  # four equal pairs, four opposite ones
    right = torch.tensor([1.0] * 4 + [0.0] * 4)
    one, other = (
        float(
            outcome_of(config, make_batch(anchors=anchors, positives=positives, scores=scores))
            .terms["pairs"]
            .detach()
        )
        for scores in (right, 1 - right)
    )
    assert one < other / 2


@pytest.mark.parametrize("name", ["nested", "csr", "csrv2"])
def test_every_parameter_learns(name):
    config = recipe(name, k=4, tied=False)
    head = make_head()
    terms = outcome_of(config, make_batch(labels=torch.arange(8) % 2), head).terms
    sum(terms.values()).backward()
    for parameter_name, parameter in head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


def test_k_of_csrv2_falls_in_a_line_and_then_stays():
    config = recipe("csrv2", k=4, initial_k=64, anneal=0.7, steps=100)
    ks = [config.k_at(step) for step in range(100)]
    assert ks[0] == 64
    assert ks[35] == 34  # half of the way of 70 steps
    assert ks[70:] == [4] * 30
    assert ks[69] > 4
    assert (np.diff(ks) <= 0).all()


def test_k_of_csrv2_does_not_rise_to_a_k_above_the_first():
    config = recipe("csrv2", k=100, initial_k=64, steps=10)
    assert {config.k_at(step) for step in range(10)} == {100}
