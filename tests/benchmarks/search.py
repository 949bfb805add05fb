"""Time of SparseIndex and of other searches, in alternation in one run.

    python tests/benchmarks/search.py --sizes 10000 100000 --shapes 384x1536 4096x16384

Codes are synthetic unless --codes names a file of SparseCodes.save: up to the size of that file its
own rows are searched; larger sets are drawn with its latent frequencies and values. Prints a table,
writes search.json and search.png. Times are milliseconds per query: the minimum and the median of
the rounds for a batch (three per turn), p50 and p95 for a single query, and the minimum CPU time of
a batch over all threads. On a shared machine compare the minimum.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from search_peers import DENSE_PEERS, SPARSE_PEERS, Ours, Scipy, installed

from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex

MAX_DENSE_BYTES = 4e9
BATCHES = 3  # per turn, as the first one starts with cold caches
PAUSE = 0.3  # seconds until the threads of the peer before, which spin for a while, are idle


def main() -> None:
    """Measure and print every combination of the command line."""
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    runs = []
    for shape in options.shapes:
        input_dim, hidden_dim = map(int, shape.split("x"))
        template = SparseCodes.load(options.codes) if options.codes else None
        if template is not None and template.hidden_dim != hidden_dim:
            continue
        for size in options.sizes:
            run = measure(size, input_dim, hidden_dim, template, options)
            runs.append(run)
            show(run)
            (options.output / "search.json").write_text(json.dumps(runs, indent=1))
    if runs:
        draw(runs, options.output / "search.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shapes", nargs="+", default=["384x1536", "4096x16384"])
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--query-k", type=int, help="latents of a query, the first ones; k if none")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--singles", type=int, default=100, help="queries searched one at a time")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skew", type=float, default=0.0, help="Zipf exponent of latent usage")
    parser.add_argument("--codes", type=Path, help="file of SparseCodes.save to imitate")
    parser.add_argument("--peers", nargs="*", help="only these peers, by name")
    parser.add_argument("--output", type=Path, default=Path("benchmark-search"))
    return parser.parse_args()


def synthetic(
    n: int, k: int, usage: np.ndarray, rows: np.ndarray | None, rng: np.random.Generator
) -> SparseCodes:
    """Codes whose latents are drawn without replacement, by usage, and values from rows."""
    hidden_dim = len(usage)
    cumulative = np.cumsum(usage / usage.sum())
    indices = np.empty((n, k), np.uint16 if hidden_dim <= 2**16 else np.uint32)
    for start in range(0, n, 20_000):
        stop = min(start + 20_000, n)
        drawn = np.zeros((stop - start, 0), np.int64)
        while True:
            more = np.searchsorted(cumulative, rng.random((stop - start, 2 * k)), side="right")
            drawn = np.concatenate([drawn, np.minimum(more, hidden_dim - 1)], axis=1)
            order = np.argsort(drawn, axis=1, kind="stable")
            ordered = np.take_along_axis(drawn, order, 1)
            repeated = np.zeros(drawn.shape, bool)
            np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
            if ((~repeated).sum(axis=1) >= k).all():
                break
        first = np.argsort(repeated, axis=1, kind="stable")[:, :k]
        indices[start:stop] = np.take_along_axis(drawn, first, 1)
    if rows is None:
        values = np.sort(rng.exponential(size=(n, k)).astype(np.float32) + 0.3, axis=1)[:, ::-1]
    else:
        values = rows[rng.integers(0, len(rows), n), :k].astype(np.float32)
        for row in range(0, n, 20_000):
            # The rank of a latent in its row does not depend on its frequency.
            rng.permuted(indices[row : row + 20_000], axis=1, out=indices[row : row + 20_000])
    return SparseCodes(indices, np.ascontiguousarray(values), hidden_dim).normalize()


def make_codes(
    size: int, hidden_dim: int, template: SparseCodes | None, options: argparse.Namespace
) -> tuple[SparseCodes, SparseCodes, str]:
    rng = np.random.default_rng(size)
    if template is None:
        usage, rows = np.arange(1, hidden_dim + 1) ** -options.skew, None
        source = f"synthetic, usage skew {options.skew}"
    else:
        template = template.prefix(options.k)
        if len(template) >= size + options.queries:
            chosen = template[rng.permutation(len(template))]
            return chosen[:size], chosen[size : size + options.queries], "real"
        usage = np.bincount(template.indices[template.values > 0], minlength=hidden_dim)
        rows, source = template.values, "synthetic, usage and values of real codes"
    documents = synthetic(size, options.k, usage, rows, rng)
    return documents, synthetic(options.queries, options.k, usage, rows, rng), source


def measure(
    size: int,
    input_dim: int,
    hidden_dim: int,
    template: SparseCodes | None,
    options: argparse.Namespace,
) -> dict:
    documents, queries, source = make_codes(size, hidden_dim, template, options)
    queries = queries.prefix(options.query_k or options.k)
    rng = np.random.default_rng(0)
    dense_rows = min(size, int(MAX_DENSE_BYTES / 4 / input_dim))
    if 100_000 < dense_rows < size:  # dense time grows as n; extrapolated times are marked
        dense_rows = 100_000
    dense = rng.standard_normal((dense_rows, input_dim), np.float32)
    dense_queries = rng.standard_normal((options.queries, input_dim), np.float32)
    common = (options.top_k, options.threads)
    chosen = [
        peer
        for peer in SPARSE_PEERS + DENSE_PEERS
        if installed(peer) and (not options.peers or peer.name in options.peers)
    ]
    peers, run = [], {
        "n": size, "input_dim": input_dim, "hidden_dim": hidden_dim, "k": options.k,
        "codes": source, "queries": options.queries, "top_k": options.top_k,
        "threads": options.threads, "machine": platform.processor() or platform.machine(),
        "index": index_facts(documents, options.threads), "peers": {},
    }  # fmt: skip
    for peer in chosen:
        if peer in DENSE_PEERS:
            made = peer(dense, dense_queries, *common)
            run["peers"][peer.name] = {"scale": size / dense_rows}
        else:
            start = time.perf_counter()
            made = peer(documents, queries, *common)
            run["peers"][peer.name] = {"scale": 1.0, "build_s": time.perf_counter() - start}
        peers.append(made)
    add_recall(run, peers, documents, queries, options)
    add_times(run, peers, options)
    del peers
    gc.collect()
    return run


def index_facts(documents: SparseCodes, threads: int) -> dict:
    """Build time including the postings, bytes on disk and load time of the index."""
    warm = SparseIndex.build(documents[:100])
    warm.search(documents[:1], 1)
    start = time.perf_counter()
    index = SparseIndex.build(documents)
    index.search(documents[:1], 1, threads=threads)
    build = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save(path)
        size = path.stat().st_size
        start = time.perf_counter()
        SparseIndex.load(path).search(documents[:1], 1, threads=threads)
        load = time.perf_counter() - start
    nonzero = int((documents.values > 0).sum())
    return {
        "build_s": build,
        "documents_a_minute": len(documents) / build * 60,
        "load_and_first_search_s": load,
        "file_bytes_a_document": size / len(documents),
        "bytes_allowed_a_document": 5 * nonzero / len(documents) + 16,
    }


def add_recall(
    run: dict, peers: list, documents: SparseCodes, queries: SparseCodes, options
) -> None:
    """Recall of the exact best by each sparse peer; a document of equal score counts."""
    exact = Scipy(documents, queries, *(options.top_k, 1))
    product = (exact.queries[:64] @ exact.transposed).toarray()
    kth = -np.sort(-product, axis=1)[:, options.top_k - 1]
    for peer in peers:
        if type(peer) not in SPARSE_PEERS:
            continue
        ids = peer.batch()[:64]
        scores = np.where(ids >= 0, np.take_along_axis(product, np.maximum(ids, 0), 1), -1)
        run["peers"][peer.name]["recall"] = float((scores >= kth[:, None] - 1e-6).mean())
        if isinstance(peer, Ours):
            got = peer.index.search(queries[:64], options.top_k).scores
            best = -np.sort(-product, axis=1)[:, : options.top_k]
            run["index"]["largest_score_error"] = float(np.abs(got - best).max())


def add_times(run: dict, peers: list, options: argparse.Namespace) -> None:
    batches = {peer.name: [] for peer in peers}
    processor = {peer.name: [] for peer in peers}
    singles = {peer.name: [] for peer in peers}
    for turn in range(options.rounds):
        for peer in peers:
            time.sleep(PAUSE)
            for _ in range(BATCHES):
                start, busy = time.perf_counter(), time.process_time()
                peer.batch()
                batches[peer.name].append((time.perf_counter() - start) / options.queries * 1e3)
                processor[peer.name].append((time.process_time() - busy) / options.queries * 1e3)
            for query in range(-(-options.singles // options.rounds)):
                number = (turn * 31 + query) % options.queries
                start = time.perf_counter()
                peer.one(number)
                singles[peer.name].append((time.perf_counter() - start) * 1e3)
    for name, facts in run["peers"].items():
        scale = facts["scale"]
        facts["batch_ms"] = {
            "min": min(batches[name]) * scale, "median": float(np.median(batches[name])) * scale
        }  # fmt: skip
        facts["batch_processor_ms"] = min(processor[name]) * scale
        p50, p95 = np.percentile(singles[name], [50, 95]) * scale
        facts["one_ms"] = {"min": min(singles[name]) * scale, "p50": p50, "p95": p95}


def show(run: dict) -> None:
    facts = run["index"]
    print(
        f"\nn={run['n']:,} d={run['input_dim']} h={run['hidden_dim']} k={run['k']} "
        f"({run['codes']}, {run['queries']} queries, {run['threads']} threads)"
    )
    print(
        f"  build {facts['build_s']:.2f} s = {facts['documents_a_minute'] / 1e6:.1f}M per minute; "
        f"file {facts['file_bytes_a_document']:.1f} of {facts['bytes_allowed_a_document']:.0f} "
        f"bytes per document; load + first search {facts['load_and_first_search_s']:.2f} s; score "
        f"error {facts.get('largest_score_error', float('nan')):.1e}"
    )
    ours = run["peers"].get(Ours.name)
    print(f"  {'':16} {'batch min':>10} {'median':>9} {'ratio':>7} {'one p50':>9} {'p95':>9} "
          f"{'ratio':>7} {'CPU':>9} {'ratio':>7} {'recall':>7}")  # fmt: skip
    for name, peer in run["peers"].items():
        batch, one = peer["batch_ms"], peer["one_ms"]
        ratios = ("", "", "")
        if ours:
            ratios = (
                f"{batch['min'] / ours['batch_ms']['min']:.1f}x",
                f"{one['p50'] / ours['one_ms']['p50']:.1f}x",
                f"{peer['batch_processor_ms'] / ours['batch_processor_ms']:.1f}x",
            )
        recall = f"{peer['recall']:.4f}" if "recall" in peer else ""
        mark = " (extrapolated)" if peer["scale"] != 1 else ""
        print(
            f"  {name:16} {batch['min']:10.4f} {batch['median']:9.4f} {ratios[0]:>7} "
            f"{one['p50']:9.4f} {one['p95']:9.4f} {ratios[1]:>7} "
            f"{peer['batch_processor_ms']:9.4f} {ratios[2]:>7} {recall:>7}{mark}"
        )


def draw(runs: list[dict], path: Path) -> None:
    """Log-log plot of milliseconds per query against n, one panel per shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shapes = sorted({(run["input_dim"], run["hidden_dim"]) for run in runs})
    figure, axes = plt.subplots(1, len(shapes), figsize=(6 * len(shapes), 4.5), squeeze=False)
    for axis, (input_dim, hidden_dim) in zip(axes[0], shapes, strict=True):
        chosen = [run for run in runs if run["hidden_dim"] == hidden_dim]
        for name in dict.fromkeys(name for run in chosen for name in run["peers"]):
            points = [
                (run["n"], run["peers"][name]["batch_ms"]["min"])
                for run in chosen
                if name in run["peers"]
            ]
            axis.loglog(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set(title=f"d={input_dim}, h={hidden_dim}", xlabel="documents")
        axis.set_ylabel("milliseconds per query, batch")
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
