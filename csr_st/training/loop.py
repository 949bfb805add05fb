"""Train a head on cached vectors: the loop, in the order in which things happen.

`setup` fits the settings to the data, `batches` reads, `objective` computes the loss,
`early_stopping` measures the validation set, `logging` reports, `checkpoint` saves, `refit` fits
the decoder at the end. The loop takes vectors, never texts: `csr_st.embeddings` makes those.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csr_st._io.files import check_writable, write_atomically
from csr_st._io.openmp import patient_openmp
from csr_st._io.optional import OptionalStep
from csr_st._io.progress import progress
from csr_st.config import TrainConfig, recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.processes import mean
from csr_st.training import checkpoint, logging, setup
from csr_st.training.batches import feed
from csr_st.training.checkpoint import TrainState
from csr_st.training.early_stopping import ValidationSet, out_of_patience
from csr_st.training.head_copy import changed
from csr_st.training.objective import Objective, Outcome, Step
from csr_st.training.refit import SAMPLE as REFIT_SAMPLE
from csr_st.training.refit import (
    fit_residual_basis,
    fit_short_maps,
    refit_decoder,
    refit_for_pursuit,
)

SAMPLE = 100_000  # rows that mean and variance are taken from
LOG_EVERY = 25  # steps


@dataclass(frozen=True)
class TrainResult:
    """A trained head and its training.

    Attributes:
        head: On the device that it was trained on; with a validation set, the best of the run.
        config: The settings, with those that were left open filled in.
        history: A record every 25 steps: step, learning_rate, loss, its terms (log_fvu weighs the
            ks as that step does), fvu by k, dead_fraction.
        seconds: Wall time of the run, of a resumed run since it was last resumed.
        evaluations: With a validation set, each measurement of it: step, loss and its parts, which
            are log_fvu, the mean over ks of ln fvu, and with labels ``supervised``, that of
            supervised contrast, times its weight.
        last: With a validation set, the head of the last step; else None.
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
    validation: EmbeddingStore | None = None,
    start: SparseCSRHead | None = None,
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
        validation: Vectors that are measured every ``config.evaluate_every`` steps: the best head
            is kept, and training ends after ``config.patience`` measurements without improvement.
        start: A head whose encoder training starts from, instead of random latents; it is not
            changed. It sets ``hidden_dim`` and ``power``; `csr_st.adapt` chooses the rest.
        output: Folder for checkpoints and history.json; nothing is written when None.
        resume: Continue from the newest checkpoint in ``output``, if there is one.
        checkpoint_every: Steps between checkpoints.
        log_with: Trackers of accelerate, by name ("tensorboard", "trackio", "wandb") or as
            objects, one or a list; none when None.
        show_progress: Show a progress line; when None, on the main process.

    Returns:
        The head with its history.

    Raises:
        ValueError: If the store has fewer than two vectors, the batch cannot be divided among
            the processes, ``checkpoint_every`` is below 1, there is no ``output`` to resume
            from, the checkpoint is damaged or of another run, ``patience`` is set without
            ``validation``, a tracker is not installed, or ``start`` has another width than the
            vectors or other settings than the configuration.
        TypeError: If the store or the recipe is of tokens.
    """
    setup.refuse_recipe_of_tokens(config)
    return train_rows(
        store,
        config,
        validation=validation,
        start=start,
        output=output,
        resume=resume,
        checkpoint_every=checkpoint_every,
        log_with=log_with,
        show_progress=show_progress,
    )


@torch.inference_mode(False)  # a caller in inference mode or without gradients may train
@patient_openmp()
def train_rows(  # noqa: C901 - one function that reads in execution order
    store: EmbeddingStore,
    config: TrainConfig | None,
    *,
    validation: EmbeddingStore | None = None,
    start: SparseCSRHead | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 500,
    log_with: Any = None,
    show_progress: bool | None = None,
) -> TrainResult:
    """Train on the rows of a store, of texts or of tokens, by a recipe for these; see `train`."""
    started = time.monotonic()
    config = config or recipe()
    if checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every} must be at least 1 step")
    if resume and output is None:
        raise ValueError("resume=True needs output=, the folder of the run to continue")
    if not isinstance(store, EmbeddingStore):
        raise TypeError("a TokenStore is for csr_st.train_tokens; pass an EmbeddingStore")
    if config.patience and validation is None:
        raise ValueError(
            f"patience={config.patience} needs validation=, a validation set; store.split gives one"
        )
    setup.keep_freed_memory()
    torch.manual_seed(config.seed)
    accelerator = logging.new_accelerator(log_with, output)
    device, main = accelerator.device, accelerator.is_main_process
    if output is not None and main:
        check_writable(Path(output))

    if start is not None:
        config = setup.fit_to_head(config, start, store.dim)
    config = setup.fill_in(config, len(store), store.dim, accelerator.num_processes)
    sample = torch.from_numpy(store.sample(SAMPLE))
    spread = setup.spread_of(config, sample, store.info.dtype)
    scale = setup.scale_of(config, spread)
    head = setup.new_head(config, spread.mean / scale, len(store)).to(device)
    if start is not None:
        setup.copy_encoder(start, head, scale)
    objective = Objective(head, config, spread.variance / scale**2)
    optimizer = setup.new_optimizer(config, objective, device)
    identity = {"config": dataclasses.asdict(config), "data": store.fingerprint()}
    validation_set = None
    if validation is not None:
        validation_set = ValidationSet(validation, objective, scale, accelerator)
        identity["validation"] = validation.fingerprint()
    if start is not None:
        identity["start"] = checkpoint.fingerprint(start)

    state = TrainState(0, torch.zeros(head.hidden_dim, dtype=torch.int64))
    folder = None if output is None else Path(output) / "checkpoints"
    if resume and folder is not None:
        state = checkpoint.load_newest(folder, objective, optimizer, identity) or state
    state.age = state.age.to(device)
    alone = store.labels is None and store.pairs is None
    if config.cluster_rounds and alone and start is None and not state.step:
        setup.start_at_clusters(head, sample - spread.mean.to(sample), config)

    wrapped = accelerator.prepare_model(objective)
    precision = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
    logging.start_trackers(accelerator, config)
    bar = progress(
        config.steps, "Training", "steps", main and show_progress is not False, done=state.step
    )
    with checkpoint.interruptible(folder, state), bar:
        for step, batch in feed(store, config, scale, state.step, accelerator):
            if out_of_patience(state.evaluations, config.patience):
                break
            rate = config.learning_rate * setup.rate_at(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            dead = state.age >= config.dead_after_examples
            with precision:
                outcome: Outcome = wrapped(batch, Step(step, dead, generator))
            loss = outcome.loss()
            accelerator.backward(loss)
            if config.gradient_clip:
                accelerator.clip_grad_norm_(head.parameters(), config.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            if config.unit_decoder_rows:
                _scale_decoder_rows(head)
            state.age = outcome.aged(state.age, config.batch_size)
            state.step = step + 1
            bar.update()

            ended = state.step == config.steps
            saving = folder is not None and state.step % checkpoint_every == 0
            measuring = state.step % config.evaluate_every == 0 or ended
            thorough = saving or measuring
            _check_converging(loss, head if thorough else None, config, folder, state)
            if ended or state.step % LOG_EVERY == 0:
                dead = state.age >= config.dead_after_examples
                state.history.append(logging.record(state.step, rate, outcome, dead, accelerator))
                logging.track(accelerator, state.history[-1], state.step)
                bar.set_postfix_str(logging.line(state.history[-1]), refresh=False)
            if validation_set is not None and measuring:
                found = validation_set.measure()
                state.add_evaluation(found, head)
                figures = {f"validation_{name}": figure for name, figure in found.items()}
                logging.track(accelerator, figures, state.step)
            if folder is not None and main and saving and not ended:
                checkpoint.save(folder, state, objective, optimizer, identity)
    accelerator.wait_for_everyone()

    # What follows makes a trained head better or describes it; none of it may lose it.
    exact = torch.autocast(device.type, enabled=False)
    with checkpoint.interruptible(folder, state), exact:
        if folder is not None and main and not state.is_saved:
            with OptionalStep("writing the last checkpoint", "the trained head is in memory"):
                checkpoint.save(folder, state, objective, optimizer, identity)
        with OptionalStep("closing the trackers", "the training is complete"):
            logging.end_trackers(accelerator)
        candidates = [changed(head, {}, state.best), head] if state.best else [head]
        best, *last_head = (_finished(each, objective, scale, store) for each in candidates)
        if output is not None and main:
            history = Path(output) / "history.json"
            with OptionalStep(f"writing {history}", "the result has the history"):
                write_atomically(history, json.dumps(state.history, indent=1))
    seconds = time.monotonic() - started
    return TrainResult(best, config, state.history, seconds, state.evaluations, *last_head)


@torch.no_grad()
def _scale_decoder_rows(head: SparseCSRHead) -> None:
    """Scale each latent's row in an untied decoder to unit norm."""
    if not head.tied:
        head.decoder_weight.div_(head.decoder_weight.norm(dim=1, keepdim=True).clamp_min(1e-12))


