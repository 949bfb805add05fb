"""The encoder's product about the data's mean, at one product's cost for its backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def centred_linear(x: Tensor, weight: Tensor, bias: Tensor, centre: Tensor) -> Tensor:
    """W (x - centre) + bias, as ``F.linear(x - centre, weight, bias)`` computes it.

    Autograd would find the gradient of ``centre`` by a second product with the whole batch. As all
    rows of x are moved alike, a product with one vector gives it.

    Args:
        x: (..., d).
        weight: (h, d).
        bias: (h,).
        centre: (d,).

    Returns:
        (..., h), with gradient to all four.
    """
    found: Tensor = _CentredLinear.apply(x, weight, bias, centre)  # type: ignore[no-untyped-call] # torch's
    return found


class _CentredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, centre: Tensor) -> Tensor:
        moved = x - centre
        ctx.save_for_backward(moved, weight)
        return F.linear(moved, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        moved, weight = ctx.saved_tensors
        kind = gradient.dtype  # under autocast the product's, not the parameters'
        rows, inputs = gradient.reshape(-1, len(weight)), moved.reshape(-1, moved.shape[-1])
        total = rows.sum(dim=0)
        return (
            (gradient @ weight.to(kind)).to(moved.dtype) if ctx.needs_input_grad[0] else None,
            (rows.T @ inputs.to(kind)).to(weight.dtype) if ctx.needs_input_grad[1] else None,
            total.to(weight.dtype) if ctx.needs_input_grad[2] else None,
            -torch.mv(weight.T, total.to(weight.dtype)) if ctx.needs_input_grad[3] else None,
        )
