"""Search of a million codes and more, beside SINDI, Seismic and searches of the dense vectors.

    pip install pyvsag pyseismic-lsr faiss-cpu usearch turbovec "csr-st[search]"
    python tests/benchmarks/large_search.py --vectors minilm_first_40000.npy --output DIR
        [--sizes 100000 1000000] [--ks 16 32]
        [--peers csr-st,sindi,seismic,hnsw,ivfpq,usearch,turbovec]

The documents: 39,000 real vectors multiplied. Each is a point between a vector and one of its 64
nearest, at most halfway, plus Gaussian noise of 0.3 of its length. With a million of them the tenth
nearest of a query has a cosine of 0.61; from 5,000 to 39,000 of the vectors themselves it grows by
0.031 each time their number doubles, which gives 0.62 for a million. The queries are 1,000 of the
vectors that no document is made from. Codes are of a head trained on the 39,000
(`recipe("general")`, 800 steps).

turbovec has its own threads: set RAYON_NUM_THREADS=1.

What is in the folder is used, else made: codes of 10 million documents take 20 minutes. Times are
CPU time on one thread, the least of several rounds, of a batch of 300 queries or of these singly;
wall time on two threads.
Recall of sparse peers is of the exact best ten by their codes, a document of equal score counts;
recall of dense peers and of ours with rescoring is of the ten nearest dense vectors.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import csr_st
from csr_st import Decoder, EmbeddingStore, SparseCodes, SparseIndex, recipe
from csr_st.head import SparseCSRHead

QUERIES, TOP_K, WIDEST = 300, 10, 32
PEERS_UP_TO = 2_000_000  # documents; building the peers of more takes an hour
NEAREST, HALFWAY, NOISE = 64, 0.5, 0.3
ROWS = 20_000


class Data:
    """Documents and queries of one size.

    Args:
        vectors: File of real vectors (n, d).
        folder: Where what is made is kept.
        n: Number of documents.
    """

    def __init__(self, vectors: Path, folder: Path, n: int) -> None:
        real = np.load(vectors).astype(np.float32)
        real /= np.linalg.norm(real, axis=1, keepdims=True)
        order = np.random.default_rng(0).permutation(len(real))
        self.real, self.queries = real[order[1000:]], real[order[:QUERIES]]
        self.folder, self.n = folder, n
        self.head = self._head()

    def _head(self) -> SparseCSRHead:
        path = self.folder / "head"
        if not path.exists():
            store, settings = EmbeddingStore.from_array(self.real), recipe("general", steps=800)
            head = csr_st.train(store, settings, show_progress=False).head
            path.mkdir(parents=True)
            head.save(str(path))
        return SparseCSRHead.load(str(path))

    def vectors(self) -> Iterator[np.ndarray]:
        """The documents, some at a time, always the same."""
        rng, near = np.random.default_rng(1), self._near()
        for start in range(0, self.n, ROWS):
            size = min(ROWS, self.n - start)
            one = rng.integers(0, len(self.real), size)
            other = near[one, rng.integers(0, NEAREST, size)]
            share = rng.uniform(0, HALFWAY, (size, 1)).astype(np.float32)
            mixed = (1 - share) * self.real[one] + share * self.real[other]
            mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
            noise = rng.standard_normal(mixed.shape, dtype=np.float32)
            mixed += noise * np.float32(NOISE / np.sqrt(mixed.shape[1]))
            yield mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    def _near(self) -> np.ndarray:
        path = self.folder / "near.npy"
        if not path.exists():
            near = np.empty((len(self.real), NEAREST), np.int32)
            for start in range(0, len(near), 1000):
                product = self.real[start : start + 1000] @ self.real.T
                rows = np.arange(len(product))
                product[rows, start + rows] = -1
                near[start : start + 1000] = np.argpartition(-product, NEAREST)[:, :NEAREST]
            np.save(path, near)
        return np.load(path)

    def codes(self, k: int) -> tuple[SparseCodes, SparseCodes]:
        """Of documents and queries, k latents each."""
        paths = [self.folder / f"{name}-{self.n}.npy" for name in ("latents", "values")]
        if not all(path.exists() for path in paths):
            types = np.uint16, np.float16
            made = [np.lib.format.open_memmap(f"{path}.part", "w+", dtype, (self.n, WIDEST))
                    for path, dtype in zip(paths, types, strict=True)]  # fmt: skip
            start = 0
            for rows in self.vectors():
                codes = csr_st.encode_vectors(self.head, rows, WIDEST)
                for array, part in zip(made, (codes.indices, codes.values), strict=True):
                    array[start : start + len(rows)] = part
                start += len(rows)
            for path in paths:
                Path(f"{path}.part").rename(path)
        latents, values = (np.load(path, mmap_mode="r")[:, :k] for path in paths)
        documents = SparseCodes(np.ascontiguousarray(latents), np.ascontiguousarray(values),
                                self.head.hidden_dim)  # fmt: skip
        return documents.normalize(), csr_st.encode_vectors(self.head, self.queries, k)

    def dense(self) -> np.ndarray:
        return np.concatenate(list(self.vectors()))


class Row(NamedTuple):
    """One setting of one search: microseconds a query, singly."""

    n: int
    k: int
    name: str
    mean: float
    recall: float


def singly(search: Callable[[int], np.ndarray], rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """(n_queries,) microseconds of CPU of each query, the least of some rounds; the results."""
    times = np.empty((rounds, QUERIES))
    for turn in range(rounds):
        found = []
        for row in range(QUERIES):
            started = time.process_time_ns()
            found.append(search(row))
            times[turn, row] = (time.process_time_ns() - started) / 1e3
    return times.min(axis=0), np.stack(found)


def least(search: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Microseconds of CPU a query, and the result."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        found = search()
        times.append(time.process_time() - started)
    return min(times) / QUERIES * 1e6, found


class Ours:
    """SparseIndex: exact, or at about a recall."""

    name = "csr-st"
    settings = (None, 0.99, 0.95, 0.9)

    def __init__(self, documents: SparseCodes, queries: SparseCodes) -> None:
        self.queries = queries
        self.index = SparseIndex.build(documents)
        self.one(0, None)

    def one(self, row: int, setting: float | None) -> np.ndarray:
        query = self.queries[row]
        return self.index.search(query, TOP_K, threads=1, approximate=setting).ids[0]

    def batch(self, setting: float | None, threads: int = 1) -> np.ndarray:
        return self.index.search(self.queries, TOP_K, threads=threads, approximate=setting).ids


class Sindi:
    """SINDI of VSAG; settings: candidates, share of the query's and of a list's smallest values
    left out."""

    name = "sindi"
    settings = ((50, 0.0, 0.0), (50, 0.2, 0.0), (100, 0.3, 0.0), (100, 0.4, 0.0), (200, 0.5, 0.0),
                (200, 0.6, 0.0), (100, 0.2, 0.2))  # fmt: skip

    def __init__(self, documents: SparseCodes, queries: SparseCodes) -> None:
        import pyvsag

        n, k = documents.indices.shape
        self.queries = queries.indices.astype(np.uint32), queries.values
        about = {"term_id_limit": documents.hidden_dim, "window_size": 50_000,
                 "doc_prune_ratio": 0.0, "use_quantization": True, "use_reorder": True,
                 "avg_doc_term_length": k}  # fmt: skip
        settings = {"dtype": "sparse", "metric_type": "ip", "dim": k, "index_param": about}
        self.index = pyvsag.Index("sindi", json.dumps(settings))
        latents = documents.indices.astype(np.uint32).ravel()
        values = documents.values.astype(np.float32).ravel()
        ends = np.arange(0, n * k + 1, k, dtype=np.uint32)
        self.index.build(ends, latents, values, np.arange(n, dtype=np.int64))

    def one(self, row: int, setting: tuple[int, float, float]) -> np.ndarray:
        names = "n_candidate", "query_prune_ratio", "term_prune_ratio"
        how = f'{{"sindi": {json.dumps(dict(zip(names, setting, strict=True)))}}}'
        latents, values = self.queries
        ends = np.array([0, latents.shape[1]], np.uint32)
        ids, _ = self.index.knn_search(ends, latents[row], values[row], TOP_K, how)
        return padded(np.ravel(ids))


class Seismic:
    """Seismic; settings: heap factor, share of the query's latents."""

    name = "seismic"
    settings = ((1.0, 0.5), (1.0, 0.7), (1.0, 1.0), (0.9, 1.0), (0.8, 1.0))

    def __init__(self, documents: SparseCodes, queries: SparseCodes) -> None:
        import seismic

        names = np.array([str(latent) for latent in range(documents.hidden_dim)],
                         dtype=seismic.get_seismic_string())  # fmt: skip
        values = documents.values.astype(np.float32)
        data = seismic.SeismicDataset()
        for row in range(len(documents)):
            data.add_document(str(row), names[documents.indices[row]], values[row])
        self.index = seismic.SeismicIndex.build_from_dataset(
            data, n_postings=len(documents) // 250, summary_energy=0.5, max_fraction=6.0,
            centroid_fraction=0.05, doc_cut=documents.k, num_threads=1,
        )  # fmt: skip
        self.queries = [(names[row], queries.values[number])
                        for number, row in enumerate(queries.indices)]  # fmt: skip

    def one(self, row: int, setting: tuple[float, float]) -> np.ndarray:
        latents, values = self.queries[row]
        hits = self.index.search(str(row), latents, values, k=TOP_K, heap_factor=setting[0],
                                 query_cut=int(setting[1] * len(latents)))  # fmt: skip
        return padded([int(hit[2]) for hit in hits])


