"""The searches that `search.py` compares, each with a batch and with a single query.

Sparse peers search the same codes, dense peers random vectors of the model's width, as their time
does not depend on the values. A peer that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import numpy as np

from csr_st import codes as codes_module
from csr_st.search import SparseIndex

Codes = codes_module.SparseCodes


class Ours:
    """SparseIndex, exact."""

    name = "csr-st"

    def __init__(self, documents: Codes, queries: Codes, top_k: int, threads: int) -> None:
        self.queries, self.top_k, self.threads = queries, top_k, threads
        self.index = SparseIndex.build(documents)

    def batch(self) -> Any:
        return self.index.search(self.queries, self.top_k, threads=self.threads).ids

    def one(self, query: int) -> Any:
        return self.index.search(self.queries[query], self.top_k, threads=self.threads).ids


class Scipy:
    """The sparse product and a partial sort."""

    name = "scipy"

    def __init__(self, documents: Codes, queries: Codes, top_k: int, threads: int) -> None:
        self.transposed = documents.to_scipy().T.tocsr()
        self.queries, self.top_k = queries.to_scipy(), top_k

    def batch(self) -> Any:
        return self._top(self.queries)

    def one(self, query: int) -> Any:
        return self._top(self.queries[query])

    def _top(self, queries: Any) -> Any:
        product = queries @ self.transposed
        ids = np.full((product.shape[0], self.top_k), -1, np.int64)
        for row in range(product.shape[0]):
            found = slice(product.indptr[row], product.indptr[row + 1])
            scores, columns = product.data[found], product.indices[found]
            if len(scores) > self.top_k:
                best = np.argpartition(-scores, self.top_k)[: self.top_k]
                scores, columns = scores[best], columns[best]
            ids[row, : len(columns)] = columns[np.argsort(-scores)]
        return ids


class SparseDotTopn:
    """sparse_dot_topn, exact."""

    name = "sparse_dot_topn"
    needs = "sparse_dot_topn"

    def __init__(self, documents: Codes, queries: Codes, top_k: int, threads: int) -> None:
        self.transposed = documents.to_scipy().T.tocsr()
        self.queries, self.top_k, self.threads = queries.to_scipy(), top_k, threads

    def batch(self) -> Any:
        return self._top(self.queries, self.threads)

    def one(self, query: int) -> Any:
        return self._top(self.queries[query], None)

    def _top(self, queries: Any, threads: int | None) -> Any:
        from sparse_dot_topn import sp_matmul_topn

        found = sp_matmul_topn(
            queries, self.transposed, top_n=self.top_k, n_threads=threads, sort=True
        )
        ids = np.full((found.shape[0], self.top_k), -1, np.int64)
        for row in range(found.shape[0]):
            columns = found.indices[found.indptr[row] : found.indptr[row + 1]]
            ids[row, : len(columns)] = columns
        return ids


class Seismic:
    """Seismic, approximate; its settings give a recall above 0.99."""

    name = "seismic"
    needs = "seismic"

    def __init__(self, documents: Codes, queries: Codes, top_k: int, threads: int) -> None:
        import seismic

        self.top_k, self.threads, self.k = top_k, threads, queries.k
        text = seismic.get_seismic_string()
        dataset = seismic.SeismicDataset()
        for row in range(len(documents)):
            dataset.add_document(
                str(row),
                documents.indices[row].astype(text),
                documents.values[row].astype(np.float32),
            )
        self.index = seismic.SeismicIndex.build_from_dataset(
            dataset,
            n_postings=6000,
            summary_energy=0.7,
            max_fraction=6.0,
            doc_cut=documents.k,
            num_threads=threads,
        )
        self.names = np.array([str(query) for query in range(len(queries))], dtype=text)
        self.tokens = [row.astype(text) for row in queries.indices]
        self.values = [row.astype(np.float32) for row in queries.values]
        self.heap_factor = 1.0

    def batch(self) -> Any:
        found = self.index.batch_search(
            self.names, self.tokens, self.values, k=self.top_k, query_cut=self.k,
            heap_factor=self.heap_factor, num_threads=self.threads,
        )  # fmt: skip
        ids = np.full((len(self.names), self.top_k), -1, np.int64)
        for hits in found:
            for rank, (query, _, document) in enumerate(hits):
                ids[int(query), rank] = int(document)
        return ids

    def one(self, query: int) -> Any:
        return self.index.search(
            self.names[query], self.tokens[query], self.values[query], k=self.top_k,
            query_cut=self.k, heap_factor=self.heap_factor,
        )  # fmt: skip


class Sindi:
    """SINDI of VSAG, approximate: it leaves out as much of a query as its recall stays 0.99."""

    name = "sindi"
    needs = "pyvsag"

    def __init__(self, documents: Codes, queries: Codes, top_k: int, threads: int) -> None:
        import pyvsag

        n, k = documents.indices.shape
        self.queries = queries.indices.astype(np.uint32), queries.values.astype(np.float32)
        self.ends, self.top_k = np.array([0, queries.k], np.uint32), top_k
        about = {"term_id_limit": documents.hidden_dim, "window_size": 50_000,
                 "doc_prune_ratio": 0.0, "use_quantization": True, "use_reorder": True,
                 "avg_doc_term_length": k}  # fmt: skip
        settings = {"dtype": "sparse", "metric_type": "ip", "dim": max(k, queries.k),
                    "index_param": about}  # fmt: skip
        self.index = pyvsag.Index("sindi", json.dumps(settings))
        self.index.build(np.arange(0, n * k + 1, k, dtype=np.uint32),
                         documents.indices.astype(np.uint32).ravel(),
                         documents.values.astype(np.float32).ravel(),
                         np.arange(n, dtype=np.int64))  # fmt: skip
        exact = Scipy(documents, queries[: self.tuned_on], top_k, threads).batch()
        for left_out in (0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0):
            self.how = json.dumps({"sindi": {"n_candidate": 5 * top_k,
                                             "query_prune_ratio": left_out}})  # fmt: skip
            found = [self.one(query) for query in range(len(exact))]
            both = [len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=True)]
            if np.mean(both) >= 0.99 * top_k:
                break

    tuned_on = 64  # queries

    def batch(self) -> Any:
        return np.stack([self.one(query) for query in range(len(self.queries[0]))])

    def one(self, query: int) -> Any:
        latents, values = (array[query] for array in self.queries)
        ids, _ = self.index.knn_search(self.ends, latents, values, self.top_k, self.how)
        return np.pad(np.ravel(ids), (0, self.top_k - np.size(ids)), constant_values=-1)


class FaissFlat:
    """faiss, exact inner product of dense vectors."""

    name = "faiss dense"
    needs = "faiss"

    def __init__(self, documents: Any, queries: Any, top_k: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = faiss.IndexFlatIP(documents.shape[1])
        self.index.add(documents)
        self.queries, self.top_k = queries, top_k

    def batch(self) -> None:
        self.index.search(self.queries, self.top_k)

    def one(self, query: int) -> None:
        self.index.search(self.queries[query : query + 1], self.top_k)


class TorchDense:
    """A torch product of dense vectors and topk."""

    name = "torch dense"
    needs = "torch"

    def __init__(self, documents: Any, queries: Any, top_k: int, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.documents, self.queries = torch.from_numpy(documents).T, torch.from_numpy(queries)
        self.top_k = top_k

    def batch(self) -> None:
        for part in self.queries.split(128):
            (part @ self.documents).topk(self.top_k)

    def one(self, query: int) -> None:
        (self.queries[query : query + 1] @ self.documents).topk(self.top_k)


SPARSE_PEERS = [Ours, SparseDotTopn, Scipy, Seismic, Sindi]
DENSE_PEERS = [FaissFlat, TorchDense]


def installed(peer: Any) -> bool:
    """Whether the library of a peer can be imported."""
    return importlib.util.find_spec(getattr(peer, "needs", "numpy")) is not None