def _check_converging(
    loss: Tensor,
    head: SparseCSRHead | None,
    config: TrainConfig,
    folder: Path | None,
    state: TrainState,
) -> None:
    """Refuse a loss, the same on all processes, or weights that are not finite.

    Raises:
        ValueError: If training has diverged; no checkpoint is written of it.
    """
    value = float(mean(loss))
    weights = [] if head is None else list(head.parameters())
    if math.isfinite(value) and all(bool(weight.isfinite().all()) for weight in weights):
        return
    found = f"the loss is {value}" if not math.isfinite(value) else "a weight is not finite"
    raise ValueError(
        f"training diverged at step {state.step}: {found}; train again with a lower learning rate "
        f"than learning_rate={config.learning_rate:g}, into another folder, and see that the "
        "vectors have no huge values. The checkpoints so far are finite. "
        f"{checkpoint.how_to_go_on(folder, state)}"
    )


def _finished(
    head: SparseCSRHead, objective: Objective, scale: float, store: EmbeddingStore
) -> SparseCSRHead:
    """The trained head for vectors as they are, its decoder fitted as the recipe specifies.

    It is fitted to vectors as training saw them, divided by the scale: their squares are in range.
    """
    fit = objective.config.decoder_fit
    short = [k for k in fit.short_ks if k <= head.hidden_dim]
    again = "train again with resume=True for it, which takes the trained head from its checkpoint"
    if fit.iterations:
        without = f"the head has the decoder that training gave it; {again}"
        with OptionalStep("fitting the decoder", without):
            head = refit_decoder(head, _sample(store, head, scale), objective.ks, fit.iterations)
    if fit.pursuit_rounds:
        without = f"codes by pursuit are decoded less well; {again}"
        with OptionalStep("fitting the decoder to codes by pursuit", without):
            sample = _sample(store, head, scale)
            head = refit_for_pursuit(head, sample, objective.ks, fit.pursuit_rounds)
    if fit.iterations:
        without = f"residual bits are spent on all directions alike; {again}"
        with OptionalStep("fitting the axes of residual bits", without):
            head = fit_residual_basis(head, _sample(store, head, scale))
    if short:
        without = f"short codes are decoded without maps, less well; {again}"
        with OptionalStep(f"fitting maps for codes of k={short}", without):
            head = fit_short_maps(head, _sample(store, head, scale), short)
    return _unscaled(head, scale)


def _sample(store: EmbeddingStore, head: SparseCSRHead, scale: float) -> Tensor:
    return torch.from_numpy(store.sample(REFIT_SAMPLE)).to(head.pre_bias.device) / scale


def _unscaled(head: SparseCSRHead, scale: float) -> SparseCSRHead:
    """The head for vectors as they are; training saw v / scale.

    With W_enc / scale, scale * W_dec and scale * b_pre the head gives the same codes for v itself
    and reconstructs v; tied rows are no longer equal where the scale is not 1.
    """
    if scale == 1:
        return head
    weights: dict[str, Tensor] = {
        "pre_bias": head.pre_bias * scale,
        "encoder_weight": head.encoder_weight / scale,
        "decoder_weight": head.decoder_weight * scale,
    }
    return changed(head, {"tied": False}, weights)
