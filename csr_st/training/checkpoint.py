"""Checkpoints: the state of a run in one safetensors file, complete or absent, exact on resume."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from csr_st._io.files import atomic_path
from csr_st._io.optional import is_interrupt
from csr_st.config import ADDED, CONFIGS, REMOVED, TrainConfig
from csr_st.training.early_stopping import best_of

KEEP = 2  # the last two, so that a damaged file does not lose the run
RENAMED = ("log_sharpness", "logit_scale")  # a parameter of version 0.1, and its name of today


@dataclass
class TrainState:
    """What a run needs to continue as if it had never stopped.

    Randomness and data order are functions of seed and step, so they need no state but the step.

    Attributes:
        step: Steps done.
        age: (h,) int64, vectors since each latent was last active at the trained k.
        history: One record per logged step.
        evaluations: One record per measurement of the validation set.
        best: The weights with the lowest validation loss, by name; empty without a validation set.
        saved: The run's checkpoints that are kept, the oldest first; not saved itself.
    """

    step: int
    age: Tensor
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    saved: list[Path] = field(default_factory=list)

    @property
    def is_saved(self) -> bool:
        """Whether the newest checkpoint is of this step."""
        return bool(self.saved) and _step_of(self.saved[-1]) == self.step

    def add_evaluation(self, found: dict[str, float], head: nn.Module) -> None:
        """Record a measurement of the validation set, and the head's weights if it is the best."""
        self.evaluations.append({"step": self.step, **found})
        if best_of(self.evaluations) == len(self.evaluations) - 1:
            weights = head.named_parameters()
            self.best = {name: weight.detach().clone() for name, weight in weights}


def save(
    folder: Path,
    state: TrainState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> None:
    """Write a checkpoint into ``folder`` and delete all but the run's newest two.

    The first one deletes those of an earlier run that was not resumed, however far that had come.
    ``identity`` has the facts that a resumed run must have in common: configuration and data.

    Raises:
        OSError: If the disk is full, say; earlier checkpoints are then as they were.
    """
    tensors = {"age": state.age}
    for name, parameter in module.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "step": str(state.step),
        "history": json.dumps(state.history),
        "evaluations": json.dumps(state.evaluations),
        "identity": json.dumps(identity, sort_keys=True),
    }
    metadata["checksum"] = _checksum(tensors, metadata)
    path = folder / f"step-{state.step:09d}.safetensors"
    try:
        with atomic_path(path) as part:
            save_file(tensors, part, metadata)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        raise OSError(
            f"the checkpoint of step {state.step} ({size:.1f} MB) cannot be written to {folder} "
            f"({error}); free some space. {how_to_go_on(folder, state)}"
        ) from error
    state.saved = [*state.saved, path][-KEEP:]
    for old in set(_found(folder)).difference(state.saved):
        old.unlink()


def how_to_go_on(folder: Path | None, state: TrainState) -> str:
    """One line for a user whose run stops: from where it can be resumed, and how."""
    if folder is None:
        return "Nothing of this run is kept: it has no output folder"
    if not state.saved:
        return f"There is no checkpoint in {folder} yet: the run has to begin again"
    step = _step_of(state.saved[-1])
    return (
        f"Resume from the checkpoint of step {step} in {folder} with resume=True "
        "(csr-st train ... --resume)"
    )


@contextlib.contextmanager
def interruptible(folder: Path | None, state: TrainState) -> Iterator[None]:
    """Give an interrupt of the block a message: where the run stopped, and `how_to_go_on`."""
    try:
        yield
    except (KeyboardInterrupt, SystemError) as error:
        if not is_interrupt(error):
            raise
        message = f"stopped at step {state.step}. {how_to_go_on(folder, state)}"
        raise KeyboardInterrupt(message) from None


def load_newest(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> TrainState | None:
    """Load the newest checkpoint into ``module`` and ``optimizer``; None if there is none.

    Raises:
        ValueError: If the checkpoint is of another configuration or other data, or damaged, or was
            trained with an option that no longer exists.
    """
    paths = _found(folder)
    if not paths:
        return None
    path = paths[-1]
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.pop("checksum") != _checksum(tensors, metadata):
            raise ValueError("its bytes are not those of its checksum")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it to resume from the one before"
        ) from error
    _check_same_run(json.loads(metadata["identity"]), identity, path)
    tensors = current_names(tensors)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(tensors[f"weight.{name}"])
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optimizer.{key}.{name}")
            if value is not None:
                on_cpu = key == "step" and not optimizer.defaults.get("fused")
                optimizer.state[parameter][key] = value if on_cpu else value.to(parameter)
    return TrainState(
        step=int(metadata["step"]),
        age=tensors["age"],
        history=json.loads(metadata["history"]),
        evaluations=json.loads(metadata["evaluations"]),
        best={name[5:]: x for name, x in tensors.items() if name.startswith("best.")},
        saved=paths,
    )


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, those that version 0.1 wrote under their names of today."""
    return {name.replace(*RENAMED): tensor for name, tensor in tensors.items()}


def _check_same_run(saved: dict[str, Any], identity: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another configuration or other data.

    Version 0.1 had the settings of all recipes in each, options that are removed now, and another
    name for the validation set.

    Raises:
        ValueError: If the runs differ, or the checkpoint's used a removed option.
    """
    recipe = CONFIGS.get(saved["config"]["recipe"], TrainConfig)
    for name in saved["config"].keys() - {setting.name for setting in fields(recipe)}:
        value = saved["config"].pop(name)
        if value != REMOVED.get(name, getattr(recipe, name, value)):
            raise ValueError(
                f"{path} was trained with {name}={value!r}, an option that this csr_st no longer "
                "has; train into another folder, or resume with csr-st 0.1"
            )
    for name in identity["config"].keys() & set(ADDED):
        saved["config"].setdefault(name, identity["config"][name])
    if "held_out" in saved:
        saved["validation"] = saved.pop("held_out")
    now = json.loads(json.dumps(identity))  # tuples become lists
    before, now = ({**facts.pop("config"), **facts} for facts in (saved, now))
    pairs = {name: (before.get(name), now.get(name)) for name in sorted(before | now)}
    changes = [f"{name} was {a!r}, is {b!r}" for name, (a, b) in pairs.items() if a != b]
    if changes:
        found = "; ".join(changes)
        raise ValueError(f"{path} belongs to another run: {found}; train into another folder")


def fingerprint(module: nn.Module) -> str:
    """An identity of a module's weights."""
    return _checksum({name: x.detach().cpu() for name, x in module.named_parameters()}, {})


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(metadata):
        state.update(f"{name} {metadata[name]}".encode())
    for name in sorted(tensors):
        state.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        state.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _found(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"step-{'[0-9]' * 9}.safetensors"))
