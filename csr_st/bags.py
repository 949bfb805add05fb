"""Weighted sums of a table's rows, at less than torch's price on a processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor


def weighted_sums(table: Tensor, indices: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """What ``F.embedding_bag(indices, table, offsets, mode="sum")`` gives with these weights.

    On few threads the gradient of the table, a product with a sparse matrix, is SciPy's, which
    takes about half as long as torch's.

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

    plain = table.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    if table.device.type != "cpu" or not plain or torch.get_num_threads() > 2:
        return sums(table)
    indices, offsets = indices.int(), offsets.int()
    found: Tensor
    found = _TableGradient.apply(  # type: ignore[no-untyped-call] # torch's
        sums(table.detach()), table, indices, weights.detach(), offsets
    )
    return found


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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weights, offsets = (x.numpy() for x in ctx.saved_tensors)
        gradient = gradients[0]
        # NumPy sorts whole numbers of 16 bits by their digits, ten times as fast as longer ones.
        order = np.argsort(rows.astype(np.uint16) if ctx.height <= 2**16 else rows, kind="stable")
        ends = np.zeros(ctx.height + 1, np.int32)
        np.cumsum(np.bincount(rows, minlength=ctx.height), out=ends[1:])
        lengths = np.diff(offsets, append=len(rows))
        bags = np.repeat(np.arange(len(offsets), dtype=np.int32), lengths)
        shape = (ctx.height, len(offsets))
        matrix = csr_array((weights[order], bags[order], ends), shape=shape)
        return gradient, torch.from_numpy(matrix @ gradient.numpy()), None, None, None
