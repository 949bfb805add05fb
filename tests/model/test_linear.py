"""The centred product against its definition."""

import pytest
import torch
import torch.nn.functional as F

from csr_st.model.linear import centred_linear


def given(dtype=torch.float64, rows=(5,)):
    generator = torch.Generator().manual_seed(0)
    shapes = ((*rows, 4), (7, 4), (7,), (4,))
    made = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return [x.requires_grad_() for x in made]


def test_by_hand():
    x, weight = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    found = centred_linear(x, weight, torch.tensor([0.5, 0.0]), torch.tensor([1.0, 2.0]))
    assert found.tolist() == [[1 * 2 + 2 * -1 + 0.5, -1]]


@pytest.mark.parametrize("rows", [(5,), (2, 3), ()])
def test_value_and_gradients_equal_the_definition(rows):
    ours, theirs = given(rows=rows), given(rows=rows)
    x, weight, bias, centre = theirs
    results = centred_linear(*ours), F.linear(x - centre, weight, bias)
    assert torch.equal(*results)
    for result in results:
        result.pow(3).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_without_gradients_the_value_is_the_same():
    arguments = given()
    expected = centred_linear(*arguments)
    with torch.no_grad():
        assert torch.equal(centred_linear(*arguments), expected)


@pytest.mark.parametrize("frozen", range(4))
def test_a_frozen_argument_gets_no_gradient(frozen):
    arguments = given()
    arguments[frozen].requires_grad_(False)
    centred_linear(*arguments).square().sum().backward()
    assert [x.grad is None for x in arguments] == [i == frozen for i in range(4)]


def test_under_autocast_parameters_get_gradients_of_their_own_type():
    arguments, plain = given(torch.float32), given(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = centred_linear(*arguments)
    assert found.dtype == torch.bfloat16
    found.float().square().sum().backward()
    x, weight, bias, centre = plain
    F.linear(x - centre, weight, bias).square().sum().backward()
    for one, other in zip(arguments, plain, strict=True):
        assert one.grad.dtype == torch.float32
        torch.testing.assert_close(one.grad, other.grad, rtol=0.05, atol=0.2)
