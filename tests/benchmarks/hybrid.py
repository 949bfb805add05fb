"""Search by codes and words: its quality and its speed beside bm25s and fusion with dense vectors.

    python tests/benchmarks/hybrid.py --model PATH --data DIR [--output DIR] [--sets scifact,...]
        [--weights 0.1,0.15,0.2] [--seeds 3] [--demo FOLDER]
    python tests/benchmarks/hybrid.py --parts speed [--documents 100000] [--rounds 7]

``DIR`` is as for quality.py. Vectors and heads in the output folder (``vectors/SET-corpus.npy``,
``heads/SET-default``, ``SET-default-1``, ``SET-half-unseen-default``) are used where they are
there, else made. Figures are means over the heads of all seeds. ``FOLDER`` is the output of
``csr-st demo``: its docstrings, of which 1,000 summaries are queries, are one more set.

Quality is nDCG@10 in percent. "min-max" is 0.6 of dense and 0.4 of bm25s, both scaled to 0..1 for a
query; "rrf" is reciprocal rank fusion of all documents, constant 60. Documents have k latents,
queries 4k. bm25s: method lucene, k1 0.9, b 0.4, English stop words and stems.

Speed: documents of 100 words drawn from 200,000 by Zipf's law, codes of k=16 of 1,536 latents, 512
queries of 14 words and 64 latents, one thread, in alternation; milliseconds of CPU time a query,
the minimum of the rounds. bm25s gets its queries split into words, ours splits them itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from heads import head_for
from quality_sets import Task, _qrels, load
from search import synthetic

import csr_st
from csr_st import Decoder, EmbeddingStore, SparseIndex, find_head
from csr_st.demo.corpus import gather
from csr_st.demo.run import HELD_OUT
from csr_st.head import SparseCSRHead

KS = (8, 16, 32)
TOP = 10
WORDS, LENGTH, ASKED, QUERIES = 200_000, 100, 14, 512


def texts_of(root: Path) -> tuple[list[str], list[str]]:
    """The texts of a set in BEIR's form, in the order of its vectors."""
    corpus, asked = (
        [json.loads(line) for line in (root / f"{part}.jsonl").open(encoding="utf-8")]
        for part in ("corpus", "queries")
    )
    judged = _qrels(root / "qrels.tsv", {item["_id"]: row for row, item in enumerate(corpus)})
    documents = [f"{item.get('title', '')} {item['text']}".strip() for item in corpus]
    return documents, [item["text"] for item in asked if item["_id"] in judged]


def demo_set(folder: Path) -> tuple[Task, list[str], list[str]]:
    """The docstrings of ``csr-st demo`` with their summaries as queries."""
    store = EmbeddingStore.open(next(folder.glob("vectors-*")))
    n = len(store) // 2
    entries = gather(8000)[:n]
    rows = np.random.default_rng(0).permutation(n)[:HELD_OUT]
    documents, queries = store.rows(np.arange(n)), store.rows(n + rows)
    relevant = [{int(row): 1.0} for row in rows]
    task = Task("docstrings", "retrieval", documents, documents, queries, relevant=relevant)
    return task, [entry.document for entry in entries], [entries[row].summary for row in rows]


def by_words(documents: list[str], queries: list[str]) -> np.ndarray:
    """(n_queries, n_documents) scores of bm25s."""
    options = {
        "stopwords": "english",
        "stemmer": Stemmer.Stemmer("english"),
        "show_progress": False,
    }
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    peer.index(bm25s.tokenize(documents, **options), show_progress=False)
    asked = bm25s.tokenize(queries, return_ids=False, **options)
    nothing = np.zeros(len(documents))
    return np.stack([peer.get_scores(words) if words else nothing for words in asked])


def scaled(scores: np.ndarray) -> np.ndarray:
    least, most = scores.min(axis=1, keepdims=True), scores.max(axis=1, keepdims=True)
    return (scores - least) / np.maximum(most - least, 1e-9)


def reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return 1 / (61 + ranks)


