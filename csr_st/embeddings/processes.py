"""One process or several that embed a store together."""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from csr_st._files import write_atomically

POLL_SECONDS = 0.1
# What torchrun (and so accelerate launch) and the MPI launchers set
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


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
        """Forget the marks of an earlier run."""
        for mark in directory.glob(".ended-*.json"):
            mark.unlink(missing_ok=True)

    def another_failed(self, directory: Path) -> bool:
        """Whether a process of this run ended with an error, so that the rest is in vain."""
        return self.world > 1 and any(directory.glob(".ended-*-failed.json"))

    def wait_for_all(self, directory: Path, error: Exception | None) -> None:
        """Wait until every process came here, for days if need be.

        A collective gives up after minutes; one process may have hours more to embed than
        another. So each leaves a mark in the store, and looks for those of the others.
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
    import torch
    from accelerate import PartialState

    # PartialState joins processes on the CPU only when told to, and reads no environment for it.
    devices = getattr(torch, "accelerator", torch.cuda)  # torch < 2.6 has no torch.accelerator
    forced = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    state = PartialState(cpu=forced or not devices.is_available())
    leave_at_exit()
    return Processes(state.process_index, state.num_processes, str(state.device))


@functools.cache
def leave_at_exit() -> None:
    """Have this process leave the others before Python shuts down, where they meet by gloo.

    Threads of gloo let go of the tensors of the last collective when they come to it. If Python is
    shutting down by then, a process that did all its work aborts, and its launcher calls the run
    failed (https://github.com/pytorch/pytorch/issues/190489).
    """
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as group

    # NCCL has no such threads, and could wait for the others.
    if group.is_available() and group.is_initialized() and group.get_backend() == "gloo":
        gc.collect()  # a data-parallel wrapper holds the group, and these tensors, in a circle
        group.destroy_process_group()
