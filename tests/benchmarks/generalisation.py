"""What a head keeps on texts that it has not seen, and how many latents a growing corpus needs.

    python tests/benchmarks/generalisation.py --data DIR --vectors DIR --texts VECTORS.npy...
        [--sets scifact,cranfield,clinc150,trec6] [--parts own,half,other,peer,adapted,growth]
        [--sizes 10000,all] [--widths 8,16] [--corpora 0,20000] [--seeds 3] [--output DIR]

Heads are trained, without labels, on (own) the documents that are then searched, (half) one half of
them, (other) other texts only, whose vectors ``--texts`` has, by number of vectors and of latents,
in multiples of input_dim. The peer, `SparseAutoEncoder` with `CSRLoss`, is trained on the same
other texts, at the better of two learning rates. "adapted" starts from the first head of other
texts, calibrated only or adapted. "growth" trains heads on a retrieval corpus with so many of the
other texts among its documents, and searches all of them.

Documents at k; queries at k, at 4k, or dense against decoded documents, with 1 residual bit too.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from quality_methods import csr_loss_head
from quality_sets import Task, load

from csr_st import (
    Decoder,
    EmbeddingStore,
    SparseCSRHead,
    adapt,
    calibrate,
    encode_vectors,
    recipe,
    train,
)
from csr_st.evaluation.brute_force import unit_rows

KS = (2, 8, 16, 32, 64)
SCORINGS = ("query k", "query 4k", "decoded", "with residual")
PEER_RATES, PEER_STEPS, PEER_BATCH = (1e-3, 3e-4), 3000, 256


@dataclass(frozen=True)
class Row:
    """Figures in percent of one head on one set, by scoring and k."""

    case: str
    set: str
    seed: int
    vectors: int
    hidden_dim: int
    steps: int
    seconds: float
    dense: float
    figures: dict[str, dict[int, float]]
    fvu: dict[int, float]


def asked(head: SparseCSRHead, task: Task, case: str, seed: int, n: int, about: tuple) -> Row:
    """All figures of a head on a task."""
    documents = encode_vectors(head, task.documents, max(KS), residual_bits=1)
    queries = encode_vectors(head, task.queries, min(4 * max(KS), head.hidden_dim))
    decoder, dense = Decoder.from_head(head), unit_rows(task.queries)
    figures: dict[str, dict[int, float]] = {scoring: {} for scoring in SCORINGS}
    fvu = {}
    spread = float(np.square(task.documents - task.documents.mean(axis=0)).sum())
    for k in KS:
        plain = replace(documents.prefix(k), residual=None)
        for scoring, of_query in (("query k", k), ("query 4k", min(4 * k, head.hidden_dim))):
            asking = queries.prefix(of_query).to_scipy()
            figures[scoring][k] = task.scored(plain.to_scipy(), asking)
        rebuilt = decoder.decode(plain)
        fvu[k] = float(np.square(task.documents - rebuilt).sum()) / spread
        figures["decoded"][k] = task.scored(unit_rows(rebuilt), dense)
        # Its residual is that of the code at this k, not of a longer one.
        own = decoder.decode(encode_vectors(head, task.documents, k, residual_bits=1))
        figures["with residual"][k] = task.scored(unit_rows(own), dense)
    full = task.scored(unit_rows(task.documents), dense)
    return Row(case, task.name, seed, n, head.hidden_dim, *about, full, figures, fvu)


def trained(vectors: np.ndarray, name: str, seed: int, **settings: object) -> tuple:
    """A head by one of our recipes, with its steps and seconds."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small sets are measured too
        config = recipe(name, seed=seed, **settings)
        result = train(EmbeddingStore.from_array(vectors), config, show_progress=False)
    return result.head, (result.config.steps, time.perf_counter() - started)


def peer(vectors: np.ndarray, seed: int, hidden_dim: int, rate: float) -> tuple:
    started = time.perf_counter()
    settings = (seed, PEER_STEPS, PEER_BATCH, rate, True, 32, hidden_dim)
    head = csr_loss_head(vectors, *settings)
    return head, (PEER_STEPS, time.perf_counter() - started)


def adapted(head: SparseCSRHead, tasks: list[Task], seed: int) -> list[Row]:
    rows = []
    for task in tasks:
        store, n = EmbeddingStore.from_array(task.train), len(task.train)
        started = time.perf_counter()
        found = calibrate(head, store)
        about = (0, time.perf_counter() - started)
        rows.append(asked(found, task, "other, calibrated", seed, n, about))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = adapt(head, store, show_progress=False)
        about = (result.result.config.steps, result.result.seconds)
        case = f"other, adapted ({result.kept:.0%} of latents kept)"
        rows.append(asked(result.head, task, case, seed, n, about))
    return rows


def grown(task: Task, others: np.ndarray, n: int) -> Task:
    """A retrieval task with n other texts among its documents."""
    documents = np.concatenate([task.documents, others[:n]])
    return replace(
        task, name=f"{task.name} and {n:,} texts", train=documents, documents=documents, pairs=None
    )


def seen(options: argparse.Namespace, seed: int, tasks: list[Task]) -> list[Row]:
    """Heads of the corpus itself, and of half of it."""
    rows = []
    for task in tasks:
        half = replace(task.halved(), name=task.name)
        for part, name, known in (("own", "own", task), ("half", "half of its own", half)):
            if part in options.parts:
                head, about = trained(known.train, "nested", seed)
                rows.append(asked(head, known, name, seed, len(known.train), about))
                show(rows[-1:])
    return rows


