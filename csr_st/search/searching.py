"""One search whose arguments are checked: first by codes and words, then through the decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.search.bm25 import QueryWords
from csr_st.search.collection import Collection
from csr_st.search.kernels.importing import announced_compilation
from csr_st.search.live import LiveCollection
from csr_st.search.rescoring import Metric
from csr_st.search.results import SearchResults
from csr_st.search.word_postings import WordRequest


class Rescoring(NamedTuple):
    """How candidates are scored again.

    Attributes:
        dense: (n_queries, input_dim) float32 dense queries.
        metric: As of `SparseIndex.search`.
        decoder: The decoder.
        keep: Whether what is computed with it is kept for the next search.
    """

    dense: NDArray[np.float32]
    metric: Metric
    decoder: Decoder
    keep: bool


class Search(NamedTuple):
    """What is asked, and of which documents.

    Attributes:
        collection: The documents.
        queries: Codes with the values that count, empty where only words are asked for.
        asked: The words of the queries, if there are any.
        k: Latents per document.
        allowed: (n,) bool, documents that may be returned.
        filtered: Whether any may not be returned.
    """

    collection: Collection
    queries: SparseCodes
    asked: QueryWords | None
    k: int
    allowed: NDArray[np.bool_]
    filtered: bool

    def run(
        self,
        live: LiveCollection,
        top_k: int,
        depth: int,
        rescoring: Rescoring | None,
        approximate: float | None,
        threads: int,
    ) -> SearchResults:
        """The best documents of each query.

        Args:
            live: Derives what belongs to the collection.
            top_k: Documents per query.
            depth: Candidates per query, ``top_k`` if they are not scored again.
            rescoring: How they are.
            approximate: The recall that is enough, or None for an exact search.
            threads: Threads.
        """
        documents = self.collection.documents
        codes_alone = self.asked is None and documents.similarity == "cosine"
        with announced_compilation("codes" if codes_alone else "words"):
            positions, scores, words = self._first(live, depth, approximate, threads)
            if rescoring is not None:
                dense, metric, decoder, keep = rescoring
                rescorer = live.rescorer(self.k, documents, decoder, keep)
                # Documents that share nothing are in no meaningful order: rescore all.
                short = scores[:, -1] <= 0
                share = None if words is None else words.add_scores
                positions, scores = rescorer.rescore(
                    dense, positions, top_k, metric, threads, share
                )
                everything = np.flatnonzero(self.allowed)
                if short.any() and len(everything) > depth:
                    share = None if words is None else words.rows(short).add_scores
                    positions[short], scores[short] = rescorer.rescore(
                        dense[short], everything, top_k, metric, threads, share
                    )
        return SearchResults(_external(self.collection.ids, positions), scores)

    def _first(
        self, live: LiveCollection, depth: int, approximate: float | None, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], WordRequest | None]:
        """The best by codes and words, and the words that were asked for."""
        documents, queries = self.collection.documents, self.queries
        words = self._words(live, threads)
        request = (
            np.ascontiguousarray(queries.indices, documents.latents.dtype),
            np.ascontiguousarray(queries.values),
            depth,
            self.allowed,
            self.filtered,
            threads,
        )
        large = None if words else live.large_postings(self.k, documents, threads)
        if large is not None:
            return *large.search(*request, approximate), words
        return *live.postings(self.k, documents, threads).search(*request, words), words

    def _words(self, live: LiveCollection, threads: int) -> WordRequest | None:
        words, statistics = self.collection.words, self.collection.statistics
        if self.asked is None or words is None or statistics is None:
            return None
        postings = live.word_postings(words, statistics, threads)
        return WordRequest(self.asked, postings, statistics)


def _external(ids: NDArray[Any], positions: NDArray[np.int64]) -> NDArray[Any]:
    """The ids of documents by position, -1 or None where there is none."""
    found = ids[positions]
    found[positions < 0] = None if ids.dtype == object else -1
    return found
