"""Train a head on cached vectors: the loop, in the order in which things happen.

The terms of the loss are in `csr_st.objective`, what survives a crash in `csr_st.checkpoint`. The
loop takes vectors, never texts: see `csr_st.embeddings` for those.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor

from csr_st import checkpoint
from csr_st._files import write_atomically
from csr_st._progress import progress
from csr_st.checkpoint import TrainState
from csr_st.config import EPOCHS, MAX_STEPS, MIN_STEPS, TrainConfig
from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.processes import current_processes
from csr_st.feeding import feed
from csr_st.head import SparseCSRHead
from csr_st.objective import Objective, Outcome, Step
from csr_st.refit import SAMPLE as REFIT_SAMPLE
from csr_st.refit import refit_decoder

SAMPLE = 100_000  # rows that mean and variance are taken from
LOG_EVERY = 25  # steps


@dataclass(frozen=True)
class TrainResult:
    """A trained head and how it came about.

    Attributes:
        head: On the device that it was trained on.
        config: The settings, with those that were left open filled in.
        history: A record every 25 steps: step, learning_rate, loss, its terms, fvu by k,
            dead_fraction.
        seconds: Wall time of the run, resumed runs from the last resume on.
    """

    head: SparseCSRHead
    config: TrainConfig
    history: list[dict[str, Any]]
    seconds: float


def train(
    store: EmbeddingStore,
    config: TrainConfig | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    show_progress: bool | None = None,
) -> TrainResult:
    """Train one head on a store of vectors.

    Runs on one process or under ``accelerate launch`` on several; the batch size is that of all of
    them together, and negatives are gathered across them. On the CPU, a run resumed from a
    checkpoint ends with the same bits as one that never stopped.

    Args:
        store: The vectors; their labels and pairs are used where it has them and the recipe
            weighs them.
        config: Settings, the default recipe when None.
        output: Folder for checkpoints and history.json; nothing is written when None.
        resume: Go on from the newest checkpoint in ``output``, if there is one.
        checkpoint_every: Steps between checkpoints.
        show_progress: Show a progress line; when None, on the main process.

    Returns:
        The head with its history.

    Raises:
        ValueError: If the store has fewer than two vectors, the batch cannot be divided among
            the processes, ``checkpoint_every`` is below 1, there is no ``output`` to resume
            from, or the checkpoint is damaged or of another run.
    """
    started = time.monotonic()
    folder = _checkpoint_folder(output, resume, checkpoint_every)
    torch.manual_seed((config or TrainConfig()).seed)
    accelerator = _accelerator()
    config = fill_in(config or TrainConfig(), len(store), store.dim, accelerator.num_processes)
    sample = torch.from_numpy(store.sample(SAMPLE))
    scale = _scale(config, sample)
    head = _new_head(config, store.dim, sample.mean(dim=0) / scale).to(accelerator.device)
    objective = Objective(head, config, _variance(sample) / scale**2)
    optimizer = _optimizer(config, objective, accelerator.device)
    state = TrainState(0, torch.zeros(head.hidden_dim, dtype=torch.int64))
    identity = {"config": dataclasses.asdict(config), "data": store.fingerprint()}
    if resume and folder is not None:
        state = checkpoint.load_newest(folder, objective, optimizer, identity) or state
    wrapped = accelerator.prepare_model(objective)
    age = state.age.to(accelerator.device)
    precision = torch.autocast(
        accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"
    )
    shown = accelerator.is_main_process and show_progress is not False
    bar = progress(config.steps, "Training", "steps", shown, done=state.step)
    with bar:
        for step, batch in feed(store, config, scale, state.step, accelerator):
            rate = config.learning_rate * rate_at(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            with precision:
                outcome: Outcome = wrapped(
                    batch, Step(step, age >= config.dead_after_examples, generator)
                )
            loss = torch.stack(list(outcome.terms.values())).sum()
            accelerator.backward(loss)
            if config.gradient_clip:
                accelerator.clip_grad_norm_(head.parameters(), config.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            _after_step(config, head, state, step)
            age = _aged(age, outcome.active, config.batch_size)
            state.step = step + 1
            bar.update()
            if state.step % LOG_EVERY == 0 or state.step == config.steps:
                dead = age >= config.dead_after_examples
                state.history.append(_record(state.step, rate, outcome, dead, accelerator))
                bar.set_postfix_str(_line(state.history[-1]), refresh=False)
            last = state.step == config.steps
            if folder is not None and (last or state.step % checkpoint_every == 0):
                state.age = age
                if accelerator.is_main_process:
                    checkpoint.save(folder, state, objective, optimizer, identity)
    accelerator.wait_for_everyone()
    head = _finish(head, state, scale)
    if config.refit and config.recipe == "nested":
        head = refit_decoder(head, _refit_sample(store, accelerator), objective.ks, config.refit)
    if output is not None and accelerator.is_main_process:
        write_atomically(Path(output) / "history.json", json.dumps(state.history, indent=1))
    return TrainResult(head, config, state.history, time.monotonic() - started)


def fill_in(config: TrainConfig, n: int, dim: int, processes: int = 1) -> TrainConfig:
    """The configuration with hidden_dim, batch size and steps fitted to the data.

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
    batch_size = min(config.batch_size, n - n % processes)
    if batch_size < processes or batch_size % processes:
        raise ValueError(
            f"batch_size={batch_size} is that of all {processes} processes together and must be a "
            f"multiple of their number"
        )
    steps = config.steps
    if steps is None:
        steps = min(max(MIN_STEPS, math.ceil(EPOCHS * n / batch_size)), MAX_STEPS)
    return dataclasses.replace(
        config,
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


def _checkpoint_folder(output: str | Path | None, resume: bool, every: int) -> Path | None:
    if every < 1:
        raise ValueError(f"checkpoint_every={every} must be at least 1 step")
    if resume and output is None:
        raise ValueError("resume=True needs output=, the folder of the run to go on with")
    return None if output is None else Path(output) / "checkpoints"


def _accelerator() -> Accelerator:
    """The processes of this launch.

    accelerate joins processes on the CPU only when told to, which `current_processes` does. Mixed
    precision stays off: accelerate holds it for the whole program, so a second run could not
    choose another; the loop casts by itself.
    """
    current_processes()
    return Accelerator(mixed_precision="no")


def _scale(config: TrainConfig, sample: Tensor) -> float:
    """What vectors are divided by: their mean norm, which is 1 for models that normalise."""
    if config.recipe != "nested":
        return 1.0  # the paper's loss is of raw vectors
    norm = float(sample.norm(dim=1).mean())
    return 1.0 if norm == 0 or abs(norm - 1) < 1e-3 else norm


def _variance(sample: Tensor) -> float:
    """Mean squared distance from the mean; not below what fp16 rounding of equal rows gives."""
    variance = (sample - sample.mean(dim=0)).square().sum(dim=1).mean()
    return max(float(variance), 1e-6 * float(sample.square().sum(dim=1).mean()), 1e-30)


def _refit_sample(store: EmbeddingStore, accelerator: Accelerator) -> Tensor:
    return torch.from_numpy(store.sample(REFIT_SAMPLE)).to(accelerator.device)


def _new_head(config: TrainConfig, dim: int, mean: Tensor) -> SparseCSRHead:
    head = SparseCSRHead(dim, config.hidden_dim, config.k, tied=config.tied)
    head.reset_parameters(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        head.pre_bias.copy_(mean)
    return head


def _optimizer(
    config: TrainConfig, objective: Objective, device: torch.device
) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if config.recipe == "nested" else torch.optim.Adam
    return kind(
        objective.parameters(),
        lr=config.learning_rate,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


@torch.no_grad()
def _after_step(config: TrainConfig, head: SparseCSRHead, state: TrainState, step: int) -> None:
    """Unit decoder rows (arXiv 2406.04093 appendix A.3; CSR drops it), and the average."""
    if config.recipe == "nested" and not head.tied:
        head.decoder_weight.div_(head.decoder_weight.norm(dim=1, keepdim=True).clamp_min(1e-12))
    if config.ema:
        weights = dict(head.named_parameters())
        if not state.average:
            state.average = {name: weight.detach().clone() for name, weight in weights.items()}
        # Young averages forget faster, or the random start would weigh in for long.
        decay = min(config.ema, (step + 1) / (step + 10))
        for name, weight in weights.items():
            state.average[name] = state.average[name].to(weight).lerp_(weight, 1 - decay)


@torch.no_grad()
def _aged(age: Tensor, active: Tensor, batch_size: int) -> Tensor:
    """Vectors since each latent was last active, over all processes."""
    fired = torch.zeros_like(age)
    fired[active] = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(fired)
    return torch.where(fired > 0, 0, age + batch_size)


@torch.no_grad()
def _record(
    step: int, rate: float, outcome: Outcome, dead: Tensor, accelerator: Accelerator
) -> dict[str, Any]:
    """Figures of the whole batch: the mean over processes, which hold equal parts of it."""
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


def _line(record: dict[str, Any]) -> str:
    unexplained = " ".join(f"{k}:{value:.2f}" for k, value in record["fvu"].items())
    return f"loss {record['loss']:.3f}, fvu {unexplained}, dead {record['dead_fraction']:.1%}"


@torch.no_grad()
def _finish(head: SparseCSRHead, state: TrainState, scale: float) -> SparseCSRHead:
    """Averaged weights in place of the last, and the data's own scale folded back in.

    Training saw v / scale. With W_enc / scale, scale * W_dec and scale * b_pre the head gives the
    same codes for v itself and reconstructs v; tied rows come apart where the scale is not 1.
    """
    for name, weight in head.named_parameters():
        if name in state.average:
            weight.copy_(state.average[name])
    if scale == 1:
        return head
    scaled = SparseCSRHead(head.input_dim, head.hidden_dim, head.k).to(head.pre_bias.device)
    scaled.pre_bias.copy_(head.pre_bias * scale)
    scaled.latent_bias.copy_(head.latent_bias)
    scaled.encoder_weight.copy_(head.encoder_weight / scale)
    scaled.decoder_weight.copy_(head.decoder_weight * scale)
    return scaled