def padded(ids: Any) -> np.ndarray:
    found = np.zeros(TOP_K, np.int64)
    found[: len(ids)] = ids
    return found


SPARSE = {peer.name: peer for peer in (Ours, Sindi, Seismic)}


def sparse(data: Data, k: int, names: list[str]) -> list[Row]:
    """Print times and recall of what searches codes."""
    documents, queries = data.codes(k)
    truth, rows = None, []
    for name in [name for name in SPARSE if name in names]:
        before, started = resident(), time.process_time()
        peer = SPARSE[name](documents, queries)
        print(
            f"  {name}: built in {time.process_time() - started:.1f} s of CPU, "
            f"{(resident() - before) / data.n:.0f} bytes a document more in memory",
            flush=True,
        )
        rounds = 3 if name == Ours.name else 2
        for setting in peer.settings:
            each, found = singly(lambda row, peer=peer, how=setting: peer.one(row, how), rounds)
            truth = truth if truth is not None else least_scores(documents, queries, found)
            p50, p99 = np.percentile(each, [50, 99])
            line = (
                f"    {setting!s:18} singly {each.mean():6.0f} us, p50 {p50:6.0f}, p99 {p99:6.0f}"
            )
            if isinstance(peer, Ours):
                batch, _ = least(lambda peer=peer, how=setting: peer.batch(how), rounds)
                line += f"   batch {batch:6.0f}, two threads {wall(peer, setting):6.0f} (wall)"
            share = recall(documents, queries, found, truth)
            rows.append(Row(data.n, k, name, float(each.mean()), share))
            print(f"{line}   recall {share:.4f}", flush=True)
        del peer
    return rows