def foreign(
    options: argparse.Namespace, seed: int, tasks: list[Task], texts: np.ndarray
) -> list[Row]:
    """Heads of other texts, the peer's and adapted ones."""
    rows, first, width = [], None, texts.shape[1]
    for times in options.widths:
        for n in sorted({len(texts) if size == "all" else int(size) for size in options.sizes}):
            made = {}
            if "other" in options.parts:
                settings = {"hidden_dim": times * width, "steps": options.steps}
                made["other"] = trained(texts[:n], "general", seed, **settings)
                first = first or made["other"][0]
            for rate in PEER_RATES if "peer" in options.parts and times == 8 else ():
                made[f"CSRLoss, other, rate {rate:g}"] = peer(texts[:n], seed, times * width, rate)
            for case, (head, about) in made.items():
                rows += [asked(head, task, case, seed, n, about) for task in tasks]
                show(rows[-len(tasks) :])
    if "adapted" in options.parts and first is not None:
        rows += adapted(first, tasks, seed)
        show(rows[-2 * len(tasks) :])
    return rows


def growing(
    options: argparse.Namespace, seed: int, tasks: list[Task], texts: np.ndarray
) -> list[Row]:
    """Heads of a retrieval corpus among other texts."""
    rows = []
    for task in tasks:
        for n in options.corpora if task.kind == "retrieval" else ():
            for times in options.widths:
                larger = grown(task, texts, n)
                hidden_dim = times * texts.shape[1]
                head, about = trained(larger.train, "nested", seed, hidden_dim=hidden_dim)
                rows.append(asked(head, larger, "growth", seed, len(larger.train), about))
                show(rows[-1:])
    return rows


def show(rows: list[Row]) -> None:
    print(table(rows, heading=False), flush=True)


def table(rows: list[Row], heading: bool = True) -> str:
    """Means over seeds, a line for each case and set: query 4k; decoded; with residual."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.case, row.set, row.vectors, row.hidden_dim].append(row)
    lines = [
        "query k / 4k / decoded / with 1 residual bit, at k = " + ", ".join(map(str, KS)) + "\n",
        "| head | set (dense) | vectors | latents | steps | "
        + " | ".join(f"k={k}" for k in KS)
        + " |",
        "| --- | --- | ---: | ---: | ---: |" + len(KS) * " --- |",
    ]
    lines = lines if heading else []
    for (case, name, n, hidden_dim), group in groups.items():
        cells = [
            " / ".join(
                f"{np.mean([row.figures[scoring][k] for row in group]):.1f}" for scoring in SCORINGS
            )
            for k in KS
        ]
        start = f"| {case} | {name} ({group[0].dense:.1f}) | {n:,} | {hidden_dim:,} "
        lines.append(f"{start}| {group[0].steps:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Share of dense at k=32, query 4k: by vectors trained on, and by documents of the corpus."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (("other", "training vectors"), ("growth", "documents of the corpus"))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (case, label) in zip(axes, panels, strict=True):
        lines = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row.case == case:
                name = f"{row.set.split(' and ')[0]}, {row.hidden_dim:,} latents"
                lines[name][row.vectors].append(100 * row.figures["query 4k"][32] / row.dense)
        for name, points in lines.items():
            places = sorted(points)
            axis.plot(places, [np.mean(points[n]) for n in places], marker="o", label=name)
        axis.set(xlabel=label, ylabel="% of dense, documents at k=32, queries at 128", xscale="log")
        if lines:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, type=Path, help="folder of the sets")
    add("--vectors", required=True, type=Path, help="folder of the sets' vectors")
    add("--texts", required=True, type=Path, nargs="+", help="vectors of other texts")
    add("--sets", type=_names, default="scifact,cranfield,clinc150,trec6")
    add("--parts", type=_names, default="own,half,other,peer,adapted,growth")
    add("--sizes", type=_names, default="10000,all", help="training vectors")
    add("--widths", type=_numbers, default="8", help="latents, in multiples of input_dim")
    add("--corpora", type=_numbers, default="0,20000", help="other texts added to a corpus")
    add("--steps", type=int, help="of heads of other texts; default: the recipe's")
    add("--seeds", type=int, default=3)
    add("--output", type=Path, default=Path("generalisation"))
    return parser.parse_args()


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _refuse(texts: list[str]) -> np.ndarray:
    raise SystemExit(f"no vectors of {len(texts)} texts in --vectors; run quality.py first")


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    texts = np.concatenate([np.load(path).astype(np.float32) for path in options.texts])
    tasks = [
        load(name, options.data, options.vectors, _refuse).unlabelled() for name in options.sets
    ]
    rows: list[Row] = []
    for seed in range(options.seeds):
        rows += seen(options, seed, tasks) + foreign(options, seed, tasks, texts)
        if "growth" in options.parts:
            rows += growing(options, seed, tasks, texts)
        dumped = json.dumps([asdict(row) for row in rows], indent=1)
        (options.output / "generalisation.json").write_text(dumped)
    written = table(rows)
    (options.output / "generalisation.md").write_text(written + "\n", encoding="utf-8")
    print("\n" + written)
    draw(rows, options.output / "generalisation.png")


if __name__ == "__main__":
    main()