def row(name: str, figures: list[float], width: int = 44) -> None:
    print(f"  {name:{width}}" + "".join(f"{figure:8.1f}" for figure in figures), flush=True)


def quality(task: Task, documents: list[str], queries: list[str]) -> None:
    """Print what needs no head."""

    def figure(scores: np.ndarray) -> float:
        return task.ranked(np.argsort(-scores, axis=1, kind="stable")[:, :TOP])

    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (task.queries,
            task.documents)]  # fmt: skip
    dense, words = unit[0] @ unit[1].T, by_words(documents, queries)
    print(f"\n{task.name}: {len(documents):,} documents, {len(queries):,} queries")
    row("dense", [figure(dense)])
    row("words (bm25s)", [figure(words)])
    row("dense and words, min-max", [figure(0.6 * scaled(dense) + 0.4 * scaled(words))])
    row("dense and words, rrf", [figure(reciprocal_ranks(dense) + reciprocal_ranks(words))])


def hybrid(
    task: Task,
    label: str,
    heads: list[SparseCSRHead],
    texts: list[str],
    asked: list[str],
    weights: list[float],
) -> None:
    """Print what heads and words give on average, searched in an index."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for head, k in product(heads, KS):
        decoder = Decoder.from_head(head)
        codes = csr_st.encode_vectors(head, task.documents, k=k)
        queries = csr_st.encode_vectors(head, task.queries, k=4 * k)
        index = SparseIndex.build(codes, decoder=decoder, words=texts)
        rescoring = {"rescore": 200, "queries_dense": task.queries}
        searches: dict[str, dict] = {"codes": {}, "codes, rescored": rescoring}
        for weight in weights:
            searches[f"codes and words, weight {weight}"] = {"words": asked, "weight": weight}
        searches["codes and words"] = {"words": asked}
        searches["codes and words, rescored"] = {"words": asked, **rescoring}
        for name, options in searches.items():
            ids = index.search(queries, TOP, **options).ids
            found[name][k].append(task.ranked(ids))
    print(f"  {label:44}" + "".join(f"    k={k:<2}" for k in KS))
    for name, figures in found.items():
        row(name, [float(np.mean(figures[k])) for k in KS])


def speed(n: int, rounds: int) -> None:
    """Print times, memory and file sizes."""
    rng = np.random.default_rng(0)
    usage = 1 / np.arange(1, WORDS + 1)
    names = np.array([f"w{number}" for number in range(WORDS)])
    cumulative = np.cumsum(usage / usage.sum())

    def drawn(rows: int, length: int) -> list[str]:
        places = np.searchsorted(cumulative, rng.random((rows, length)))
        return [" ".join(words) for words in names[np.minimum(places, WORDS - 1)]]

    texts, asked = drawn(n, LENGTH), drawn(QUERIES, ASKED)
    latents = np.arange(1, 1537) ** -0.5
    documents = synthetic(n, 16, latents, None, rng)
    queries = synthetic(QUERIES, 64, latents, None, rng)
    started = time.process_time()
    both = SparseIndex.build(documents, words=texts, language=str.split)
    both.search(queries, TOP, words=asked, threads=1)
    print(f"built and compiled in {time.process_time() - started:.1f} s of CPU time")
    alone = SparseIndex.build(documents)
    split = [text.split() for text in asked]
    tokens = bm25s.tokenize(texts, stopwords=[], token_pattern=r"\S+", show_progress=False)
    peers = {}
    for backend in ("numba", "numpy"):
        peers[backend] = bm25s.BM25(method="lucene", k1=0.9, b=0.4, backend=backend)
        peers[backend].index(tokens, show_progress=False)

    def peer(backend: str) -> Callable[[slice], object]:
        options = {"k": TOP, "show_progress": False, "n_threads": 1}
        return lambda rows: peers[backend].retrieve(split[rows], **options)

    searches = {
        "bm25s, numba": peer("numba"),
        "bm25s, numpy (its default)": peer("numpy"),
        "codes": lambda rows: alone.search(queries[rows], TOP, threads=1),
        "words": lambda rows: both.search(None, TOP, words=asked[rows], threads=1),
        "codes and words": lambda rows: both.search(
            queries[rows], TOP, words=asked[rows], threads=1
        ),
    }
    batch: dict[str, list[float]] = {name: [] for name in searches}
    single: dict[str, list[float]] = {name: [] for name in searches}
    for turn in range(rounds):
        for name, search in searches.items():
            started = time.process_time()
            search(slice(0, QUERIES))
            batch[name].append((time.process_time() - started) / QUERIES * 1e3)
            for query in range(turn * 20, turn * 20 + 20):
                started = time.process_time()
                search(slice(query % QUERIES, query % QUERIES + 1))
                single[name].append((time.process_time() - started) * 1e3)
    print(f"  {'milliseconds of CPU time a query':32}{'batch':>8}{'one':>8}")
    for name in searches:
        print(f"  {name:32}{min(batch[name]):8.3f}{np.median(single[name]):8.3f}")
    fastest = min(min(batch[f"bm25s, {name}"]) for name in ("numba", "numpy (its default)"))
    together = min(batch["codes and words"])
    print(f"  codes and words against bm25s: {together / fastest:.2f}; against bm25s, then codes: "
          f"{together / (fastest + min(batch['codes'])):.2f}")  # fmt: skip
    sizes(both, alone, peers["numba"], n)


def sizes(both: SparseIndex, alone: SparseIndex, peer: bm25s.BM25, n: int) -> None:
    """Print bytes a document, without the vocabulary in memory."""
    words, postings = both._collection.words, both._live._word_postings
    stored = sum(part.nbytes for part in (words.ends, words.ids, words.counts, words.lengths))
    inverted = sum(part.nbytes for part in postings.arrays())
    arrays = sum(peer.scores[name].nbytes for name in ("data", "indices", "indptr"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        both.save(path / "both")
        alone.save(path / "alone")
        peer.save(path / "peer", show_progress=False)
        files = [(path / name).stat().st_size / n for name in ("both", "alone")]
        files.append(sum(file.stat().st_size for file in (path / "peer").iterdir()) / n)
    print(f"  bytes a document, {len(words.ids) / n:.1f} distinct words each: "
          f"words in memory {stored / n:.0f} and their postings {inverted / n:.0f}, bm25s "
          f"{arrays / n:.0f}; file of both {files[0]:.0f}, of codes alone {files[1]:.0f}, bm25s "
          f"{files[2]:.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="quality", help="quality,speed")
    parser.add_argument("--model", help="sentence-transformers model, for vectors that are missing")
    parser.add_argument("--data", type=Path, help="folder of the sets")
    parser.add_argument("--output", type=Path, default=Path("hybrid"))
    parser.add_argument("--sets", default="scifact,cranfield")
    parser.add_argument("--weights", default="", help="more weights than the default one")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--demo", type=Path, help="output folder of csr-st demo")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    weights = [float(weight) for weight in args.weights.split(",") if weight]

    def embed(texts: list[str]) -> np.ndarray:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(args.model).encode(texts, show_progress_bar=True)

    parts = set(args.parts.split(","))
    for name in args.sets.split(",") if "quality" in parts and args.data else ():
        task = load(name, args.data, args.output / "vectors", embed)
        documents, queries = texts_of(args.data / name)
        quality(task, documents, queries)
        halved = task.unlabelled().halved()
        for label, data in (("own head", task.unlabelled()), ("half unseen", halved)):
            heads = [head_for(data, seed, args.output / "heads") for seed in range(args.seeds)]
            hybrid(task, label, heads, documents, queries, weights)
    if "quality" in parts and args.demo:
        from sentence_transformers import SentenceTransformer

        task, documents, queries = demo_set(args.demo)
        quality(task, documents, queries)
        head = find_head(SentenceTransformer(str(args.demo)))
        hybrid(task, "own head", [head], documents, queries, weights)
    if "speed" in parts:
        speed(args.documents, args.rounds)


if __name__ == "__main__":
    main()
