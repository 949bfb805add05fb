"""What processes that train together share."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor


def several() -> bool:
    """Whether processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, with its gradient; the tensor itself on one."""
    if not several():
        return tensor
    reduce: Any = torch.distributed.nn.functional.all_reduce
    summed: Tensor = reduce(tensor.clone())
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
