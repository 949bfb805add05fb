"""Products with sparse matrices, against dense ones."""

import pytest
import torch

from csr_st.sparse_products import transposed_product, weighted_sums


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def threads(request):
    """Few threads go through SciPy, more through torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def made(h, dtype=torch.float64):
    """Sums of 3, 0 and 4 rows of a table, one of them twice."""
    generator = torch.Generator().manual_seed(0)
    indices = torch.tensor([0, h - 1, 2, 2, 1, 2, h - 1])
    weights = torch.rand(7, generator=generator, dtype=dtype)
    table = torch.randn(h, 5, generator=generator, dtype=dtype)
    return table.requires_grad_(), indices, weights.requires_grad_(), torch.tensor([0, 3, 3])


@pytest.mark.parametrize("h", [4, 2**16 + 1])  # beyond 16 bits latents are sorted otherwise
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weighted_sums_are_a_dense_product(threads, h, dtype):
    table, indices, weights, offsets = made(h, dtype)
    found = weighted_sums(table, indices, weights, offsets)
    bags = torch.tensor([0, 0, 0, 2, 2, 2, 2])
    mine = [x.detach().clone().requires_grad_() for x in (table, weights)]
    dense = torch.zeros(3, h, dtype=dtype).index_put((bags, indices), mine[1], accumulate=True)
    expected = dense @ mine[0]
    torch.testing.assert_close(found, expected)
    for sums in (found, expected):
        (sums * torch.arange(15).view(3, 5)).sum().backward()
    torch.testing.assert_close(table.grad, mine[0].grad)
    torch.testing.assert_close(weights.grad, mine[1].grad)


@pytest.mark.parametrize("frozen", [0, 2])
def test_a_frozen_argument_of_weighted_sums_gets_no_gradient(frozen):
    arguments = list(made(4))
    arguments[frozen] = arguments[frozen].detach()
    weighted_sums(*arguments).sum().backward()
    assert arguments[frozen].grad is None
    assert arguments[2 - frozen].grad is not None


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_transposed_products_are_those_of_dense_matrices(threads, share, dtype):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 50, generator=generator), torch.randn(40, 6, generator=generator)
    x = (x * (torch.rand(40, 50, generator=generator) < share)).to(dtype)
    found = transposed_product(x, y.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), x.double().T @ y.to(dtype).double(), **NEAR[dtype])


NEAR = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 0.1},
}


@pytest.mark.parametrize("transposed", [False, True])
def test_transposed_products_take_any_layout_in_memory(transposed):
    x = torch.zeros(20, 30).T if transposed else torch.zeros(30, 20)
    x[3, 4], x[20, 0] = 2.0, -1.0
    y = torch.randn(6, 30, generator=torch.Generator().manual_seed(0)).T
    torch.testing.assert_close(transposed_product(x, y), x.T @ y)
