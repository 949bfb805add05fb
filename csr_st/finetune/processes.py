"""What processes that train together share."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor


def several() -> bool:
    """Whether processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient; the tensor itself on one."""
    if not several():
        return tensor
    summed = tensor.detach().clone()
    torch.distributed.all_reduce(summed)
    return summed


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes; the tensor itself on one."""
    return total(tensor) / torch.distributed.get_world_size() if several() else tensor


def check_equal(n: int, device: torch.device) -> None:
    """Refuse batches of unlike sizes, whose rows cannot be gathered.

    Raises:
        ValueError: If another process has another number of rows.
    """
    if not several():
        return
    mine = torch.tensor([n], device=device)
    sizes = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(sizes, mine)
    found = [int(size) for size in sizes]
    if len(set(found)) > 1:
        raise ValueError(
            f"the processes have batches of {found} rows, but the loss compares all with all; set "
            "dataloader_drop_last=True in the training arguments"
        )
