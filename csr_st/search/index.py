"""SparseIndex: exact search over sparse codes, in one process and one file.

`collection` has documents with ids, removal and filters; `documents` the stored codes; `postings`
the inverted index; `rescoring` the scores through the decoder; `storage` the file.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import resolve_threads
from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.packed_codes import PackedCodes
from csr_st.search.collection import Collection
from csr_st.search.documents import Documents, checked_unit_codes
from csr_st.search.ids import Ids, as_new_ids
from csr_st.search.kernels.importing import announced_compilation
from csr_st.search.numbers import whole
from csr_st.search.postings import Postings
from csr_st.search.rescoring import Metric, Rescorer, check_decoder, check_metric, checked_dense
from csr_st.search.results import SearchResults
from csr_st.search.storage import read_index, write_index

_MAX_THREADS = 256
_POSTINGS_KEPT = 3  # inverted indexes of different k in memory


_alive: weakref.WeakSet[SparseIndex] = weakref.WeakSet()


class SparseIndex:
    """An exact index of sparse codes.

    The score of a query and a document is the dot product of their codes at unit norm, over all
    latents they share; nothing is approximated. Build with `build`, open with `load`.

    Several threads may search at once. `add` and `remove` may run at the same time: a search sees
    the documents from before or after, never a part of a change.
    """

    def __init__(self, documents: Documents, ids: NDArray[Any], decoder: Decoder | None) -> None:
        if decoder is not None:
            check_decoder(decoder, documents)
        self.__setstate__({"collection": Collection.of(documents, ids), "decoder": decoder})

    @classmethod
    def build(
        cls,
        codes: SparseCodes | PackedCodes,
        ids: Ids | None = None,
        decoder: Decoder | None = None,
    ) -> SparseIndex:
        """Index codes.

        The index of packed codes has exactly the values of ``codes.unpack()``, and its file is as
        small as they are; memory and speed are those of other codes.

        Args:
            codes: Documents, k latents each. Codes without norms are scaled to unit norm.
            ids: One integer or string per document; 0..n-1 if None.
            decoder: The head's decoder, to rescore with (see `search`); saved with the index.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If values are NaN, ids repeat, or sizes do not fit each other.
            ImportError: If numba is not installed.
        """
        value_bits = codes.value_bits if isinstance(codes, PackedCodes) else None
        documents = Documents.from_codes(codes, value_bits)
        return cls(documents, as_new_ids(ids, len(codes)), decoder)

    def __getstate__(self) -> dict[str, Any]:
        """The content, also of a mapped file; what a search derives from it is derived again."""
        return {"collection": self._collection, "decoder": self._decoder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._collection: Collection = state["collection"]
        self._decoder: Decoder | None = state["decoder"]
        self._postings: dict[int, Postings] = {}
        self._rescorers: dict[int, Rescorer] = {}
        self._lock = threading.RLock()
        _alive.add(self)

    def __len__(self) -> int:
        return self._collection.n_present

    def __repr__(self) -> str:
        packed = "" if self.value_bits is None else f", value_bits={self.value_bits}"
        return f"SparseIndex(n={len(self)}, k={self.k}, hidden_dim={self.hidden_dim}{packed})"

    @property
    def k(self) -> int:
        """Latents stored for each document."""
        return self._collection.documents.k

    @property
    def hidden_dim(self) -> int:
        """Number of latents of the head."""
        return self._collection.documents.hidden_dim

    @property
    def value_bits(self) -> int | None:
        """Bits of a value in a file, if the index was built from packed codes, else None."""
        return self._collection.documents.value_bits

    @property
    def decoder(self) -> Decoder | None:
        """The decoder stored with the index."""
        return self._decoder

    @property
    def ids(self) -> NDArray[Any]:
        """External ids of the documents, in order of position."""
        collection = self._collection
        ids: NDArray[Any] = collection.ids[collection.present]
        return ids

    def add(self, codes: SparseCodes | PackedCodes, ids: Ids | None = None) -> None:
        """Add documents at the end.

        They are kept as the index keeps its own: packed to its ``value_bits``, or unpacked.

        Args:
            codes: Codes with the index's hidden_dim and k.
            ids: One new id per document; if None, integers above every id that was ever used.

        Raises:
            TypeError: If ids are of another type than the index's.
            ValueError: If hidden_dim or k differ, values are NaN, or ids repeat.
        """
        more = Documents.from_codes(codes, self.value_bits)
        with self._lock:
            self._collection = self._collection.added(more, ids)

    def remove(self, ids: Ids) -> None:
        """Remove documents: all of them or, if an id is unknown, none.

        Their memory is freed once more than half of the documents were removed.

        Raises:
            TypeError: If ids are a str, or of another type than the index's.
            ValueError: If an id is not in the index.
        """
        with self._lock:
            before = self._collection
            self._collection = before.removed(ids)
            if self._collection.documents is not before.documents:
                self._postings.clear()
                self._rescorers.clear()

    def search(  # nine arguments: one request with its options
        self,
        query_codes: SparseCodes,
        top_k: int = 10,
        k: int | None = None,
        filter: Ids | NDArray[np.bool_] | None = None,
        rescore: int | None = None,
        queries_dense: NDArray[np.floating[Any]] | None = None,
        metric: Metric = "cosine",
        decoder: Decoder | None = None,
        threads: int | None = None,
    ) -> SearchResults:
        """The best documents of each query.

        Documents that share no latent with the query have score 0 and follow the others, lower
        positions first.

        Args:
            query_codes: Queries of the index's hidden_dim, at any k.
            top_k: Documents per query, at most ``len(self)``.
            k: Latents per document to use: the first k, scaled to unit norm again, as if the index
                had been built from ``codes.prefix(k)``. All of them if None.
            filter: Search only these: an array of ids, or a bool array along ``self.ids``.
            rescore: Score this many of the best documents (at least top_k) again through the
                decoder; needs ``queries_dense``. If fewer share a latent with the query, which can
                happen at a small k, all documents are rescored. See `csr_st.search.rescoring` for
                when it helps.
            queries_dense: (n_queries, input_dim) dense vectors of the queries.
            metric: Rescoring by the cosine of query and decoded document, or by their dot product.
            decoder: Used in place of the one stored with the index.
            threads: Threads to use; all available CPUs if None.

        Returns:
            Ids and scores, (n_queries, top_k), padded where a filter leaves fewer documents.

        Raises:
            TypeError: If the queries are not SparseCodes or the filter has the wrong type.
            ValueError: If a size, a value or a combination is not possible.
        """
        collection = self._collection
        documents, n_present = collection.documents, collection.n_present
        threads = resolve_threads(
            None if threads is None else min(whole("threads", threads), _MAX_THREADS)
        )
        queries = checked_unit_codes(query_codes, "query codes")
        top_k, k = _checked_request(queries, documents, n_present, top_k, k)
        check_metric(metric)
        allowed = collection.present if filter is None else collection.allowed(filter)
        depth = top_k
        if rescore is not None:
            decoder = decoder or self._decoder
            rescore = whole("rescore", rescore)
            dense = checked_dense(rescore, top_k, queries_dense, len(queries), decoder)
            depth = min(rescore, n_present)
        elif queries_dense is not None:
            raise ValueError("queries_dense is only used by rescoring; pass rescore=200 with it")
        with announced_compilation():
            postings = self._postings_at(k, documents, threads)
            positions, scores = postings.search(
                np.ascontiguousarray(queries.indices, documents.latents.dtype),
                np.ascontiguousarray(queries.values),
                depth,
                allowed,
                filter is not None or n_present < len(documents),
                threads,
            )
            if rescore is not None:
                assert decoder is not None
                rescorer = self._rescorer(k, documents, decoder)
                # Documents without a shared latent are in no meaningful order: rescore all.
                short = scores[:, -1] <= 0
                positions, scores = rescorer.rescore(dense, positions, top_k, metric, threads)
                everything = np.flatnonzero(allowed)
                if short.any() and len(everything) > depth:
                    positions[short], scores[short] = rescorer.rescore(
                        dense[short], everything, top_k, metric, threads
                    )
        return SearchResults(_external(collection.ids, positions), scores)

    def _postings_at(self, k: int, documents: Documents, threads: int) -> Postings:
        with self._lock:
            postings = self._postings.get(k)
            if postings is None or postings.documents is not documents:
                postings = Postings.build(documents, k, threads, postings)
                if documents is self._collection.documents:  # no `add` ran in between
                    self._postings.pop(k, None)
                    while len(self._postings) >= _POSTINGS_KEPT:
                        del self._postings[next(iter(self._postings))]
                    self._postings[k] = postings
            return postings

    def _rescorer(self, k: int, documents: Documents, decoder: Decoder) -> Rescorer:
        if decoder is not self._decoder:
            return Rescorer(documents, decoder, k)
        with self._lock:
            rescorer = self._rescorers.get(k)
            if rescorer is None or rescorer.documents is not documents:
                rescorer = Rescorer(documents, decoder, k)
                if documents is self._collection.documents:
                    self._rescorers[k] = rescorer
            return rescorer

    def save(self, path: str | Path) -> None:
        """Write one file, completely or not at all; removed documents are left out."""
        write_index(Path(path), self._collection.compacted(), self._decoder)

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> SparseIndex:
        """Open a file that `save` wrote, memory-mapped.

        Args:
            path: The file.
            verify: Compare the checksum, which reads the file once.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is of another type or a newer version, truncated or altered.
            ImportError: If numba is not installed.
        """
        return cls(*read_index(Path(path), verify))


def _checked_request(
    queries: SparseCodes, documents: Documents, n: int, top_k: int, k: int | None
) -> tuple[int, int]:
    """``top_k`` and ``k`` as numbers that are possible."""
    if queries.hidden_dim != documents.hidden_dim:
        raise ValueError(
            f"the queries have hidden_dim={queries.hidden_dim}, the index "
            f"{documents.hidden_dim}; encode both with the same head"
        )
    if not n:
        raise ValueError("the index is empty: there is nothing to search; add documents first")
    top_k = whole("top_k", top_k, n, "the documents in the index")
    if k is None:
        return top_k, documents.k
    return top_k, whole("k", k, documents.k, "the latents stored per document")


def _renew_locks() -> None:
    """After a fork, let go of locks of threads that the child does not have."""
    for index in _alive:
        index._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


def _external(ids: NDArray[Any], positions: NDArray[np.int64]) -> NDArray[Any]:
    external = ids[positions]
    external[positions < 0] = None if ids.dtype == object else -1
    return external
