"""Products with sparse matrices, against dense ones."""

import pytest
import torch

from csr_st.centred import centred_linear
from csr_st.sparse_products import (
    column_sums,
    densified,
    picked,
    transposed_product,
    weighted_sums,
)


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def threads(request):
    """Few threads take the ways of this module, more those of torch."""
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


def matrix_of(share, dtype, sparse):
    """(40, 50) of which a share is not zero; as a sparse one, some entries come in two parts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 50, generator=generator)
    x = (x * (torch.rand(40, 50, generator=generator) < share)).to(dtype)
    if not sparse:
        return x, x
    at, entries = x.nonzero().T, x[x != 0]
    at, entries = torch.cat([at, at[:, :5]], dim=1), torch.cat([entries, -2 * entries[:5]])
    order = torch.randperm(len(entries), generator=generator)
    x = torch.sparse_coo_tensor(at[:, order], entries[order], x.shape, check_invariants=True)
    return x, x.to_dense()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sparse", [False, True])
def test_products_with_a_transpose_are_those_of_dense_matrices(threads, share, dtype, sparse):
    x, dense = matrix_of(share, dtype, sparse)
    y = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = transposed_product(x, y)
    assert found.dtype == dtype
    torch.testing.assert_close(found, dense.T @ y)
    torch.testing.assert_close(column_sums(x), dense.sum(dim=0))
    torch.testing.assert_close(densified(x), dense)


@pytest.mark.parametrize("share", [0.02, 0.6])
def test_a_product_takes_any_layout_in_memory(share):
    x, dense = matrix_of(share, torch.float32, sparse=True)
    y = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).T
    torch.testing.assert_close(transposed_product(x, y), dense.T @ y)


@pytest.mark.parametrize("also", ["nothing", "more entries", "the whole"])
@pytest.mark.parametrize("learns", [False, True], ids=["frozen input", "input with gradient"])
def test_picked_entries_give_the_gradient_of_indexing(threads, also, learns):
    """Some entries twice; beside them others of the same product, or all of it."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.tensor([0, 3, 3, 1, 0]), torch.tensor([2, 0, 0, 29, 2])
    made = [torch.randn(*n, generator=generator).double() for n in ((4, 5), (30, 5), (30,), (5,))]
    gradients = []
    for pick in (picked, lambda x, rows, columns: x[rows, columns]):
        arguments = [x.clone().requires_grad_(learns or i > 0) for i, x in enumerate(made)]
        pre = centred_linear(*arguments)
        total = (pick(pre, rows, columns) * torch.arange(1, 6)).sum()
        if also == "more entries":
            total = total + pick(pre, columns % 4, rows).square().sum()
        elif also == "the whole":
            total = total + pre.square().sum()
        total.backward()
        gradients.append([x.grad for x in arguments])
    for found, expected in zip(*gradients, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)
