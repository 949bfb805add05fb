"""Search of a large collection: `PrunedPostings` of most documents, `Postings` of the newest.

Documents that were added later are few; to order all of them anew for each addition would take
longer than it saves. So they have postings of their own, until there are a quarter as many.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.search.documents import ARRAYS, Documents
from csr_st.search.postings import Found, Postings, merged
from csr_st.search.pruned_postings import PrunedPostings

LARGE = 700_000  # documents, from which on it is faster
_TAIL_SHARE = 4
_MOST_ENTRIES = 0.5  # of the postings; with more of them, few documents are passed over
_SAMPLE = 300  # queries of a calibration
_SAMPLE_TOP = 10
_LEAST_RECALL = 0.5  # that is measured
_FACTORS = 1.0 + 0.05 * np.arange(1, 21)


@dataclass(frozen=True, eq=False)
class LargePostings:
    """Two inverted indexes, and what was measured of approximate searches.

    Attributes:
        documents: The documents.
        k: Latents per document.
        head: Postings of the first documents.
        tail: Postings of the others, if there are any.
        recalls: Recall of the 10 nearest by the factor below which spans are passed over, once
            measured.
    """

    documents: Documents
    k: int
    head: PrunedPostings
    tail: Postings | None = None
    recalls: dict[float, float] = field(default_factory=dict)

    @classmethod
    def build(
        cls, documents: Documents, k: int, threads: int, previous: LargePostings | None = None
    ) -> LargePostings | None:
        """The postings, or None if `Postings` of all documents are better.

        Args:
            documents: The documents.
            k: Latents per document.
            threads: Threads.
            previous: Those at the same k; if these documents begin with theirs, its head is kept.
        """
        if len(documents) < LARGE or documents.similarity != "cosine":
            return None
        if previous is not None and documents.begins_with(previous.head.documents):
            head, tail = previous.head, previous.tail
            first = len(head.documents)
            if (len(documents) - first) * _TAIL_SHARE <= first:
                lineage = object() if tail is None else tail.documents.lineage
                more = _from(documents, first, lineage)
                tail = Postings.build(more, k, threads, tail) if len(more) else None
                return cls(documents, k, head, tail, previous.recalls)
        head = PrunedPostings.build(documents, k, threads)
        if len(head.entry_latents) > _MOST_ENTRIES * len(head.postings):
            return None
        return cls(documents, k, head)

    def search(
        self,
        latents: NDArray[Any],
        values: NDArray[np.float32],
        top_k: int,
        allowed: NDArray[np.bool_],
        filtered: bool,
        threads: int,
        approximate: float | None = None,
    ) -> Found:
        """As `Postings.search`; with ``approximate``, at about this recall of the nearest."""
        passed = 1.0 if approximate is None else self.factor(approximate, threads)
        first, request = len(self.head.documents), (latents, values)
        found = self.head.search(*request, top_k, allowed[:first], filtered, threads, passed)
        if self.tail is None:
            return found
        others = self.tail.search(
            *request, top_k, np.ascontiguousarray(allowed[first:]), filtered, threads
        )
        positions = np.where(others[0] >= 0, others[0] + first, -1)
        return merged([found, (positions, others[1])], top_k)

    def factor(self, recall: float, threads: int) -> float:
        """The largest factor measured to have this recall; 1, an exact search, for all of them."""
        if recall >= 1:
            return 1.0
        if not self.recalls:
            self.recalls.update(self._measured(threads))
        return max([1.0, *(factor for factor, found in self.recalls.items() if found >= recall)])

    def recall(self, target: float, threads: int) -> float:
        """Measured recall of a search with ``approximate=target``."""
        factor = self.factor(target, threads)
        return self.recalls.get(factor, 1.0)

    def _measured(self, threads: int) -> dict[float, float]:
        documents = self.head.documents
        codes = _between(documents, self.k)
        latents = np.ascontiguousarray(codes.indices, documents.latents.dtype)
        request = (latents, np.ascontiguousarray(codes.values, np.float32), _SAMPLE_TOP)
        allowed = np.ones(len(documents), bool)
        exact = self.head.search(*request, allowed, False, threads)[1]
        recalls = {}
        for factor in map(float, _FACTORS):
            found = self.head.search(*request, allowed, False, threads, factor)[1]
            recalls[factor] = float((found >= exact[:, -1:]).mean())
            if recalls[factor] < _LEAST_RECALL:
                break
        return recalls


def _between(documents: Documents, k: int) -> SparseCodes:
    """Codes between those of two documents, in whose place there is none, as of most queries."""
    n = len(documents)
    first = np.linspace(0, n - 1, _SAMPLE).astype(int)
    second = np.random.default_rng(0).integers(0, n, _SAMPLE)
    values = np.zeros((_SAMPLE, documents.hidden_dim), np.float32)
    for rows in (first, second):
        codes = documents.rows(rows).codes().prefix(k)
        values += codes.to_scipy().toarray()
    indices = np.argsort(-values, axis=1, kind="stable")[:, :k]
    strongest = np.take_along_axis(values, indices, 1)
    return SparseCodes(indices.astype(np.uint32), strongest, documents.hidden_dim).normalize()


def _from(documents: Documents, first: int, lineage: object) -> Documents:
    """The documents from a row on, without a copy."""
    arrays: dict[str, Any] = {name: getattr(documents, name)[first:] for name in ARRAYS}
    return replace(documents, **arrays, lineage=lineage, residual=None)
