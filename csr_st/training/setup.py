"""What training starts from: settings fitted to the data, scale, head, optimiser, rate."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from csr_st.config import MIN_STEPS, TokenConfig, TrainConfig
from csr_st.head import SparseCSRHead
from csr_st.training.clusters import clusters_of
from csr_st.training.objective import Objective

ROWS_AT_ONCE = 4096
MEAN_SHARE = 3  # the scale is at most so many deviations from the mean
SCALABLE, SQUARABLE = 1e15, 1e8  # lengths with and without scaling: Adam takes squares of squares
EQUAL = 1e-10  # differences, relative to a length, that float64 gives for equal vectors
OUTLIER = 100  # median lengths
ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}  # between numbers from 1


def refuse_recipe_of_tokens(config: TrainConfig | None) -> None:
    """Raise a TypeError if the settings are of token-level heads."""
    if isinstance(config, TokenConfig):
        raise TypeError(
            f"recipe {config.recipe!r} is for token-level heads, which learn from the vectors of "
            "tokens: pass a csr_st.TokenStore to csr_st.train_tokens, texts to csr_st.train_model, "
            "or another recipe"
        )


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
        epochs = math.ceil(config.epochs * n / batch_size)
        steps = min(max(MIN_STEPS, epochs), config.max_steps)
    k = min(config.k, hidden_dim)
    return config.fitted(n, hidden_dim=hidden_dim, k=k, batch_size=batch_size, steps=steps)


def _hidden_dim(config: TrainConfig, n: int, dim: int) -> int:
    """Latents for n vectors: more cost nothing in a stored code, but each needs vectors."""
    return config.hidden_dim or (8 * dim if n >= 8 * dim else 4 * dim)


def new_head(config: TrainConfig, mean: Tensor, n: int) -> SparseCSRHead:
    """An untrained head for n vectors, centred on their mean (d,)."""
    hidden_dim = _hidden_dim(config, n, len(mean))
    k = min(config.k, hidden_dim)
    head = SparseCSRHead(
        len(mean), hidden_dim, k, tied=config.tied, power=config.power, debias=config.debias
    )
    head.reset_parameters(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        head.pre_bias.copy_(mean)
    return head


@torch.no_grad()
def start_at_clusters(head: SparseCSRHead, vectors: Tensor, config: TrainConfig) -> None:
    """Give the latents of a new head the directions of clusters of (n, d) centred vectors.

    Random latents need hundreds of steps to find the groups of a corpus, and at small k never
    find all. Latents beyond the number of clusters stay random.

    Not for training with labels or pairs: clusters of the vectors keep apart what these bring
    together.
    """
    centroids = clusters_of(vectors, head.encoder_weight, config.cluster_rounds, config.seed)
    moved = int((centroids != head.encoder_weight).any(dim=1).sum())
    if 2 * moved < min(len(vectors), head.hidden_dim):
        return  # so few directions that a few latents would leave the others nothing to learn
    head.encoder_weight.copy_(centroids)
    if not head.tied:
        head.decoder_weight.copy_(centroids)


def fit_to_head(config: TrainConfig, start: SparseCSRHead, dim: int) -> TrainConfig:
    """The configuration for training that starts from a head, on vectors of width ``dim``.

    Raises:
        ValueError: If the head has another width, or the configuration other latents than the head.
    """
    if start.input_dim != dim:
        raise ValueError(
            f"start= is a head for vectors of width {start.input_dim}, the store has width {dim}; "
            "embed with the model that the head belongs to"
        )
    if config.hidden_dim not in (None, start.hidden_dim):
        raise ValueError(
            f"hidden_dim={config.hidden_dim} differs from the {start.hidden_dim} latents of "
            "start=; leave hidden_dim out"
        )
    return dataclasses.replace(config, hidden_dim=start.hidden_dim, power=start.power)


@torch.no_grad()
def copy_encoder(start: SparseCSRHead, head: SparseCSRHead, scale: float) -> None:
    """Give a new head the latents of another, for vectors that are divided by ``scale``.

    The decoder is the encoder's rows again, as for a new head. The new head stays centred on its
    own data.
    """
    head.encoder_weight.copy_(start.encoder_weight.to(head.encoder_weight) * scale)
    head.latent_bias.copy_(start.latent_bias)
    if not head.tied:
        head.decoder_weight.copy_(head.encoder_weight)


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


class Spread(NamedTuple):
    """Mean and spread of vectors, in float64: beside a large mean float32 loses the differences.

    Attributes:
        mean: (d,).
        norm: Mean norm.
        variance: Mean squared distance from the mean, at least what is told from rounding.
        differ: Whether that distance is more than rounding.
    """

    mean: Tensor
    norm: float
    variance: float
    differ: bool


def spread_of(config: TrainConfig, sample: Tensor, dtype: str) -> Spread:
    """The spread of (n, d) vectors, which were stored as ``dtype``.

    Raises:
        ValueError: If they are too large or too small to be squared in float32, or differ by less
            than the rounding of their type.
    """
    parts = torch.split(sample, ROWS_AT_ONCE)
    mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / len(sample)
    norms = torch.cat([part.double().norm(dim=1) for part in parts])
    squares = [float((part.double() - mean).square().sum()) for part in parts]
    norm, variance = float(norms.mean()), sum(squares) / len(sample)
    most = SCALABLE if config.scales_vectors else SQUARABLE
    if norm > most or 0 < norm < 1 / most:
        raise ValueError(
            f"the vectors have a mean length of {norm:.2g}, which recipe {config.recipe!r} cannot "
            f"train on in float32; scale them to a length within {1 / most:.0g}..{most:.0g}, best 1"
        )
    rounded = ROUNDING.get(dtype, ROUNDING["float32"]) * norm
    if EQUAL * norm < math.sqrt(variance) < rounded:
        raise ValueError(
            f"the vectors differ from their mean by {math.sqrt(variance):.2g}, but {dtype} rounds "
            f"at a length of {norm:.2g} by up to {rounded:.2g}: store them as float32, or subtract "
            "the mean before they are stored"
        )
    middle = float(norms.median())
    count = int((norms > OUTLIER * middle).sum()) if middle else 0
    if 0 < count < len(norms) / 10:
        warnings.warn(
            f"{count} vectors are more than {OUTLIER} times as long as the median, {middle:.2g}, "
            f"up to {float(norms.max()):.2g}: training will fit them and little else; remove them, "
            "or scale all to one length",
            stacklevel=4,
        )
    differ = math.sqrt(variance) > rounded
    return Spread(mean, norm, variance if differ else max(rounded**2, 1e-30), differ)


def scale_of(config: TrainConfig, spread: Spread) -> float:
    """What vectors are divided by: their mean norm, which is 1 for models that normalise.

    It is less where the mean is so large that vectors differ by little beside it: what they differ
    by becomes latents, and their rates suit a size of about 1.
    """
    if not config.scales_vectors or spread.norm == 0:
        return 1.0
    deviation = math.sqrt(spread.variance) if spread.differ else spread.norm
    scale = min(spread.norm, MEAN_SHARE * deviation)
    return 1.0 if abs(scale - 1) < 1e-3 else scale
