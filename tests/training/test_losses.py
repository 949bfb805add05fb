"""Each term of the loss against results by hand, dense algebra or another library."""

import contextlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CoSENTLoss

from csr_st.training import losses


def random_codes(rows=5, hidden_dim=12, k=6, seed=0, dtype=torch.float64):
    """Sorted codes whose last values are zero, as after ReLU."""
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(rows, hidden_dim, generator=generator, dtype=dtype)
    values, indices = pre.topk(k, dim=1)
    return values.relu(), indices


@contextlib.contextmanager
def torch_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)


def cosines(rows, keys):
    return F.normalize(rows, dim=1) @ F.normalize(keys, dim=1).T


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # the first by compiled loops
@pytest.mark.parametrize("key_k", [1, 6])
def test_code_similarities_equal_dense_products_and_their_gradients(threads, dtype, key_k):
    values, indices = random_codes(dtype=dtype)
    key_values, key_indices = random_codes(rows=7, k=key_k, seed=3, dtype=dtype)
    given = [x.clone().requires_grad_() for x in (values, key_values)]
    dense = [x.clone().requires_grad_() for x in (values, key_values)]
    rows = torch.zeros(5, 12, dtype=dtype).scatter(1, indices, dense[0])
    keys = torch.zeros(7, 12, dtype=dtype).scatter(1, key_indices, dense[1])
    with torch_threads(threads):
        found = losses.code_similarities(given[0], indices, given[1], key_indices, 12)
        torch.testing.assert_close(found, rows @ keys.T)
        found.square().sum().backward()
    (rows @ keys.T).square().sum().backward()
    for one, other in zip(given, dense, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_similarities_without_a_shared_latent_are_0():
    latents = torch.tensor([[0, 1]]), torch.tensor([[3, 2], [1, 4]])
    values = torch.ones(1, 2), torch.tensor([[5.0, 5], [2, 5]])
    found = losses.code_similarities(values[0], latents[0], values[1], latents[1], 6)
    assert found.tolist() == [[0, 2]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ks", [(1, 2, 6), (3,), (2, 4), (4, 4)])
def test_nested_errors_equal_dense_products_of_each_prefix(ks, dtype, threads):
    values, indices = random_codes(dtype=dtype)
    shapes = ((5, 4), (12, 4), (4,))
    target, weight, bias = (torch.randn(shape, dtype=dtype) for shape in shapes)
    given = [x.clone().requires_grad_() for x in (target, values, weight, bias)]
    dense = [x.clone().requires_grad_() for x in (target, values, weight, bias)]
    left = []
    for k in ks:
        rows = torch.zeros(5, 12, dtype=dtype)
        rows = rows.scatter(1, indices[:, :k], dense[1][:, :k])
        left.append(dense[0] - (rows @ dense[2] + dense[3]))
    expected = torch.stack([x.square().sum() / 5 for x in left])
    with torch_threads(threads):
        found, residuals = losses.nested_errors(given[0], given[1], indices, *given[2:], ks)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(residuals, torch.stack(left).detach())
        sum((i + 1) * x.square() for i, x in enumerate(found)).backward()
    sum((i + 1) * x.square() for i, x in enumerate(expected)).backward()
    for one, other in zip(given, dense, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-4)


def test_compiled_nested_errors_have_one_backward_pass():
    """It overwrites the residuals, so a second one would be wrong and is refused."""
    pytest.importorskip("numba")
    values, indices = random_codes(dtype=torch.float32)
    weight = torch.randn(12, 4, requires_grad=True)
    target, bias = torch.randn(5, 4), torch.zeros(4)
    errors, _ = losses.nested_errors(target, values, indices, weight, bias, (2, 4))
    errors.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        errors.sum().backward()


@pytest.mark.parametrize("latent", [-1, 12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_that_do_not_exist_are_refused(latent, dtype):
    values, indices = random_codes(dtype=dtype)
    wrong = indices.clone()
    wrong[2, 3] = latent
    weight, bias = torch.randn(12, 4, dtype=dtype), torch.zeros(4, dtype=dtype)
    target = torch.randn(5, 4, dtype=dtype)
    with pytest.raises((IndexError, RuntimeError)):
        losses.nested_errors(target, values, wrong, weight, bias, (2, 6))
    for one, other in ((wrong, indices), (indices, wrong)):
        with pytest.raises((IndexError, RuntimeError)):
            losses.code_similarities(values, one, values, other, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_shorter_than_k_are_refused(dtype):
    values, indices = random_codes(dtype=dtype)
    weight, bias = torch.randn(12, 4, dtype=dtype), torch.zeros(4, dtype=dtype)
    with pytest.raises(ValueError, match="codes of 6 latents have no prefix of ks"):
        losses.nested_errors(torch.zeros(5, 4, dtype=dtype), values, indices, weight, bias, (2, 7))


def test_nested_errors_by_hand():
    target = torch.tensor([[1.0, 2, 3], [0, 0, 1]])
    values, latents = torch.tensor([[2.0, 1], [1, 0]]), torch.tensor([[1, 0], [2, 0]])
    found, left = losses.nested_errors(target, values, latents, torch.eye(3), torch.ones(3), (1, 2))
    # At k=1 rebuilt as (1, 3, 1) and (1, 1, 2), at k=2 as (2, 3, 1) and (1, 1, 2).
    by_hand = torch.tensor([(0 + 1 + 4 + 1 + 1 + 1) / 2, (1 + 1 + 4 + 1 + 1 + 1) / 2])
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(left[:, 0], torch.tensor([[0.0, -1, 2], [-1, -1, 2]]))


def test_aux_k_by_hand():
    residual = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[9.0, 9, 9], [1, 0, 0], [0, 1, 0], [0, 0, 1]], requires_grad=True)
    pre = torch.tensor([[9.0, 1.0, 0.5, 2.0], [9.0, -1.0, 2.0, -3.0]], requires_grad=True)
    dead = torch.tensor([False, True, True, True])
    # Row 0 uses latents 3 and 1: (1, 0, 2), no error. Row 1 uses 2 and, cut by ReLU, 1: (0, 2, 0).
    loss = losses.aux_k(residual, pre, dead, 2, weight)
    assert float(loss.detach()) == pytest.approx((0 + 1) / (5 + 9))
    loss.backward()
    assert residual.grad is None
    assert pre.grad[:, 0].tolist() == [0, 0]  # a live latent learns nothing from it
    assert weight.grad[0].tolist() == [0, 0, 0]
    assert pre.grad[1, 2] < 0  # the dead one grows towards the residual


@pytest.mark.parametrize("highest", [None, torch.tensor([0.1, 4.0])])
def test_aux_k_applies_relu_to_a_latent_that_is_positive_for_some_item(highest):
    residual, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)
    pre = torch.tensor([[-0.5, 4.0], [-1.5, 4.0]], requires_grad=True)
    loss = losses.aux_k(residual, pre, torch.tensor([True, False]), 1, weight, highest)
    assert float(loss.detach()) == 1
    loss.backward()
    assert not pre.grad.any()


def test_aux_k_reaches_latents_that_are_negative_for_every_item():
    residual, weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)
    pre = torch.tensor([[-0.5, 4.0], [-1.5, 4.0]], requires_grad=True)
    highest = torch.tensor([-0.5, 4.0])
    loss = losses.aux_k(residual, pre, torch.tensor([True, False]), 1, weight, highest)
    # Latent 0 enters with its sign: the errors are (1.5, 0) and (1.5, 2).
    assert float(loss.detach()) == pytest.approx((1.5**2 + 1.5**2 + 4) / (1 + 4))
    loss.backward()
    assert (pre.grad[:, 0] < 0).all()  # up, towards activity
    assert pre.grad[:, 1].tolist() == [0, 0]


def test_aux_k_of_fewer_dead_latents_than_k_aux_and_of_none():
    residual = torch.tensor([[2.0, 0.0]])
    weight, pre = torch.eye(2), torch.tensor([[1.0, 5.0]])
    one = losses.aux_k(residual, pre, torch.tensor([True, False]), 512, weight)
    assert float(one) == pytest.approx(1 / 4)
    none = losses.aux_k(residual, pre, torch.tensor([False, False]), 512, weight)
    assert float(none) == 0


def test_aux_k_takes_activations_of_another_precision():
    weight, pre = torch.eye(2), torch.tensor([[1.0, 5.0]], dtype=torch.bfloat16)
    loss = losses.aux_k(torch.tensor([[2.0, 0.0]]), pre, torch.tensor([True, False]), 1, weight)
    assert float(loss) == pytest.approx(1 / 4)


def test_non_negative_contrastive_loss_by_hand():
    codes = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]])
    # Products: 2 with itself and 1 with the other; 5 and 1.
    expected = -(math.log(1 / (1 + math.exp(-1))) + math.log(1 / (1 + math.exp(-4)))) / 2
    assert float(losses.info_nce(codes @ codes.T)) == pytest.approx(expected)


