"""Functions of a run on several processes: ranks, gathered rows, sums, maxima and waiting."""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from csr_st._io.files import write_atomically

POLL_SECONDS = 0.1
# What torchrun (and so accelerate launch) and the MPI launchers set
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and how many there are; 0 and 1 without torch.distributed."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def total(tensor: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    return _reduced(tensor, "SUM")


def maximum(tensor: Tensor) -> Tensor:
    """The largest of each entry over all processes, without gradient."""
    return _reduced(tensor, "MAX")


def mean(tensor: Tensor) -> Tensor:
    """The mean over all processes, without gradient."""
    return total(tensor) / rank_and_world()[1]


def _reduced(tensor: Tensor, operation: str) -> Tensor:
    if rank_and_world()[1] == 1:
        return tensor.detach()
    reduced = tensor.detach().clone()
    torch.distributed.all_reduce(reduced, getattr(torch.distributed.ReduceOp, operation))
    return reduced


def relative_size(size: Tensor) -> Tensor:
    """``size`` over its mean among processes, without gradient; 1 on one process.

    A loss relative to the size of this process's part becomes, times this, one whose mean over
    processes is relative to the size of the whole batch.
    """
    if rank_and_world()[1] == 1:
        return torch.ones_like(size)
    return size.detach() / mean(size).clamp_min(1e-12)


def gather(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every process's rows in order of rank, with gradients, and the places of this process's."""
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
        first = rank_and_world()[0] * ctx.mine
        return total(gradients[0].contiguous())[first : first + ctx.mine]


def check_equal_batches(n: int, device: torch.device) -> None:
    """Refuse batches of different sizes, whose rows cannot be gathered.

    Raises:
        ValueError: If another process has another number of rows.
    """
    world = rank_and_world()[1]
    if world == 1:
        return
    mine = torch.tensor([n], device=device)
    sizes = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(sizes, mine)
    found = [int(size) for size in sizes]
    if len(set(found)) > 1:
        raise ValueError(
            f"the processes have batches of {found} rows, but the loss compares all with all; set "
            "dataloader_drop_last=True in the training arguments"
        )


@dataclass(frozen=True)
class Processes:
    """This process among those that ``accelerate launch`` started.

    Attributes:
        rank: Number of this process.
        world: How many there are.
        device: Where this process computes, or None to leave it to the model.
    """

    rank: int = 0
    world: int = 1
    device: str | None = None

    def raise_together(self, error: Exception | None) -> None:
        """Raise in every process when one of them failed; all must call this.

        Raises:
            RuntimeError: If another process failed; the one that failed raises its own error.
        """
        if self.world > 1:
            from accelerate.utils import gather_object

            errors = gather_object([None if error is None else f"{type(error).__name__}: {error}"])
            for rank, message in enumerate(errors):
                if message is not None and error is None:
                    raise RuntimeError(f"process {rank} failed: {message}") from None
        if error is not None:
            raise error

    def clear_marks(self, directory: Path) -> None:
        """Remove the marks of an earlier run."""
        for mark in directory.glob(".ended-*.json"):
            mark.unlink(missing_ok=True)

    def another_failed(self, directory: Path) -> bool:
        """Whether a process of this run ended with an error, so that the others can stop."""
        return self.world > 1 and any(directory.glob(".ended-*-failed.json"))

    def wait_for_all(self, directory: Path, error: Exception | None) -> None:
        """Wait without a time limit until every process has called this.

        A collective gives up after minutes, but one process may have hours more to embed than
        another. So each writes a mark into the store and looks for those of the others.
        """
        if self.world == 1:
            return
        end = "well" if error is None else "failed"
        write_atomically(directory / f".ended-{self.rank}-{end}.json", json.dumps(str(error)))
        while len(list(directory.glob(".ended-*.json"))) < self.world:
            time.sleep(POLL_SECONDS)


def current_processes() -> Processes:
    """The processes of this launch, as accelerate sees them, or this one alone."""
    if all(int(os.environ.get(name, "1")) < 2 for name in WORLD_SIZES):
        return Processes()
    from accelerate import PartialState

    # PartialState joins processes on the CPU only with cpu=True, and reads no environment for it.
    devices = getattr(torch, "accelerator", torch.cuda)  # torch < 2.6 has no torch.accelerator
    forced = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    state = PartialState(cpu=forced or not devices.is_available())
    leave_at_exit()
    return Processes(state.process_index, state.num_processes, str(state.device))


@functools.cache
def leave_at_exit() -> None:
    """Have this process leave the group of processes before Python shuts down, where it uses gloo.

    Threads of gloo release the tensors of the last collective some time later. If Python is
    shutting down by then, a process that did all its work aborts, and its launcher calls the run
    failed (https://github.com/pytorch/pytorch/issues/190489).
    """
    atexit.register(_leave)


def _leave() -> None:
    group = torch.distributed
    # NCCL has no such threads, and could wait for the others.
    if group.is_available() and group.is_initialized() and group.get_backend() == "gloo":
        gc.collect()  # a data-parallel wrapper holds the group, and these tensors, in a cycle
        group.destroy_process_group()
