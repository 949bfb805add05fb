"""What training starts from: settings fitted to the data, scale, head, optimiser, rate."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from csr_st.config import EPOCHS, MAX_STEPS, MIN_STEPS, TrainConfig
from csr_st.head import SparseCSRHead
from csr_st.training.objective import Objective


def fill_in(config: TrainConfig, n: int, dim: int, processes: int = 1) -> TrainConfig:
    """The configuration with hidden_dim, batch size, steps and fvu_floor fitted to n vectors.

    Raises:
        ValueError: If n is below 2, or a batch cannot be divided evenly among the processes.
    """
    if n < 2:
        raise ValueError(f"{n} vectors cannot be trained on; give at least 2, better 1,000")
    hidden_dim = _hidden_dim(config, n, dim)
    if n < hidden_dim:
        warnings.warn(
            f"{n:,} vectors are few for hidden_dim={hidden_dim:,}: some latents will fit single "
            f"vectors; give more data or hidden_dim={max(config.k, n // 4):,}",
            stacklevel=3,
        )
    batch_size = min(config.batch_size, n - n % processes)
    if batch_size < processes or batch_size % processes:
        raise ValueError(
            f"batch_size={batch_size} is that of all {processes} processes together and must be a "
            f"multiple of {processes}"
        )
    steps = config.steps
    if steps is None:
        steps = min(max(MIN_STEPS, math.ceil(EPOCHS * n / batch_size)), MAX_STEPS)
    k = min(config.k, hidden_dim)
    return config.fitted(n, hidden_dim=hidden_dim, k=k, batch_size=batch_size, steps=steps)


def _hidden_dim(config: TrainConfig, n: int, dim: int) -> int:
    """Latents for n vectors: more cost nothing in a stored code, but each needs vectors."""
    return config.hidden_dim or (8 * dim if n >= 8 * dim else 4 * dim)


def new_head(config: TrainConfig, mean: Tensor, n: int) -> SparseCSRHead:
    """An untrained head for n vectors, centred on their mean (d,)."""
    hidden_dim = _hidden_dim(config, n, len(mean))
    k = min(config.k, hidden_dim)
    head = SparseCSRHead(len(mean), hidden_dim, k, tied=config.tied, power=config.power)
    head.reset_parameters(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        head.pre_bias.copy_(mean)
    return head


def keep_freed_memory() -> None:
    """Have glibc keep up to 62 MiB of freed memory for the next step.

    By default it returns most of it to the system at each step. Freeing one block of nearly 32 MiB
    raises that limit to twice its size (mallopt(3), M_MMAP_THRESHOLD); a step at width 384 then
    takes 12 to 17% less time (tests/benchmarks/training.py). Other C libraries are not affected.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def new_optimizer(
    config: TrainConfig, objective: Objective, device: torch.device
) -> torch.optim.Optimizer:
    """Adam with the settings of the recipe; the learning rate is set at each step."""
    return torch.optim.Adam(
        objective.parameters(),
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def rate_at(config: TrainConfig, step: int) -> float:
    """Fraction of the peak learning rate at a step: a linear rise, then a half cosine or 1."""
    steps = config.steps or 1
    rise = max(1, round(config.warmup * steps))
    if step < rise:
        return (step + 1) / rise if config.warmup else 1.0
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def scale_of(config: TrainConfig, sample: Tensor) -> float:
    """What vectors are divided by: their mean norm, which is 1 for models that normalise."""
    norm = float(sample.norm(dim=1).mean()) if config.scales_vectors else 1.0
    return 1.0 if norm == 0 or abs(norm - 1) < 1e-3 else norm


def variance_of(sample: Tensor) -> float:
    """Mean squared distance from the mean; not below what fp16 rounding of equal rows gives."""
    variance = (sample - sample.mean(dim=0)).square().sum(dim=1).mean()
    return max(float(variance), 1e-6 * float(sample.square().sum(dim=1).mean()), 1e-30)
