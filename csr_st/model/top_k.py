"""The k largest of each row, exactly, at less than torch's price on a processor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FEW_THREADS = 2  # on which NumPy's sorts, by vector instructions but on one thread, are faster


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """What ``x.topk(k)`` gives over the last dimension, up to the order of equal entries.

    torch's CPU kernel moves every entry of a row about, which takes longer than the product that
    made them. Here entries are first joined in groups by their largest, a pass that runs at the
    speed of memory: the k largest entries lie in the k groups with the largest ones, and only those
    are sorted. A GPU's own kernel needs no such help.

    Args:
        x: (..., n), with or without a gradient.
        k: At most n.

    Returns:
        (..., k) values, falling, with gradient, and int64 positions.
    """
    n = x.shape[-1]
    size = group_size(n, k) if x.device.type == "cpu" else 1
    if size == 1:
        return x.topk(k)
    with torch.no_grad():
        # Entry i is in group i mod (n / size), so that joining reads memory in order.
        groups = n // size
        highest = x.reshape(*x.shape[:-1], size, groups).amax(dim=-2)
        kept = _largest(highest, k)
        places = (kept[..., None, :] + torch.arange(0, n, groups)[:, None]).flatten(-2)
        candidates = x.gather(-1, places)
        best = _largest(candidates, k)
        order = _falling(candidates.gather(-1, best))
        positions = places.gather(-1, best.gather(-1, order))
    return x.gather(-1, positions), positions


def _largest(x: Tensor, k: int) -> Tensor:
    """Positions of the k largest of each row of a CPU tensor, in any order."""
    if not _on_few_threads(x):
        return x.topk(k, sorted=False).indices
    n = x.shape[-1]
    entries = x.numpy().reshape(-1, n)
    # To sort the entries and see which reach the k-th is faster than to select their positions.
    bound = np.sort(entries)[:, n - k, None]
    reached = np.flatnonzero(entries >= bound)
    if len(reached) == len(entries) * k:
        places = reached.reshape(-1, k) - n * np.arange(len(entries))[:, None]
    else:  # some are equal
        places = np.argpartition(entries, n - k)[:, n - k :]
    return torch.from_numpy(places).view(*x.shape[:-1], k)


def _on_few_threads(x: Tensor) -> bool:
    """Whether to give a tensor to NumPy, which knows no graph that is being compiled."""
    plain = x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()
    return plain and x.device.type == "cpu" and torch.get_num_threads() <= FEW_THREADS


def _falling(x: Tensor) -> Tensor:
    """Positions of each row's entries, the largest first."""
    if not _on_few_threads(x):
        return x.argsort(dim=-1, descending=True)
    return torch.from_numpy(np.argsort(-x.numpy(), axis=-1))


def group_size(n: int, k: int) -> int:
    """Entries a group: a power of two near √(n / k), where both passes are about as long."""
    size = 1
    while n % (2 * size) == 0 and (2 * size) ** 2 * k <= 2 * n and size < 16:
        size *= 2
    return size
