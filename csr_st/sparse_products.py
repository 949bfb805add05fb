"""Products with matrices that are nearly all zero, at less than torch's price on a processor.

What a head selects is sparse, so the gradients of its weights are products with sparse matrices.
Each is a weighted sum of few rows once its entries are sorted by latent; torch's own gradients of
`embedding_bag` and `gather` go another way, which takes several times as long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from torch import Tensor
from torch.autograd.function import once_differentiable

from csr_st.threads import few_threads

DENSER = 6  # times as many products that a dense matrix makes in the time of a sparse one


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
    found: Tensor
    found = _TableGradient.apply(  # type: ignore[no-untyped-call] # torch's
        sums(table.detach()), table, indices, weights.detach(), offsets
    )
    return found


def picked(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``x[rows, columns]``, whose gradient in x is a sparse tensor on a processor's few threads.

    Only for an x that an operation made which takes such a gradient, as `csr_st.centred` does.

    Args:
        x: (b, h).
        rows: (n,).
        columns: (n,).

    Returns:
        (n,).
    """
    places = rows * x.shape[1] + columns
    if not few_threads(x):
        return x.reshape(-1).gather(0, places)
    found: Tensor = _Picked.apply(x, places, rows, columns)  # type: ignore[no-untyped-call] # torch's
    return found


def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """``x.T @ y`` without gradient.

    Args:
        x: (b, h), dense or sparse.
        y: (b, d).

    Returns:
        (h, d), dense.
    """
    if not x.is_sparse or x._nnz() * DENSER > x.numel():
        return densified(x).T @ y
    (rows, columns), entries = x._indices(), x._values()
    return _sums_by_column(rows, columns, entries, y, x.shape[1])


def column_sums(x: Tensor) -> Tensor:
    """``x.sum(dim=0)`` of a (b, h) matrix, dense or sparse: (h,), dense, without gradient."""
    if not x.is_sparse:
        return x.sum(dim=0)
    (_, columns), entries = x._indices(), x._values()
    return entries.new_zeros(x.shape[1]).index_add_(0, columns, entries)


def densified(x: Tensor) -> Tensor:
    """A (b, h) matrix as a dense one; torch's own way adds up a sparse one's entries slowly."""
    if not x.is_sparse:
        return x
    (rows, columns), entries = x._indices(), x._values()
    places = rows * x.shape[1] + columns
    return entries.new_zeros(x.numel()).index_add_(0, places, entries).view(x.shape)


def _sums_by_column(
    rows: Tensor, columns: Tensor, entries: Tensor, y: Tensor, width: int
) -> Tensor:
    """(width, d) product of the transpose of a (b, width) matrix of these entries with y (b, d)."""
    transposed = (entries.numpy(), (columns.int().numpy(), rows.int().numpy()))
    matrix = coo_array(transposed, shape=(width, len(y)))
    matrix.has_canonical_format = True  # else entries of one place would be searched for and added
    matrix = matrix.tocsr()
    weights, bags, ends = (
        torch.from_numpy(x) for x in (matrix.data, matrix.indices, matrix.indptr)
    )
    return F.embedding_bag(
        bags, y, ends, per_sample_weights=weights, mode="sum", include_last_offset=True
    )


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
        indices, weights, offsets = ctx.saved_tensors
        lengths = offsets.diff(append=offsets.new_tensor([len(indices)]))
        bags = torch.arange(len(offsets)).repeat_interleave(lengths)
        table = _sums_by_column(bags, indices, weights, gradient, ctx.height)
        return gradient, table, None, None, None


class _Picked(torch.autograd.Function):
    """Entries of a matrix; their gradient is a sparse matrix in place of one full of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns)
        ctx.shape = x.shape
        return x.reshape(-1).gather(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        at = torch.stack(ctx.saved_tensors)
        gradient = torch.sparse_coo_tensor(at, gradients[0], ctx.shape, check_invariants=False)
        return gradient, None, None, None
