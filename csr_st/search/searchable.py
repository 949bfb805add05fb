"""`Searchable`: the properties and the `search` that `SparseIndex` and `SegmentedIndex` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import resolve_threads
from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.search.documents import Similarity
from csr_st.search.ids import Ids, as_id_array
from csr_st.search.numbers import whole
from csr_st.search.parts import Parts
from csr_st.search.requests import (
    boosted_queries,
    checked_queries,
    checked_recall,
    checked_sizes,
    checked_threads,
    word_queries,
)
from csr_st.search.rescoring import Metric, check_metric, checked_dense
from csr_st.search.results import SearchResults
from csr_st.search.searching import Rescoring, Search


class Searchable(ABC):
    """Base class of `SparseIndex` and `SegmentedIndex`: an index of codes, of words, or of both."""

    @abstractmethod
    def _parts(self) -> Parts:
        """The documents as they are at this moment."""

    def __len__(self) -> int:
        return self._parts().n_present

    @property
    def k(self) -> int:
        """Latents stored for each document; 0 if the index has only words."""
        return self._parts().documents.k

    @property
    def hidden_dim(self) -> int:
        """Number of latents of the head; 0 if the index has only words."""
        return self._parts().documents.hidden_dim

    @property
    def value_bits(self) -> int | None:
        """Bits of a value in a file, if the index was built from packed codes, else None."""
        return self._parts().documents.value_bits

    @property
    def similarity(self) -> Similarity:
        """What codes are compared by: "cosine" or "dot"."""
        return self._parts().documents.similarity

    @property
    def language(self) -> str | None:
        """The language of the words, "function" if a function splits texts, None without words."""
        words = self._parts().words
        if words is None:
            return None
        return words.language if isinstance(words.language, str) else "function"

    @property
    def weight(self) -> float | None:
        """Weight of the words' part in a score, None without words."""
        words = self._parts().words
        return None if words is None else words.weight

    @property
    @abstractmethod
    def decoder(self) -> Decoder | None:
        """The decoder stored with the index."""

    @property
    def ids(self) -> NDArray[Any]:
        """External ids of the documents, in order of position."""
        return self._parts().ids

    def codes(self, ids: Ids) -> SparseCodes:
        """The stored codes of documents, for example to search for similar documents.

        ::

            index.search(index.codes([17]), top_k=10)

        Args:
            ids: Ids of n documents.

        Returns:
            (n, k) codes in the order of the ids: at unit norm, or unscaled if the similarity is
            "dot".

        Raises:
            TypeError: If ids are neither integers nor strings, or not of the index's type.
            ValueError: If an id is not in the index, or the index has only words.
        """
        return self._parts().codes(as_id_array(ids))

    def _facts(self) -> dict[str, Any]:
        """What the index is, by name, as the Hub shows it."""
        names = ("k", "hidden_dim", "value_bits", "similarity", "language", "weight")
        facts = {"n": len(self), **{name: getattr(self, name) for name in names}}
        return {**facts, "decoder": self.decoder is not None}

    def search(  # one request with its options
        self,
        query_codes: SparseCodes | None = None,
        top_k: int = 10,
        k: int | None = None,
        filter: Ids | NDArray[np.bool_] | None = None,
        rescore: int | None = None,
        queries_dense: NDArray[np.floating[Any]] | None = None,
        metric: Metric = "cosine",
        decoder: Decoder | None = None,
        threads: int | None = None,
        *,
        words: Sequence[str] | None = None,
        weight: float | None = None,
        boost: Mapping[int, float] | None = None,
        approximate: float | None = None,
    ) -> SearchResults:
        """The best documents of each query.

        Documents that share no latent and no word with the query have score 0 and follow the
        others, lower positions first.

        Args:
            query_codes: Queries of the index's hidden_dim, at any k; None to search by words alone.
            top_k: Documents per query, at most ``len(self)``.
            k: Latents per document to use, all if None. The result is that of an index built from
                ``codes.prefix(k)``, which is scaled to unit norm again unless the similarity is
                "dot".
            filter: The documents to search: an array of ids, or (n,) bool in the order of
                ``self.ids``; all documents if None.
            rescore: Score this many of the best documents (at least top_k) again through the
                decoder; needs ``queries_dense``. If fewer share a latent or a word with the query,
                which can happen at a small k, all documents are rescored. The words' part of a
                score stays as it is. See `csr_st.search.rescoring` for when it helps.
            queries_dense: (n_queries, input_dim) dense vectors of the queries.
            metric: How rescoring compares query and decoded document: "cosine" or "dot".
            decoder: Used in place of the one stored with the index.
            threads: Threads to use; all available CPUs if None.
            words: The text of each query, '' where there is none; None to search by codes alone.
            weight: Weight of BM25 in a score; the index's if None.
            boost: Factors by which latents of the queries are raised, lowered or, with 0, removed:
                the search is that of ``query_codes.boost(boost)``. It does not go with ``rescore``,
                which ranks by dense vectors.
            approximate: Target recall@top_k above 0 and at most 1, such as 0.95, for a faster
                search of 700,000 documents or more; exact if None. The speed-up is calibrated once
                per index and k (see `measured_recall`). Smaller indexes, searches with words and
                dot products stay exact.

        Returns:
            Ids and float32 scores, both (n_queries, top_k), best first. Where a filter leaves fewer
            documents, rows end in id -1 (None among strings) and score -inf.

        Raises:
            TypeError: If the queries are not SparseCodes, texts not str, or the filter has the
                wrong type.
            ValueError: If a size, a value or a combination is not possible.
        """
        parts = self._parts()
        threads = checked_threads(threads)
        if boost is not None:
            query_codes = boosted_queries(query_codes, boost, rescore)
        queries, texts = checked_queries(query_codes, words, parts)
        top_k, k = checked_sizes(parts, top_k, k)
        of_words = word_queries(texts, parts, weight)
        check_metric(metric)
        if approximate is not None:
            approximate = checked_recall(approximate)
        allowed = parts.allowed(filter)
        depth, rescoring = top_k, None
        if rescore is not None:
            own = self.decoder
            decoder = decoder or own
            rescore = whole("rescore", rescore)
            dense = checked_dense(rescore, top_k, queries_dense, len(queries), decoder)
            assert decoder is not None
            depth = min(rescore, parts.n_present)
            rescoring = Rescoring(dense, metric, decoder, decoder is own)
        elif queries_dense is not None:
            raise ValueError("queries_dense is only used by rescoring; pass rescore=200 with it")
        filtered = filter is not None or parts.any_removed
        request = Search(parts, queries, of_words, k, allowed, filtered, threads)
        return request.run(top_k, depth, rescoring, approximate)

    def measured_recall(self, approximate: float, k: int | None = None) -> float:
        """Recall@10 that a search with ``approximate`` reached when it was calibrated.

        It is measured once per index and k, on 300 synthetic queries, each halfway between two
        documents. Other queries may have another recall.

        Args:
            approximate: See `search`.
            k: See `search`.

        Returns:
            The recall, 1.0 where the search is exact.

        Raises:
            TypeError: If ``approximate`` is not a number, or k not an integer.
            ValueError: If ``approximate`` is not above 0 and at most 1, or k is not within
                1..``self.k``.
        """
        parts, target = self._parts(), checked_recall(approximate)
        _, k = checked_sizes(parts, 1, k)
        threads, found = resolve_threads(None), 0.0
        for part in parts.all:
            documents = part.collection.documents
            large = part.live.large_postings(k, documents, threads)
            recall = 1.0 if large is None else large.recall(target, threads)
            found += recall * part.collection.n_present / parts.n_present
        return found
