"""The state of a training run in one safetensors file: whole or not at all, exact on resume."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from csr_st._io.files import atomic_path

KEEP = 2  # the last two, so that a damaged file is no lost run
_NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass
class TrainState:
    """What a run needs to go on as if it had never stopped.

    Randomness and data order are functions of seed and step, so the step stands for both.

    Attributes:
        step: Steps done.
        age: (h,) int64, vectors since each latent was last active at the trained k.
        average: Averaged weights by name; empty without averaging.
        history: A record a logged step.
        evaluations: A record a measurement of held-out vectors.
        best: The weights that measured best, by name; empty without held-out vectors.
        saved: The run's checkpoints that are kept, the oldest first; not saved itself.
    """

    step: int
    age: Tensor
    average: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    saved: list[Path] = field(default_factory=list)


def save(
    folder: Path,
    state: TrainState,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> Path:
    """Write a checkpoint into ``folder`` and drop all but the run's newest two.

    Those of an earlier run that was not resumed go with the first one, however far it had come.

    Args:
        folder: Where checkpoints of this run are.
        state: The run's state.
        module: What is trained.
        optimizer: Its optimiser.
        identity: JSON-able facts that a resuming run must share (configuration, data).

    Returns:
        The file.
    """
    tensors = {"age": state.age}
    names = {parameter: name for name, parameter in module.named_parameters()}
    for parameter, name in names.items():
        tensors[f"weight.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
    tensors.update({f"average.{name}": tensor for name, tensor in state.average.items()})
    tensors.update({f"best.{name}": tensor for name, tensor in state.best.items()})
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {
        "step": str(state.step),
        "history": json.dumps(state.history),
        "evaluations": json.dumps(state.evaluations),
        "identity": json.dumps(identity, sort_keys=True),
    }
    metadata["checksum"] = _checksum(tensors, metadata)
    path = folder / f"step-{state.step:09d}.safetensors"
    with atomic_path(path) as part:
        save_file(tensors, part, metadata)
    state.saved = [*state.saved, path][-KEEP:]
    for old in set(_found(folder)).difference(state.saved):
        old.unlink()
    return path


def load_newest(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> TrainState | None:
    """Put the newest checkpoint into ``module`` and ``optimizer``.

    Args:
        folder: Where checkpoints of this run are.
        module: What is trained.
        optimizer: Its optimiser.
        identity: The facts of the present run.

    Returns:
        The run's state, or None if there is no checkpoint.

    Raises:
        ValueError: If the checkpoint is of another configuration or other data, or damaged.
    """
    found = _found(folder)
    if not found:
        return None
    path = found[-1]
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
    before = _flat(json.loads(metadata["identity"]))
    now = _flat(json.loads(json.dumps(identity)))
    changed = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    if changed:
        told = "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in changed.items())
        raise ValueError(f"{path} belongs to another run: {told}; train into another folder")
    _restore(tensors, module, optimizer)
    return TrainState(
        int(metadata["step"]),
        tensors["age"],
        _group(tensors, "average."),
        json.loads(metadata["history"]),
        json.loads(metadata["evaluations"]),
        _group(tensors, "best."),
        found,
    )


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(metadata):
        state.update(f"{name} {metadata[name]}".encode())
    for name in sorted(tensors):
        state.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        state.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    """Facts by name, those of groups one by one, so that an error names no more than changed."""
    flat: dict[str, Any] = {}
    for name, value in identity.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def _restore(
    tensors: dict[str, Tensor], module: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(tensors[f"weight.{name}"])
        for key in ("step", "exp_avg", "exp_avg_sq"):
            value = tensors.get(f"optimizer.{key}.{name}")
            if value is not None:
                place = value if key == "step" and not _fused(optimizer) else value.to(parameter)
                optimizer.state[parameter][key] = place


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.defaults.get("fused"))


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name))
