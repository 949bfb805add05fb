"""What the processes of one run share in a step: rows with gradients, sizes, maxima, spread."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; 0 and 1 without torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def relative(size: Tensor) -> Tensor:
    """``size`` over its mean among processes, without gradient; 1 on one process.

    A loss relative to the size of this process's part becomes, times this, one whose mean over
    processes is relative to the size of the whole batch.
    """
    world = rank_and_world()[1]
    if world == 1:
        return torch.ones_like(size)
    total = size.clone()
    torch.distributed.all_reduce(total)
    return size * world / total.clamp_min(1e-12)


def highest(pre: Tensor) -> Tensor:
    """(h,) each latent's highest activation over all processes."""
    peaks = pre.detach().amax(dim=0)
    if rank_and_world()[1] > 1:
        torch.distributed.all_reduce(peaks, torch.distributed.ReduceOp.MAX)
    return peaks


def deviation(similarities: Tensor, own: Tensor) -> Tensor:
    """Standard deviation of items' similarities to others, over all processes.

    Args:
        similarities: (b, n) of this process's items and all keys; every process has as many.
        own: (b,) the key that is the item itself, which does not count.

    Returns:
        Scalar, 0 where there are no others.
    """
    b, n = similarities.shape
    count = b * (n - 1)
    if not count:
        return similarities.new_zeros(())
    itself, similarities = own[:, None], similarities.detach().float()
    mean = (similarities.sum() - similarities.gather(1, itself).sum()) / count
    # About the mean: of cosines that are all near 1, squares would keep no digit of the spread.
    apart = (similarities - mean).scatter_(1, itself, 0)
    variance = torch.linalg.vector_norm(apart).square() / count
    parts = gather(torch.stack((variance, mean))[None])[0]
    return (parts[:, 0].mean() + parts[:, 1].var(correction=0)).sqrt()


def gather(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every process's rows in order of rank, with gradients, and where this process's stand."""
    rank, world = rank_and_world()
    own = torch.arange(len(rows), device=rows.device) + rank * len(rows)
    if world == 1:
        return rows, own
    gathered: Tensor = _AllRows.apply(rows.contiguous())  # type: ignore[no-untyped-call] # torch's
    return gathered, own


class _AllRows(torch.autograd.Function):
    """Equal numbers of rows of every process; a row's gradient is the sum of every process's.

    torch.distributed.nn.functional.all_gather does the same, but torch now warns against it.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.mine = len(rows)
        parts = [torch.empty_like(rows) for _ in range(rank_and_world()[1])]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        first = rank_and_world()[0] * ctx.mine
        return total[first : first + ctx.mine]
