"""The trainer's callback: passes steps to the loss, and saves and restores the loss's state."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize_tensors
from torch import Tensor
from transformers import TrainerCallback, TrainerState
from transformers import TrainingArguments as Arguments

from csr_st._io.files import write_atomically
from csr_st.finetune.loss import CSRLoss
from csr_st.processes import leave_at_exit, mean
from csr_st.training.checkpoint import current_names

logger = logging.getLogger(__name__)
STATE_NAME = "csr_loss.safetensors"


class CSRCallback(TrainerCallback):
    """Passes step and number of steps to a `CSRLoss`, and restores its state in a resumed run.

    Checkpoints of the trainer contain the model; this adds a file with the latents' ages, the
    data's variance and the loss's own parameters, and reads it when the trainer resumes from
    ``output_dir``. Logs also show ``dead_fraction`` and, where k anneals, ``k``. Where several
    processes train together it averages the gradients of the loss's own parameters.

    Args:
        loss: The loss that the trainer has.
    """

    def __init__(self, loss: CSRLoss) -> None:
        self.loss = loss

    def on_train_begin(self, args: Arguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Pass the number of steps to the loss; when a run resumes, restore the loss's state."""
        leave_at_exit()
        self.loss.plan(state.max_steps * args.gradient_accumulation_steps)
        if state.global_step:
            self._restore(_checkpoint(args, state) / STATE_NAME)

    def on_step_begin(self, args: Arguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Pass the number of batches before this step to the loss."""
        self.loss.step = state.global_step * args.gradient_accumulation_steps

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Average gradients that the model's data-parallel wrapper does not."""
        for parameter in self.loss.own_parameters().values():
            if parameter.grad is not None:
                parameter.grad.copy_(mean(parameter.grad))

    def on_save(self, args: Arguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Save the loss's state in the model's checkpoint."""
        folder = _checkpoint(args, state)
        if state.is_world_process_zero and folder.is_dir():
            tensors = {name: tensor.cpu() for name, tensor in self._state().items()}
            write_atomically(folder / STATE_NAME, serialize_tensors(tensors))

    def on_log(self, args: Arguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Add the fraction of dead latents, and k where it anneals, to a record of training."""
        del args
        record = state.log_history[-1] if state.log_history else {}
        if "loss" not in record:
            return
        loss = self.loss
        dead = loss.age >= loss.config.dead_after_examples
        record["dead_fraction"] = round(float(dead.float().mean()), 4)
        if loss.config.anneals_k:
            record["k"] = loss.objective.config.k_at(max(loss.step - 1, 0))

    def _state(self) -> dict[str, Tensor]:
        buffers = dict(self.loss.named_buffers(recurse=False))
        own = {name: tensor.detach() for name, tensor in self.loss.own_parameters().items()}
        return {**buffers, **own}

    def _restore(self, path: Path) -> None:
        state = self._state()
        try:
            found = current_names(load_file(path))
            fitting = {name: found[name].reshape(tensor.shape) for name, tensor in state.items()}
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            logger.warning(
                "%s cannot be read (%s): latents' ages start from zero again", path, error
            )
            return
        for name, tensor in state.items():
            tensor.copy_(fitting[name])


def _checkpoint(args: Arguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