def test_info_nce_by_hand():
    queries = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    keys = torch.tensor([[1.0, 1.0], [0.0, 7.0], [2.0, 0.0]])
    # Cosines: 1/√2, 0, 1 of the first query; 1/√2, 1, 0 of the second.
    t, side = 0.5, math.exp(math.sqrt(0.5) / 0.5)
    both = side + 1 + math.exp(1 / t)
    plain = losses.info_nce(cosines(queries, keys) / t)
    assert float(plain) == pytest.approx(
        -(math.log(side / both) + math.log(math.exp(2) / both)) / 2
    )
    chosen = losses.info_nce(cosines(queries, keys) / t, positives=torch.tensor([2, 1]))
    assert float(chosen) == pytest.approx(-math.log(math.exp(2) / both))
    ignored = torch.tensor([[False, True, False], [True, False, False]])
    less = losses.info_nce(cosines(queries, keys) / t, torch.tensor([2, 1]), ignored)
    first = -math.log(math.exp(2) / (math.exp(2) + side))
    second = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert float(less) == pytest.approx((first + second) / 2)


def test_info_nce_is_finite_for_a_code_of_zeros():
    queries = torch.zeros(2, 3, requires_grad=True)
    loss = losses.info_nce(cosines(queries, torch.eye(2, 3)) / 0.05)
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.backward()
    assert torch.isfinite(queries.grad).all()


