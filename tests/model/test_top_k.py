"""The grouped selection against torch's own."""

import pytest
import torch

from csr_st.model.top_k import top_k


@pytest.mark.parametrize(
    ("n", "k"),
    [(1536, 64), (1536, 2), (3072, 64), (16384, 128), (96, 96), (97, 4), (50, 1), (1, 1), (36, 3)],
)
def test_the_same_values_positions_and_gradients_as_torch(n, k):
    generator = torch.Generator().manual_seed(n + k)
    x = torch.randn(3, 5, n, generator=generator)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    values, positions = top_k(ours, k)
    expected = theirs.topk(k)
    torch.testing.assert_close(values, expected.values, rtol=0, atol=0)
    assert torch.equal(positions, expected.indices)
    weight = torch.randn(values.shape, generator=generator)
    (values * weight).sum().backward()
    (expected.values * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_equal_entries_are_each_taken_once():
    x = torch.zeros(4, 256)
    x[:, 7] = 1
    values, positions = top_k(x, 8)
    assert values[:, 0].tolist() == [1] * 4
    assert values[:, 1:].count_nonzero() == 0
    assert positions[:, 0].tolist() == [7] * 4
    assert all(len(set(row)) == 8 for row in positions.tolist())


def test_entries_that_are_minus_infinity_come_last():
    x = torch.full((2, 256), -torch.inf)
    x[:, 200:203] = torch.tensor([1.0, 3.0, 2.0])
    values, positions = top_k(x, 4)
    assert values[:, :3].tolist() == [[3, 2, 1]] * 2
    assert positions[:, :3].tolist() == [[201, 202, 200]] * 2
    assert values[:, 3].tolist() == [-torch.inf] * 2


def test_empty_batch():
    values, positions = top_k(torch.zeros(0, 256), 4)
    assert values.shape == positions.shape == (0, 4)
