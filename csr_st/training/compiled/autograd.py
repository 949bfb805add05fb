"""The fast path of a training step on the CPU: compiled loops as operations with gradients.

`csr_st.training.losses` and `csr_st.training.noisy_views` state the same operations in torch, which
is the reference. torch writes dense gradients of codes that are nearly all zero; the loops visit
active latents only. Callers ask `csr_st.training.compiled.dispatch.takes` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from csr_st.training.compiled.dispatch import in_parts

Array = NDArray[Any]


def activations(
    pre: Tensor,
    parameters: tuple[Tensor, Tensor, Tensor],
    *wanted: tuple[Tensor, tuple[Tensor, ...], int],
) -> list[tuple[Tensor, Tensor]]:
    """The k largest activations ReLU(W (x - centre) + bias) of each row, and their latents.

    Args:
        pre: (b, h) W (v - centre) + bias of the batch v, without gradient.
        parameters: (h, d) weight, (h,) bias and (d,) centre, which get the gradient.
        wanted: Of each set of x: (m, d) x, without gradient; (m,) rows, (m,) plus, (m,) minus and
            (m,) sizes such that x = v[rows] + sizes (v[plus] - v[minus]); and k.

    Returns:
        Of each set, (m, k) values, falling, and (m, k) int64 latents.
    """
    from csr_st.training.compiled import loops

    given: list[Tensor] = []
    for x, noise, k in wanted:
        values = pre.new_zeros(len(x), k)
        latents = pre.new_zeros(len(x), k, dtype=torch.int64)
        arrays = (_array(part) for part in noise)
        in_parts(loops.top_rows, len(x), _array(pre), *arrays, k, latents.numpy(), values.numpy())
        given += [x, latents, values]
    found = _Activations.apply(*parameters, *given)  # type: ignore[no-untyped-call] # torch's
    return list(zip(found, given[1::3], strict=True))


def prefix_sums(
    start: Tensor, values: Tensor, latents: Tensor, table: Tensor, ks: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """What `csr_st.training.losses.prefix_sums` gives.

    Raises:
        IndexError: If a latent is not within 0..h - 1.
        ValueError: If shapes do not fit each other.
    """
    (b, d), k = start.shape, ks[-1]
    if values.shape != (b, k) or latents.shape != (b, k) or table.shape[1] != d:
        raise ValueError(
            f"start {tuple(start.shape)}, values {tuple(values.shape)}, latents "
            f"{tuple(latents.shape)}, table {tuple(table.shape)} and ks={tuple(ks)} do not fit"
        )
    if latents.numel():  # the loops would read and write beyond an array
        least, most = map(int, latents.aminmax())
        if least < 0 or most >= len(table):
            raise IndexError(f"latents {least}..{most} are not within 0..{len(table) - 1}")
    sums: Tensor
    sums, squares = _PrefixSums.apply(start, values, latents, table, np.array(ks))  # type: ignore[no-untyped-call] # torch's
    return sums, squares


def _array(x: Tensor) -> Array:
    """Always of one layout, as the loops are compiled for each that they are given."""
    found: Array = x.detach().contiguous().numpy()
    return found


class _Activations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor,  # noqa: ARG004 - gradients are returned by position
        centre: Tensor,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        moved = [x - centre for x in given[::3]]
        ctx.save_for_backward(weight, *moved, *given)
        return tuple(values.view_as(values) for values in given[2::3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from csr_st.training.compiled import loops

        weight, *saved = ctx.saved_tensors
        h, count = len(weight), len(gradients)
        of_weight, of_bias = torch.zeros_like(weight), weight.new_zeros(h)
        moved, latents, values = saved[:count], saved[count + 1 :: 3], saved[count + 2 :: 3]
        for x, at, active, gradient in zip(moved, latents, values, gradients, strict=True):
            of_active = gradient * (active > 0)
            of_bias.index_add_(0, at.flatten(), of_active.flatten())
            starts, rows, _, weights = loops.by_latent(_array(at), _array(of_active), h)
            in_parts(loops.add_by_latent, h, starts, rows, weights, _array(x), of_weight.numpy())
        rest = [None] * (3 * count)
        return of_weight, of_bias, -torch.mv(weight.T, of_bias), *rest


class _PrefixSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, start: Tensor, values: Tensor, latents: Tensor, table: Tensor, ks: Array
    ) -> tuple[Tensor, Tensor]:
        from csr_st.training.compiled import loops

        sums = start.new_empty(len(ks), *start.shape)
        squares = start.new_empty(len(start), len(ks))
        in_parts(
            loops.prefix_sums, len(start), _array(start), _array(values), _array(latents),
            _array(table), ks, sums.numpy(), squares.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(values, latents, table, sums)
        ctx.ks = ks
        ctx.set_materialize_grads(False)  # zeros as many as the sums
        return sums, squares.sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        from csr_st.training.compiled import loops

        values, latents, table, sums = ctx.saved_tensors
        of_sums, of_squares = gradients
        factors = sums.new_zeros(len(sums)) if of_squares is None else 2 * of_squares
        # Fresh memory costs more than the sums: where these have no gradient, theirs is reused.
        gradient = sums if of_sums is None else torch.empty_like(sums)
        later = sums.new_zeros(())
        for i in reversed(range(len(sums))):  # each latent is in the sums of all later prefixes
            own = later if of_sums is None else later + of_sums[i]
            later = torch.addcmul(own, sums[i], factors[i], out=gradient[i])
        of_values, of_table = torch.empty_like(values), torch.empty_like(table)
        stretches = np.searchsorted(ctx.ks, np.arange(values.shape[1]), side="right")
        entries = loops.by_latent(_array(latents), _array(values), len(table))
        in_parts(
            loops.prefix_gradients, len(table), gradient.numpy(), stretches, _array(table),
            *entries, of_values.numpy(), of_table.numpy(),
        )  # fmt: skip
        return gradient[0], of_values, None, of_table, None
