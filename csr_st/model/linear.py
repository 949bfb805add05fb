"""The encoder's matrix product, with a cheap gradient for the mean that inputs are centred on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def centred_linear(x: Tensor, weight: Tensor, bias: Tensor, centre: Tensor) -> Tensor:
    """W (x - centre) + bias, as ``F.linear(x - centre, weight, bias)`` computes it.

    In that form autograd multiplies the whole batch by W for the gradient of ``centre``. Here the
    gradient comes through a term that is zero, at the cost of a product of W with one vector.

    Args:
        x: (..., d).
        weight: (h, d).
        bias: (h,).
        centre: (d,).

    Returns:
        (..., h), with gradient to all four.
    """
    constant = centre.detach()
    if torch.is_grad_enabled() and centre.requires_grad:
        bias = bias - weight.detach() @ (centre - constant)
    return F.linear(x - constant, weight, bias)