def wall(peer: Ours, setting: float | None) -> float:
    """Microseconds of wall time a query, in a batch on two threads."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        peer.batch(setting, threads=2)
        times.append(time.perf_counter() - started)
    return min(times) / QUERIES * 1e6


def draw(rows: list[Row], path: Path) -> None:
    """Queries a second against recall at the largest size, and the exact search against size."""
    import matplotlib.pyplot as plt

    ks = sorted({row.k for row in rows})
    compared = [row.n for row in rows if row.name != Ours.name] or [row.n for row in rows]
    largest = max(compared)
    figure, panes = plt.subplots(1, len(ks) + 1, figsize=(4 * len(ks) + 4, 3.6), dpi=110)
    for k, pane in zip(ks, panes[:-1], strict=True):
        for name in SPARSE:
            points = sorted((row.recall, 1e6 / row.mean) for row in rows
                            if (row.n, row.k, row.name) == (largest, k, name))  # fmt: skip
            if points:
                pane.plot(*zip(*points, strict=True), "o-", label=name)
        pane.set(xlabel="recall of the exact ten", ylabel="queries a second, one thread",
                 title=f"{largest:,} documents, k={k}", xlim=(0.9, 1.003))  # fmt: skip
        pane.set_ylim(0, None)
        pane.legend()
    for k in ks:
        exact: dict[int, float] = {}
        for row in rows:
            if row.name == Ours.name and row.k == k:
                exact.setdefault(row.n, row.mean / 1e3)
        panes[-1].loglog(list(exact), list(exact.values()), "o-", label=f"csr-st, exact, k={k}")
    panes[-1].set(xlabel="documents", ylabel="ms a query", title="growth")
    panes[-1].legend()
    figure.tight_layout()
    figure.savefig(path)


def score(documents: SparseCodes, queries: SparseCodes, ids: np.ndarray) -> np.ndarray:
    """(n_queries, top_k) scores of documents."""
    spread = queries.to_scipy().toarray()
    latents, values = documents.indices[ids], documents.values[ids].astype(np.float32)
    return np.stack([(spread[row][latents[row]] * values[row]).sum(1) for row in range(len(ids))])


def least_scores(documents: SparseCodes, queries: SparseCodes, exact: np.ndarray) -> np.ndarray:
    return score(documents, queries, exact).min(axis=1, keepdims=True)


def recall(documents: SparseCodes, queries: SparseCodes, ids: np.ndarray, kth: np.ndarray) -> float:
    return float((score(documents, queries, ids) >= kth - 1e-5).mean())


def resident() -> int:
    """Bytes of memory that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def dense(data: Data, names: list[str], bits: int) -> None:
    """Print times and recall of the nearest dense vectors: peers, and ours with rescoring."""
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = data.dense()
    dim = vectors.shape[1]
    flat = faiss.IndexFlatIP(dim)
    flat.add(vectors)
    kth = flat.search(data.queries, TOP_K)[0][:, -1:]
    del flat

    def report(name: str, search: Callable[[], np.ndarray], size: float) -> None:
        took, ids = least(search, 2)
        found = float((np.einsum("qd,qkd->qk", data.queries, vectors[ids]) >= kth - 1e-5).mean())
        print(f"    {name:46} one at a time {took:7.0f} us   recall {found:.3f}   "
              f"{size:5.0f} bytes a document", flush=True)  # fmt: skip

    for name in names:
        if name in DENSE:
            DENSE[name](data, vectors, report)
    rescored(data, vectors, bits, report)


