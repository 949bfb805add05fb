"""Fine-tune backbone and head together: the CSRv2 recipe with LoRA.

Shows `CSRLoss` and `CSRCallback` in a `SentenceTransformerTrainer`: a LoRA adapter and a new head
are trained on labels, k anneals from 64 to 2, every loss term is logged, and training can resume
from a checkpoint.

    pip install "csr-st[search]" peft
    python examples/finetune_lora.py train.tsv --output tuned

Each line of the file is a label, a tab and a text. 300 steps take about fifteen minutes on two CPU
cores, one or two on a GPU. The script prints the loss terms of the last log record, and saves
adapter and head to ``--output``, from where `SentenceTransformer` loads both. ``--tiny`` runs 6
steps on 64 made-up sentences; ``--model`` names another model, ``--resume`` continues from the last
checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

import csr_st
from csr_st.finetune import HEAD_PARAMETERS, CSRCallback, CSRLoss, attach_new_head

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
TINY = [
    (who, f"{who} {did} {where}")
    for who in ("the cat", "a dog", "the bird", "a fish")
    for did in ("sat on", "ran under", "flew in", "swam in")
    for where in ("the mat", "a house", "the tree", "the blue sea")
]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="label, tab, text on each line")
    parser.add_argument("--output", type=Path, default=Path("tuned"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(argv)
    if options.file is None and not options.tiny:
        parser.error("name a file of labels and texts, or pass --tiny")
    rows = TINY if options.tiny else _read(options.file)
    names = sorted({name for name, _ in rows})
    data = Dataset.from_dict(
        {"text": [text for _, text in rows], "label": [names.index(name) for name, _ in rows]}
    )

    settings = csr_st.recipe("csrv2", k=2, hidden_dim=48 if options.tiny else None)
    model = attach_new_head(SentenceTransformer(options.model), data["text"][:1000], settings)
    model.add_adapter(LoraConfig(r=8, lora_alpha=16, target_modules=["query", "key", "value"]))

    steps = 6 if options.tiny else 300
    loss = CSRLoss(model, settings, train_backbone=True, mini_batch_size=64)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(options.output / "checkpoints"),
            max_steps=steps,
            per_device_train_batch_size=16 if options.tiny else 128,
            learning_rate=1e-3,
            learning_rate_mapping={HEAD_PARAMETERS: 1e-3},
            warmup_steps=steps // 10,
            lr_scheduler_type="cosine",
            logging_steps=max(1, steps // 15),
            save_steps=max(1, steps // 3),
            save_total_limit=2,
            report_to="none",
        ),
        train_dataset=data,
        loss=loss,
        callbacks=[CSRCallback(loss)],
    )
    trainer.train(resume_from_checkpoint=options.resume)
    record = next(r for r in reversed(trainer.state.log_history) if "supervised" in r)
    shown = ("step", "k", "loss", "l_k", "l_4k", "aux", "supervised", "dead_fraction")
    print(", ".join(f"{name} {record[name]}" for name in shown if name in record))

    model.save_pretrained(str(options.output))
    again = SentenceTransformer(str(options.output))
    print(csr_st.encode(again, data["text"][:100], k=2))


def _read(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(label, text) for label, _, text in (line.partition("\t") for line in lines)]


if __name__ == "__main__":
    main()
