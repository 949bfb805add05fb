"""What a run of training begins with: settings fitted to the data, scale, head, optimiser."""

from __future__ import annotations

import dataclasses
import math
import warnings

import torch
from torch import Tensor

from csr_st.config import EPOCHS, FLOOR, MAX_STEPS, MIN_STEPS, TrainConfig
from csr_st.head import SparseCSRHead
from csr_st.training.objective import Objective


def fill_in(config: TrainConfig, n: int, dim: int, processes: int = 1) -> TrainConfig:
    """The configuration with hidden_dim, batch size, steps and fvu_floor fitted to the data.

    Args:
        config: Settings.
        n: Number of vectors.
        dim: Their width.
        processes: Processes that share a batch.

    Raises:
        ValueError: If n is below 2, or a batch cannot be shared evenly.
    """
    if n < 2:
        raise ValueError(f"{n} vectors cannot be trained on; give at least 2, better 1,000")
    # Latents are free of charge in a stored code, but each needs vectors to learn from.
    hidden_dim = config.hidden_dim or (8 * dim if n >= 8 * dim else 4 * dim)
    if n < hidden_dim:
        warnings.warn(
            f"{n:,} vectors are few for hidden_dim={hidden_dim:,}: some latents will fit single "
            f"vectors; give more data or hidden_dim={max(config.k, n // 4):,}",
            stacklevel=3,
        )
    parts = processes * config.accumulate
    batch_size = min(config.batch_size, n - n % parts)
    if batch_size < parts or batch_size % parts:
        raise ValueError(
            f"batch_size={batch_size} is that of all {processes} processes together, in "
            f"accumulate={config.accumulate} parts each, and must be a multiple of {parts}"
        )
    steps = config.steps
    if steps is None:
        steps = min(max(MIN_STEPS, math.ceil(EPOCHS * n / batch_size)), MAX_STEPS)
    # The more latents there are to a vector, the sooner it is learnt by heart.
    floor = FLOOR * hidden_dim / n if config.fvu_floor is None else config.fvu_floor
    return dataclasses.replace(
        config,
        fvu_floor=floor,
        hidden_dim=hidden_dim,
        k=min(config.k, hidden_dim),
        batch_size=batch_size,
        steps=steps,
    )


def rate_at(config: TrainConfig, step: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then a half cosine or nothing."""
    steps = config.steps or 1
    rise = max(1, round(config.warmup * steps))
    if step < rise:
        return (step + 1) / rise if config.warmup else 1.0
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def scale_of(config: TrainConfig, sample: Tensor) -> float:
    """What vectors are divided by: their mean norm, which is 1 for models that normalise."""
    if config.recipe != "nested":
        return 1.0  # the paper's loss is of raw vectors
    norm = float(sample.norm(dim=1).mean())
    return 1.0 if norm == 0 or abs(norm - 1) < 1e-3 else norm


def variance_of(sample: Tensor) -> float:
    """Mean squared distance from the mean; not below what fp16 rounding of equal rows gives."""
    variance = (sample - sample.mean(dim=0)).square().sum(dim=1).mean()
    return max(float(variance), 1e-6 * float(sample.square().sum(dim=1).mean()), 1e-30)


def new_head(config: TrainConfig, dim: int, mean: Tensor) -> SparseCSRHead:
    """An untrained head for a configuration that is filled in, centred on the data's mean (d,)."""
    head = SparseCSRHead(dim, config.hidden_dim, config.k, tied=config.tied, power=config.power)
    head.reset_parameters(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        head.pre_bias.copy_(mean)
    return head


def keep_freed_memory() -> None:
    """Have what a step frees used again by the next, where the C library is glibc.

    Else it returns freed memory to the system, and a step waits for the same pages once more:
    about 7% of its time at width 384. Freeing one block of nearly 32 MB, the most that counts, is
    how glibc learns to keep up to twice as much (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def new_optimizer(
    config: TrainConfig, objective: Objective, device: torch.device
) -> torch.optim.Optimizer:
    """Adam as the recipe has it; the learning rate is set at each step."""
    kind = torch.optim.AdamW if config.recipe == "nested" else torch.optim.Adam
    return kind(
        objective.parameters(),
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