def one_by_one(index: Any, queries: np.ndarray) -> Callable[[], np.ndarray]:
    rows = [queries[row : row + 1] for row in range(QUERIES)]
    return lambda: np.concatenate([index.search(row, TOP_K)[1] for row in rows])


def hnsw(data: Data, vectors: np.ndarray, report: Callable[..., None]) -> None:
    """The graph of faiss; 32 neighbours of four bytes a document beside its vector."""
    import faiss

    dim = vectors.shape[1]
    index = faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    faiss.omp_set_num_threads(2)
    index.add(vectors)
    faiss.omp_set_num_threads(1)
    for depth in (16, 32, 64, 128, 256):
        index.hnsw.efSearch = depth
        report(f"HNSW, M=16, efSearch={depth}", one_by_one(index, data.queries), 4 * dim + 128)


def ivfpq(data: Data, vectors: np.ndarray, report: Callable[..., None]) -> None:
    """Inverted lists of faiss with 4-bit product quantization, the best scored by the vectors."""
    import faiss

    dim = vectors.shape[1]
    for parts in (48, 96):
        made = f"IVF{int(4 * data.n**0.5)},PQ{parts}x4fs,RFlat"
        index = faiss.index_factory(dim, made, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, data.n // 100_000)])
        index.add(vectors)
        index.k_factor = 10
        for probes in (4, 16, 64):
            faiss.extract_index_ivf(index.base_index).nprobe = probes
            search = one_by_one(index, data.queries)
            report(f"{made}, nprobe={probes}", search, parts / 2 + 8 + 4 * dim)


def usearch(data: Data, vectors: np.ndarray, report: Callable[..., None]) -> None:
    """The graph of usearch, of vectors in float16 and 32 neighbours."""
    from usearch.index import Index

    dim = vectors.shape[1]
    index = Index(ndim=dim, metric="ip", dtype="f16", connectivity=16, expansion_add=80)
    index.add(np.arange(len(vectors)), vectors, threads=2)
    for depth in (16, 32, 64, 128, 256):
        index.expansion_search = depth

        def search() -> np.ndarray:
            rows = [index.search(query, TOP_K, threads=1).keys for query in data.queries]
            return np.stack(rows).astype(np.int64)

        report(f"usearch, expansion_search={depth}", search, 2 * dim + 128)


def turbovec(data: Data, vectors: np.ndarray, report: Callable[..., None]) -> None:
    """Vectors in 2 to 4 bits a dimension, all of which are scored."""
    import turbovec

    dim = vectors.shape[1]
    rows = [data.queries[row : row + 1] for row in range(QUERIES)]
    for bits in (2, 3, 4):
        index = turbovec.TurboQuantIndex(dim, bits)
        index.add(vectors)
        report(
            f"turbovec, {bits} bits",
            lambda index=index: np.concatenate([index.search(row, TOP_K)[1] for row in rows]),
            bits * dim / 8 + 4,
        )


DENSE = {"hnsw": hnsw, "ivfpq": ivfpq, "usearch": usearch, "turbovec": turbovec}


def rescored(data: Data, vectors: np.ndarray, bits: int, report: Callable[..., None]) -> None:
    """SparseIndex with rescoring through the decoder, k=32 and queries at 128."""
    options = {} if bits == 0 else {"residual_bits": bits}
    codes = csr_st.encode_vectors(data.head, vectors, WIDEST, **options)
    index = SparseIndex.build(codes, decoder=Decoder.from_head(data.head))
    queries = csr_st.encode_vectors(data.head, data.queries, 4 * WIDEST)
    size = 64 + bits * vectors.shape[1] / 8
    for depth in (50, 200, 800):
        for recall_asked in (None, 0.95):
            options = {"rescore": depth, "threads": 1, "approximate": recall_asked}

            def ours(options: dict = options) -> np.ndarray:
                found = [
                    index.search(queries[row], TOP_K, queries_dense=data.queries[[row]], **options)
                    for row in range(QUERIES)
                ]
                return np.concatenate([result.ids for result in found])

            ours()
            name = f"csr-st, {bits} residual bits, rescore={depth}"
            report(name + (f", {recall_asked}" if recall_asked else ""), ours, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--ks", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--peers", default="csr-st,sindi,seismic")
    parser.add_argument("--residual-bits", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="file of a picture of the sparse searches")
    args = parser.parse_args()
    names, rows = args.peers.split(","), []
    for n in args.sizes:
        data = Data(args.vectors, args.output, n)
        for k in args.ks if set(names) & set(SPARSE) else []:
            print(f"\n{n:,} documents, k={k}, h={data.head.hidden_dim}", flush=True)
            rows += sparse(data, k, names if n <= PEERS_UP_TO else [Ours.name])
        if set(names) & set(DENSE):
            print(f"\n{n:,} documents, nearest dense vectors", flush=True)
            dense(data, names, args.residual_bits)
    if args.picture and rows:
        draw(rows, args.picture)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\npeak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