def test_supervised_contrastive_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.0, 4.0], [2.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([7, 7, 7, 3])  # the last has no positive
    side, near = math.exp(math.sqrt(0.5)), math.e
    first = (math.log(1 / (1 + near + side)) + math.log(near / (1 + near + side))) / 2
    second = math.log(1 / (2 + side))
    expected = -(first + second + first) / 3
    assert float(
        losses.supervised_contrastive(cosines(rows, rows), labels, labels, 1.0)
    ) == pytest.approx(expected)


def test_supervised_contrastive_leaves_unknown_classes_without_positives():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    unknown = torch.tensor([-1, -1, -1])
    loss = losses.supervised_contrastive(cosines(rows, rows), unknown, unknown, 0.1)
    assert float(loss.detach()) == 0
    loss.backward()
    assert rows.grad.abs().max() == 0
    # Unknown rows are still negatives of the others.
    labels = torch.tensor([5, -1, 5])
    known = losses.supervised_contrastive(cosines(rows, rows), labels, labels, 1.0)
    assert float(known.detach()) == pytest.approx(-math.log(math.e / (1 + math.e)))


def test_supervised_contrastive_of_a_part_whose_own_rows_stand_elsewhere():
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(6, 4, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    whole = losses.supervised_contrastive(cosines(rows, rows), labels, labels, 0.2)
    parts = [
        losses.supervised_contrastive(
            cosines(rows[own], rows), labels[own], labels, 0.2, own=torch.tensor(own)
        )
        for own in ([0, 1, 2], [3, 4, 5])
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_distillation_is_the_divergence_that_scipy_gives(rng):
    student, teacher = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    found = losses.similarity_distillation(
        torch.tensor(student) / 0.5, torch.tensor(teacher) / 0.25
    )
    p, q = softmax(teacher / 0.25, axis=1), softmax(student / 0.5, axis=1)
    assert float(found) == pytest.approx(rel_entr(p, q).sum(axis=1).mean())


def test_distillation_that_excludes_the_items_equals_one_without_their_columns(rng):
    student = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    teacher = torch.tensor(rng.normal(size=(3, 4)), requires_grad=True)
    own = torch.tensor([0, 3, 2])
    itself = F.one_hot(own, 4).bool()
    found = losses.similarity_distillation(student, teacher, own)
    shorter = [x.detach()[~itself].reshape(3, 3) for x in (student, teacher)]
    torch.testing.assert_close(found.detach(), losses.similarity_distillation(*shorter))
    found.backward()
    assert teacher.grad is None  # the dense side is the target
    assert torch.isfinite(student.grad).all()
    assert student.grad[itself].abs().max() == 0


def test_distillation_of_equals_is_zero(rng):
    same = torch.tensor(rng.normal(size=(3, 4)))
    assert float(losses.similarity_distillation(same, same)) == pytest.approx(0, abs=1e-12)


class PairModel(torch.nn.Module):
    """Returns the embeddings that it is given, in the form that CoSENTLoss expects."""

    def forward(self, features):
        return features


def test_ordered_pairs_gives_the_numbers_of_cosent_loss(rng):
    one, two = (torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float32) for _ in range(2))
    scores = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0, 1.0])
    model = SentenceTransformer(modules=[PairModel()], device="cpu")
    features = [{"sentence_embedding": x} for x in (one, two)]
    expected = CoSENTLoss(model, scale=20.0)(features, scores)
    found = losses.ordered_pairs(F.cosine_similarity(one, two), scores, 1 / 20)
    torch.testing.assert_close(found, expected)


def test_ordered_pairs_by_hand():
    similarities = torch.tensor([0.2, 0.6, 0.9])
    scores = torch.tensor([1.0, 0.0, 0.0])  # the best pair is the least similar
    expected = math.log(1 + math.exp((0.6 - 0.2) / 0.5) + math.exp((0.9 - 0.2) / 0.5))
    assert float(losses.ordered_pairs(similarities, scores, 0.5)) == pytest.approx(expected)
    tied = losses.ordered_pairs(similarities, torch.ones(3), 0.5)
    assert float(tied) == 0


def test_losses_do_not_change_their_arguments(rng):
    values, indices = random_codes()
    pre = torch.tensor(rng.normal(size=(5, 12)))
    weight, bias = torch.tensor(rng.normal(size=(12, 4))), torch.zeros(4, dtype=torch.float64)
    residual = torch.tensor(rng.normal(size=(5, 4)))
    before = [x.clone() for x in (values, pre, weight, bias, residual)]
    losses.nested_errors(residual, values, indices, weight, bias, (2, 4))
    losses.aux_k(residual, pre, torch.arange(12) % 2 == 0, 3, weight)
    losses.similarity_distillation(pre, pre, torch.arange(5))
    losses.info_nce(pre @ pre.T, ignored=torch.eye(5, 5).roll(1, 0).bool())
    for one, other in zip((values, pre, weight, bias, residual), before, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
