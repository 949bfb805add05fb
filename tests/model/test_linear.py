"""The centred product against what autograd makes of its definition."""

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
def test_gradients_are_those_of_finite_differences(rows):
    assert torch.autograd.gradcheck(centred_linear, given(rows=rows))


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
