"""Runs of the real trainer on a tiny model, for tests here and in processes of their own.

``torchrun ... finetune_runs.py MODEL DIRECTORY KIND`` trains four steps of 16 inputs over all
processes and saves to DIRECTORY/model.
"""

from __future__ import annotations

import os
import sys

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import TrainerCallback

from csr_st import recipe
from csr_st.finetune import CSRCallback, CSRLoss, attach_new_head

SUBJECTS = ["the cat", "a dog", "the bird", "a fish"]
VERBS = ["sat on", "ran under", "flew in", "swam in"]
PLACES = ["the mat", "a house", "the tree", "the blue sea"]
TEXTS = [f"{s} {v} {p}" for s in SUBJECTS for v in VERBS for p in PLACES]
SMALL = recipe(k=4, ks=(2, 4, 8), hidden_dim=64, dead_after_examples=24, k_aux=8)
KINDS = {
    "nested": {},
    "backbone": {"loss": {"train_backbone": True}},
    "csrv2": {"config": recipe("csrv2", k=2, initial_k=8, hidden_dim=64)},
    "untied": {},
    "cached": {"loss": {"train_backbone": True, "mini_batch_size": 3}},
}


def labelled() -> Dataset:
    return Dataset.from_dict({"text": TEXTS, "label": [i // 16 for i in range(len(TEXTS))]})


def new_model(folder, seed=0, tied=True) -> SentenceTransformer:
    """The BERT in ``folder``, mean pooled, with an untrained head."""
    backbone = SentenceTransformer(folder, device="cpu")
    return attach_new_head(
        backbone, TEXTS, recipe(k=4, hidden_dim=64, seed=seed, tied=tied), batch_size=64
    )


class StopAt(TrainerCallback):
    """Ends a run before its time, as a crash would."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def fit(
    model, path, data, config=SMALL, *, steps, loss=None, resume=None, stop_at=None,
    eval_dataset=None, **settings,
):  # fmt: skip
    """Train; the trainer and the loss."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(path),
        **{
            "max_steps": steps,
            "per_device_train_batch_size": 16,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "linear",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            **settings,
        },
    )
    csr_loss = CSRLoss(model, config, **(loss or {}))
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=eval_dataset,
        loss=csr_loss,
        callbacks=[CSRCallback(csr_loss), *([StopAt(stop_at)] if stop_at else [])],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, csr_loss


def fit_kind(kind, model, path, **options):
    """`fit` with checkpoints at every second step."""
    return fit(
        model, path, labelled(), **{"save_strategy": "steps", "save_steps": 2, **KINDS[kind]},
        **options,
    )  # fmt: skip


def main(folder, path, kind) -> None:
    world = int(os.environ["WORLD_SIZE"])
    model = new_model(folder, tied=kind != "untied")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # processes draw differently, on purpose
    fit(
        model, path, labelled(), steps=4, per_device_train_batch_size=16 // world,
        ddp_backend="gloo", learning_rate=1e-3, dataloader_drop_last=True,
        optim="sgd", max_grad_norm=0.0, **KINDS[kind],
    )  # fmt: skip
    if os.environ["RANK"] == "0":
        model.save_pretrained(os.path.join(path, "model"), create_model_card=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
