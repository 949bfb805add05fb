"""Products with matrices that are nearly all zero, at less than torch's price on a processor.

What a head selects is sparse, so the gradients of its weights are products with sparse matrices,
which SciPy computes on one thread in a fraction of the time that torch's own gradients take there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable

from csr_st.threads import few_threads

DENSER = 8  # times as many products that a dense matrix makes in the time of a sparse one


def weighted_sums(table: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """What ``F.embedding_bag(indices, table, offsets, mode="sum")`` gives with these weights.

    Args:
        table: (h, d).
        indices: (n,) rows of the table.
        weights: (n,) what each is multiplied by.
        offsets: (b,) where in ``indices`` each sum begins.

    Returns:
        (b, d), with gradient to the table and the weights.
    """

    def sums(rows: Tensor) -> Tensor:
        return F.embedding_bag(indices, rows, offsets, per_sample_weights=weights, mode="sum")

    if not few_threads(table):
        return sums(table)
    indices, offsets = indices.int(), offsets.int()
    found: Tensor
    found = _TableGradient.apply(  # type: ignore[no-untyped-call] # torch's
        sums(table.detach()), table, indices, weights.detach(), offsets
    )
    return found


def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """``x.T @ y`` without gradient, faster where few entries of x are not zero.

    Args:
        x: (b, h).
        y: (b, d).

    Returns:
        (h, d).
    """
    if not few_threads(x):
        return x.T @ y
    entries = x.contiguous().numpy()
    places = np.flatnonzero(entries != 0)  # of numbers themselves it takes four times as long
    if len(places) * DENSER * torch.get_num_threads() > entries.size:
        return x.T @ y
    rows = places // x.shape[1]
    columns = places - rows * x.shape[1]
    matrix = _by_column(rows.astype(np.int32), columns, entries.ravel()[places], x.shape)
    return torch.from_numpy(matrix @ y.numpy())


def _by_column(
    rows: NDArray[Any], columns: NDArray[Any], entries: NDArray[Any], shape: tuple[int, ...]
) -> csr_array:
    """The transpose of a (b, h) matrix of these entries, which come by rising rows."""
    height = shape[1]
    # NumPy sorts whole numbers of 16 bits by their digits, ten times as fast as longer ones.
    order = np.argsort(columns.astype(np.uint16) if height <= 2**16 else columns, kind="stable")
    ends = np.zeros(height + 1, np.int32)
    np.cumsum(np.bincount(columns, minlength=height), out=ends[1:])
    return csr_array((entries[order], rows[order], ends), shape=(height, shape[0]))


class _TableGradient(torch.autograd.Function):
    """The first argument as it is; its gradient goes on to it and, summed up, to the table."""

    @staticmethod
    def forward(
        ctx: Any, found: Tensor, table: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor
    ) -> Tensor:
        ctx.save_for_backward(indices, weights, offsets)
        ctx.height = len(table)
        return found.view_as(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None, None
        indices, weights, offsets = (x.numpy() for x in ctx.saved_tensors)
        lengths = np.diff(offsets, append=np.int32(len(indices)))
        bags = np.repeat(np.arange(len(offsets), dtype=np.int32), lengths)
        matrix = _by_column(bags, indices, weights, (len(offsets), ctx.height))
        return gradient, torch.from_numpy(matrix @ gradient.numpy()), None, None, None
