"""Queries without the backbone: their quality beside the full model's, and time from text to hits.

    python tests/benchmarks/static_queries.py --model PATH --data DIR [--output DIR]
        [--sets scifact,cranfield] [--demo csr-demo] [--parts quality,speed]
        [--documents 100000] [--threads 1]

``DIR`` is as for quality.py. Vectors and heads in the output folder (``vectors/SET-corpus.npy``,
``heads/SET-default``) are used where they are there, else made; static queries are distilled from
the documents alone, without queries and judgements, and kept in ``static/SET``.

With --demo, the output folder of ``csr-st demo``, its docstrings are one more set: 1,000 summaries
are the queries.

Quality is nDCG@10 in percent, documents with k=32 latents, queries with 32 and 128; in brackets the
share of the full model's figure. "table" is least squares alone (0 epochs), with --epochs 0.

Speed: the queries of a set, one at a time and in alternation, over synthetic documents that use
latents as often as the set's own do; milliseconds from the text to ten hits, p50 and p95.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from heads import head_for
from hybrid import demo_set, texts_of
from quality_sets import Task, load
from search import synthetic
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import Searcher, SparseCSRHead, SparseIndex
from csr_st.static_queries import StaticQueries

K, TOP = 32, 10


def static_model(
    name: str, full: SentenceTransformer, texts: list[str], output: Path, epochs: int
) -> SentenceTransformer:
    """The set's model with static queries, distilled unless it is in the output folder."""
    folder = output / "static" / (name if epochs == EPOCHS else f"{name}-{epochs}")
    if not (folder / "modules.json").exists():
        started = time.perf_counter()
        done = csr_st.distill_queries(full, texts, folder, data_name=name, epochs=epochs)
        print(f"{name}: distilled in {time.perf_counter() - started:.0f} s; {done.agreement}")
    return SentenceTransformer(str(folder), device="cpu")


EPOCHS = 8


def quality(
    task: Task, head: SparseCSRHead, fast: SentenceTransformer, queries: list[str]
) -> SparseIndex:
    """Print nDCG@10 of both kinds of queries; returns the index of the documents."""
    documents = csr_st.encode_vectors(head, task.documents, K)
    index, look_up = SparseIndex.build(documents), StaticQueries(fast)
    line = [f"{task.name}: {len(task.documents):,} documents, {len(queries)} queries"]
    for k in (K, 4 * K):
        found = {
            "full": index.search(csr_st.encode_vectors(head, task.queries, k), TOP).ids,
            "static": index.search(look_up.codes(queries, k), TOP).ids,
        }
        full, static = (task.ranked(found[name]) for name in ("full", "static"))
        line.append(f"query at {k}: full {full:.1f}, static {static:.1f} ({static / full:.0%})")
    print("; ".join(line), flush=True)
    return index


def speed(searchers: dict[str, Searcher], queries: list[str], rounds: int, about: str) -> None:
    """Print times of the first 100 queries, one at a time and in alternation, after the others."""
    times: dict[str, list[float]] = {name: [] for name in searchers}
    for turn in range(rounds):
        for name, searcher in searchers.items():
            for query in queries[:100] if turn else queries[100:]:  # the first turn warms up
                started = time.perf_counter()
                searcher(query, TOP)
                if turn:
                    times[name].append(1e3 * (time.perf_counter() - started))
    for name, found in times.items():
        p50, p95 = np.percentile(found, [50, 95])
        print(f"{about}, {name} queries: p50 {p50:.3f} ms, p95 {p95:.3f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="sentence-transformers model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--output", type=Path, default=Path("static-queries"))
    parser.add_argument("--sets", default="scifact,cranfield")
    parser.add_argument("--demo", type=Path, help="output folder of csr-st demo")
    parser.add_argument("--parts", default="quality,speed")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = SentenceTransformer(args.model, device="cpu")

    def embed(texts: list[str]) -> np.ndarray:
        return backbone.encode(texts, show_progress_bar=True)

    for name in [*filter(None, args.sets.split(",")), *(["docstrings"] if args.demo else [])]:
        if name == "docstrings":
            task, texts, queries = demo_set(args.demo)
        else:
            task = load(name, args.data, args.output / "vectors", embed).unlabelled()
            texts, queries = texts_of(args.data / name)
        head = head_for(task, 0, args.output / "heads")
        full = csr_st.attach(backbone, head)
        fast = static_model(name, full, texts, args.output, args.epochs)
        if "quality" in args.parts:
            quality(task, head, fast, queries)
        if "speed" in args.parts:
            own = csr_st.encode_vectors(head, task.documents, K)
            usage = np.bincount(own.indices.ravel(), minlength=own.hidden_dim) + 1.0
            codes = synthetic(args.documents, K, usage, own.values, np.random.default_rng(0))
            index = SparseIndex.build(codes)
            models = {"full": full, "static": fast}
            for query_k in (K, 4 * K):
                searchers = {
                    kind: Searcher(model, index, query_k=query_k, threads=args.threads)
                    for kind, model in models.items()
                }
                about = f"{name}, {args.documents:,} documents, query at {query_k}"
                speed(searchers, queries, args.rounds, about)


if __name__ == "__main__":
    main()
