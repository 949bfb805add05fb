"""One search whose arguments are checked: first by codes and words, then through the decoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.search.bm25 import QueryWords
from csr_st.search.kernels.importing import announced_compilation
from csr_st.search.parts import Part, Parts
from csr_st.search.postings import Found, merged
from csr_st.search.rescoring import Metric
from csr_st.search.results import SearchResults
from csr_st.search.word_postings import WordRequest


class Rescoring(NamedTuple):
    """How candidates are scored again.

    Attributes:
        dense: (n_queries, input_dim) float32 dense queries.
        metric: See `SparseIndex.search`.
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
        parts: The documents.
        queries: Codes with the values that count, empty where only words are asked for.
        asked: The words of the queries for each part, if there are any.
        k: Latents per document.
        allowed: For each part (n,) bool, documents that may be returned.
        filtered: Whether any may not be returned.
        threads: Threads.
    """

    parts: Parts
    queries: SparseCodes
    asked: list[QueryWords] | None
    k: int
    allowed: list[NDArray[np.bool_]]
    filtered: bool
    threads: int

    def run(
        self, top_k: int, depth: int, rescoring: Rescoring | None, approximate: float | None
    ) -> SearchResults:
        """The best documents of each query.

        Args:
            top_k: Documents per query.
            depth: Candidates per query, ``top_k`` if they are not scored again.
            rescoring: How they are.
            approximate: The recall that is enough, or None for an exact search.
        """
        codes_alone = self.asked is None and self.parts.documents.similarity == "cosine"
        with announced_compilation("codes" if codes_alone else "words"):
            words = [self._words(number, part) for number, part in enumerate(self.parts.all)]
            positions, scores = self._first(words, depth, approximate)
            if rescoring is not None:
                # Documents that share nothing are in no meaningful order: rescore all.
                short = scores[:, -1] <= 0
                candidates = [positions - part.first for part in self.parts.all]
                positions, scores = self._rescored(rescoring, candidates, top_k, words)
                everything = [np.flatnonzero(allowed) for allowed in self.allowed]
                if short.any() and sum(map(len, everything)) > depth:
                    few = rescoring._replace(dense=rescoring.dense[short])
                    of_few = [None if each is None else each.rows(short) for each in words]
                    positions[short], scores[short] = self._rescored(few, everything, top_k, of_few)
        return SearchResults(self.parts.external(positions), scores)

    def _words(self, number: int, part: Part) -> WordRequest | None:
        """The words that were asked for, and where they are searched in a part."""
        if self.asked is None:
            return None
        words, statistics = part.collection.words, self.parts.statistics
        assert words is not None
        assert statistics is not None
        postings = part.live.word_postings(words, statistics, self.threads)
        return WordRequest(self.asked[number], postings, statistics)

    def _first(
        self, words: list[WordRequest | None], depth: int, approximate: float | None
    ) -> Found:
        """The best by codes and words."""
        latents = np.ascontiguousarray(self.queries.indices, self.parts.documents.latents.dtype)
        values, found = np.ascontiguousarray(self.queries.values), []
        for part, allowed, asked in zip(self.parts.all, self.allowed, words, strict=True):
            documents = part.collection.documents
            if not len(documents) and len(self.parts.all) > 1:
                continue
            request = (
                latents,
                values,
                min(depth, max(len(documents), 1)),
                allowed,
                self.filtered,
                self.threads,
            )
            large = None
            if asked is None:
                large = part.live.large_postings(self.k, documents, self.threads)
            if large is not None:
                best = large.search(*request, approximate)
            else:
                postings = part.live.postings(self.k, documents, self.threads)
                best = postings.search(*request, asked)
            found.append(_moved(best, part.first))
        return merged(found, depth)

    def _rescored(
        self,
        rescoring: Rescoring,
        candidates: list[NDArray[np.int64]],
        top_k: int,
        words: list[WordRequest | None],
    ) -> Found:
        """The best candidates by the decoder's score.

        Args:
            rescoring: How they are scored.
            candidates: For each part (n_queries, n) or (n,) positions within it; those outside are
                another part's.
            top_k: Documents per query.
            words: For each part, the words of these queries.
        """
        dense, metric, decoder, keep = rescoring
        found = []
        for part, positions, asked in zip(self.parts.all, candidates, words, strict=True):
            documents = part.collection.documents
            if not positions.size or not len(documents):
                continue
            if len(self.parts.all) > 1:
                positions = np.where(positions < len(documents), np.maximum(positions, -1), -1)
            rescorer = part.live.rescorer(self.k, documents, decoder, keep)
            share = None if asked is None else asked.add_scores
            wanted = min(top_k, positions.shape[-1])
            best = rescorer.rescore(dense, positions, wanted, metric, self.threads, share)
            found.append(_moved(best, part.first))
        return merged(found, top_k)


def _moved(found: Found, first: int) -> Found:
    """Results with positions among the documents of all parts."""
    if not first:
        return found
    positions: Any = np.where(found[0] >= 0, found[0] + first, -1)
    return positions, found[1]
