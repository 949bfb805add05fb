"""Train a head on cached vectors: the loop, in the order in which things happen.

`setup` fits the settings to the data, `batches` reads, `objective` puts the loss together,
`checkpoint` survives a kill, `early_stopping` measures the validation set, `logging` reports.
The loop takes vectors, never texts: `csr_st.embeddings` makes those.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch import Tensor, nn

from csr_st._io.files import write_atomically
from csr_st._io.progress import progress
from csr_st.config import TrainConfig
from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.training import checkpoint, logging
from csr_st.training.batches import feed, split_batch
from csr_st.training.checkpoint import TrainState
from csr_st.training.early_stopping import HeldOut, best_of, out_of_patience
from csr_st.training.head_copy import changed
from csr_st.training.objective import Batch, Objective, Outcome, Step
from csr_st.training.refit import SAMPLE as REFIT_SAMPLE
from csr_st.training.refit import fit_short_maps, refit_decoder
from csr_st.training.setup import (
    fill_in,
    keep_freed_memory,
    new_head,
    new_optimizer,
    rate_at,
    scale_of,
    variance_of,
)

__all__ = ["TrainResult", "fill_in", "rate_at", "train"]

SAMPLE = 100_000  # rows that mean and variance are taken from
LOG_EVERY = 25  # steps


@dataclass(frozen=True)
class TrainResult:
    """A trained head and how it came about.

    Attributes:
        head: On the device that it was trained on; with held-out vectors, the best of the run.
        config: The settings, with those that were left open filled in.
        history: A record every 25 steps: step, learning_rate, loss, its terms (log_fvu weighs the
            ks as that step does), fvu by k, dead_fraction.
        seconds: Wall time of the run, resumed runs from the last resume on.
        evaluations: With held-out vectors, each measurement of them: step, loss and what it adds
            up, which is log_fvu, the mean over ks of ln fvu, and with labels ``supervised``, that
            of supervised contrast, times its weight.
        last: With held-out vectors, the head of the last step; else None.
    """

    head: SparseCSRHead
    config: TrainConfig
    history: list[dict[str, Any]]
    seconds: float
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    last: SparseCSRHead | None = None


def train(
    store: EmbeddingStore,
    config: TrainConfig | None = None,
    *,
    held_out: EmbeddingStore | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_with: Any = None,
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
        held_out: Vectors that are measured every ``config.evaluate_every`` steps: the best head
            is kept, and training ends when ``config.patience`` measurements brought none better.
        output: Folder for checkpoints and history.json; nothing is written when None.
        resume: Go on from the newest checkpoint in ``output``, if there is one.
        checkpoint_every: Steps between checkpoints.
        log_with: Trackers of accelerate, by name ("tensorboard", "trackio", "wandb") or as
            objects, one or a list; none when None.
        show_progress: Show a progress line; when None, on the main process.

    Returns:
        The head with its history.

    Raises:
        ValueError: If the store has fewer than two vectors, the batch cannot be divided among
            the processes, ``checkpoint_every`` is below 1, there is no ``output`` to resume
            from, the checkpoint is damaged or of another run, ``patience`` has no ``held_out``
            to go by, or a tracker is not installed.
    """
    started = time.monotonic()
    folder = _checkpoint_folder(output, resume, checkpoint_every)
    keep_freed_memory()
    torch.manual_seed((config or TrainConfig()).seed)
    accelerator = logging.new_accelerator(log_with, output)
    config = fill_in(config or TrainConfig(), len(store), store.dim, accelerator.num_processes)
    sample = torch.from_numpy(store.sample(SAMPLE))
    scale = scale_of(config, sample)
    head = new_head(config, store.dim, sample.mean(dim=0) / scale).to(accelerator.device)
    objective = Objective(head, config, variance_of(sample) / scale**2)
    optimizer = new_optimizer(config, objective, accelerator.device)
    state = TrainState(0, torch.zeros(head.hidden_dim, dtype=torch.int64))
    judge = _judge(held_out, config, objective, scale, accelerator)
    identity = _identity(config, store, held_out)
    if resume and folder is not None:
        state = checkpoint.load_newest(folder, objective, optimizer, identity) or state
    wrapped = accelerator.prepare_model(torch.compile(objective) if config.compile else objective)
    age = state.age.to(accelerator.device)
    logging.start_trackers(accelerator, config)
    shown = accelerator.is_main_process and show_progress is not False
    bar = progress(config.steps, "Training", "steps", shown, done=state.step)
    with bar:
        for step, batch in feed(store, config, scale, state.step, accelerator):
            if out_of_patience(state.evaluations, config.patience):
                break
            rate = config.learning_rate * rate_at(config, step)
            _set_rate(optimizer, rate)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            facts = Step(step, age >= config.dead_after_examples, generator)
            outcome = _gradients(wrapped, batch, facts, config, accelerator)
            if config.gradient_clip:
                accelerator.clip_grad_norm_(head.parameters(), config.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            _after_step(config, head, state, step)
            age = _aged(age, outcome.active, config.batch_size)
            state.step = step + 1
            bar.update()
            last = state.step == config.steps
            if last or state.step % LOG_EVERY == 0:
                dead = age >= config.dead_after_examples
                state.history.append(logging.record(state.step, rate, outcome, dead, accelerator))
                logging.track(accelerator, state.history[-1], state.step)
                bar.set_postfix_str(logging.line(state.history[-1]), refresh=False)
            if judge is not None and (last or state.step % config.evaluate_every == 0):
                _evaluate(judge, head, state)
                measured = state.evaluations[-1].items()
                told = {f"held_out_{name}": x for name, x in measured if name != "step"}
                logging.track(accelerator, told, state.step)
                last = last or out_of_patience(state.evaluations, config.patience)
            if folder is not None and (last or state.step % checkpoint_every == 0):
                state.age = age
                if accelerator.is_main_process:
                    checkpoint.save(folder, state, objective, optimizer, identity)
    accelerator.wait_for_everyone()
    logging.end_trackers(accelerator)
    best, final = _finished_heads(store, config, objective, state, scale)
    if output is not None and accelerator.is_main_process:
        write_atomically(Path(output) / "history.json", json.dumps(state.history, indent=1))
    seconds = time.monotonic() - started
    return TrainResult(best, config, state.history, seconds, state.evaluations, final)


def _checkpoint_folder(output: str | Path | None, resume: bool, every: int) -> Path | None:
    if every < 1:
        raise ValueError(f"checkpoint_every={every} must be at least 1 step")
    if resume and output is None:
        raise ValueError("resume=True needs output=, the folder of the run to go on with")
    return None if output is None else Path(output) / "checkpoints"


def _judge(
    held_out: EmbeddingStore | None,
    config: TrainConfig,
    objective: Objective,
    scale: float,
    accelerator: Accelerator,
) -> HeldOut | None:
    if held_out is not None:
        return HeldOut(held_out, objective, scale, accelerator)
    if config.patience:
        raise ValueError(
            f"patience={config.patience} needs held_out=, vectors to go by; store.split gives some"
        )
    return None


def _identity(
    config: TrainConfig, store: EmbeddingStore, held_out: EmbeddingStore | None
) -> dict[str, Any]:
    """What a run that goes on must share with the one that began."""
    facts = {"config": dataclasses.asdict(config), "data": store.fingerprint()}
    return facts if held_out is None else {**facts, "held_out": held_out.fingerprint()}


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _gradients(
    wrapped: nn.Module, batch: Batch, facts: Step, config: TrainConfig, accelerator: Accelerator
) -> Outcome:
    """The loss of a batch, its gradients added up over the parts that it is computed in.

    Contrast is within a part, as only one part's codes are held at a time.
    """
    precision = torch.autocast(
        accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"
    )
    outcomes: list[Outcome] = []
    for part in split_batch(batch, config.accumulate):
        more = len(outcomes) + 1 < config.accumulate
        with accelerator.no_sync(wrapped) if more else contextlib.nullcontext():
            with precision:
                outcome: Outcome = wrapped(part, facts)
            loss = torch.stack(list(outcome.terms.values())).sum() / config.accumulate
            accelerator.backward(loss)
        outcomes.append(outcome)
    if len(outcomes) == 1:
        return outcomes[0]
    return Outcome(
        _means([outcome.terms for outcome in outcomes]),
        torch.cat([outcome.active for outcome in outcomes]),
        _means([outcome.fvu for outcome in outcomes]),
    )


def _means(parts: list[dict[Any, Tensor]]) -> dict[Any, Tensor]:
    """Means by name; a name that a part lacks counts 0 there."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: torch.stack([part[name].detach() for part in parts if name in part]).sum()
        / len(parts)
        for name in names
    }


def _evaluate(judge: HeldOut, head: SparseCSRHead, state: TrainState) -> None:
    """Measure the weights as they would be kept, and keep the best."""
    weights = state.average or dict(head.named_parameters())
    state.evaluations.append({"step": state.step, **judge.measure(weights)})
    if best_of(state.evaluations) == len(state.evaluations) - 1:
        state.best = {name: weight.detach().clone() for name, weight in weights.items()}


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


def _finished_heads(
    store: EmbeddingStore,
    config: TrainConfig,
    objective: Objective,
    state: TrainState,
    scale: float,
) -> tuple[SparseCSRHead, SparseCSRHead | None]:
    """The best head and, with held-out vectors, the last."""
    candidates = [(copy.deepcopy(objective.head), state.best)] if state.best else []
    candidates.append((objective.head, state.average))
    heads = [_finish(head, weights, scale) for head, weights in candidates]
    if config.recipe == "nested":
        short = [k for k in config.short_ks if k <= objective.head.hidden_dim]
        sample = torch.from_numpy(store.sample(REFIT_SAMPLE)).to(heads[0].pre_bias.device)
        if config.refit:
            heads = [refit_decoder(head, sample, objective.ks, config.refit) for head in heads]
        if short:
            heads = [fit_short_maps(head, sample, short) for head in heads]
    return heads[0], heads[1] if len(heads) > 1 else None


@torch.no_grad()
def _finish(head: SparseCSRHead, weights: dict[str, Tensor], scale: float) -> SparseCSRHead:
    """These weights in place of the last, and the data's own scale folded back in.

    Training saw v / scale. With W_enc / scale, scale * W_dec and scale * b_pre the head gives the
    same codes for v itself and reconstructs v; tied rows come apart where the scale is not 1.
    """
    for name, weight in head.named_parameters():
        if name in weights:
            weight.copy_(weights[name])
    if scale == 1:
        return head
    weights = {
        "pre_bias": head.pre_bias * scale,
        "encoder_weight": head.encoder_weight / scale,
        "decoder_weight": head.decoder_weight * scale,
    }
    return changed(head, {"tied": False}, weights)
