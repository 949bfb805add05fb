"""What training reports: figures of a step, a line for the screen, and trackers."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from csr_st.config import TrainConfig
from csr_st.processes import current_processes
from csr_st.training.objective import Outcome

PROJECT = "csr-st"


def new_accelerator(log_with: Any, output: str | Path | None) -> Accelerator:
    """The processes of this launch, with the trackers in ``log_with``.

    accelerate joins processes on the CPU only on request, which `current_processes` makes. Mixed
    precision stays off: accelerate keeps it for the process's lifetime, so a second run could not
    choose another; the loop casts instead.

    Raises:
        ValueError: If a tracker is not known or not installed, or needs ``output``.
    """
    current_processes()
    names = log_with if isinstance(log_with, list | tuple) else [log_with] * (log_with is not None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no supported trackers are currently installed")
        accelerator = Accelerator(
            mixed_precision="no", log_with=list(names) or None, project_dir=output
        )
    # accelerate leaves out what is not installed without an error.
    installed = {str(getattr(found, "value", found)) for found in accelerator.log_with}
    for name in names:
        if isinstance(name, str) and name != "all" and name not in installed:
            raise ValueError(f"log_with={name!r} is not installed; pip install {name}")
    return accelerator


def start_trackers(accelerator: Accelerator, config: TrainConfig) -> None:
    """Open a run in every tracker, with the settings."""
    if accelerator.log_with:
        settings = dataclasses.asdict(config)
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in settings.items()
        }
        accelerator.init_trackers(PROJECT, config=plain)


def track(accelerator: Accelerator, figures: dict[str, Any], step: int) -> None:
    """Log figures in every tracker; groups as group/name."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat.update({f"{name}/{inner}": number for inner, number in value.items()})
        elif name != "step":
            flat[name] = value
    accelerator.log(flat, step=step)


def end_trackers(accelerator: Accelerator) -> None:
    """Close every tracker, but not the group of processes, which accelerate's own call ends too."""
    for tracker in accelerator.trackers:
        tracker.finish()


@torch.no_grad()
def record(
    step: int, rate: float, outcome: Outcome, dead: Tensor, accelerator: Accelerator
) -> dict[str, Any]:
    """Figures of the whole batch: the mean over processes, which have equal parts of it."""
    mine = torch.stack([*outcome.terms.values(), *outcome.fvu.values()]).float()
    figures = accelerator.reduce(mine, "mean").tolist()
    terms = dict(zip(outcome.terms, figures, strict=False))
    return {
        "step": step,
        "learning_rate": rate,
        "loss": sum(terms.values()),
        "terms": terms,
        "fvu": dict(zip(map(str, outcome.fvu), figures[len(terms) :], strict=True)),
        "dead_fraction": float(dead.float().mean()),
    }


def line(figures: dict[str, Any]) -> str:
    """The figures of a step, for the progress bar."""
    unexplained = " ".join(f"{k}:{value:.2f}" for k, value in figures["fvu"].items())
    return f"loss {figures['loss']:.3f}, fvu {unexplained}, dead {figures['dead_fraction']:.1%}"
