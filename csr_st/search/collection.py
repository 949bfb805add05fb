"""The documents of an index with their ids, and which of them were removed.

A `Collection` is never edited in place: each change returns a new one, so a search that runs at the
same time keeps a consistent state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.search.bm25 import Statistics
from csr_st.search.documents import Documents
from csr_st.search.ids import MAX_ID, IdLookup, Ids, as_array, as_id_array, as_new_ids
from csr_st.search.tokenizing import Tokens
from csr_st.search.words import Words


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents by position. Removed ones stay until they are more than half of all.

    Attributes:
        documents: n stored documents.
        ids: (n,) external ids, int64 or strings as objects.
        lookup: From ids to positions.
        present: (n,) bool, False where a document was removed.
        n_present: Documents not removed; stored, because counting takes longer than a search.
        next_id: The smallest integer above every id that was ever used.
        words: Words of the n documents, if the index has words.
        statistics: Statistics of the words of documents that are not removed, if there are words.
    """

    documents: Documents
    ids: NDArray[Any]
    lookup: IdLookup
    present: NDArray[np.bool_]
    n_present: int
    next_id: int
    words: Words | None = None
    statistics: Statistics | None = None

    @classmethod
    def of(cls, documents: Documents, ids: NDArray[Any], words: Words | None = None) -> Collection:
        """A collection of documents, none of them removed."""
        present = np.ones(len(ids), bool)
        about = None if words is None else Statistics.of(words)
        lookup = IdLookup(ids)
        return cls(documents, ids, lookup, present, len(ids), next_id(ids), words, about)

    def added(
        self,
        more: Documents,
        ids: Ids | None,
        tokens: list[Tokens] | None = None,
        replacing: bool = False,
    ) -> Collection:
        """This collection with ``more`` at its end; without ids, numbers continue.

        Args:
            more: Codes of the documents.
            ids: Their ids.
            tokens: The words of their texts, if the index has words.
            replacing: Leave documents out that have one of the ids, which is an error otherwise.

        Raises:
            TypeError: If ids are of another type than those of the collection.
            ValueError: If hidden_dim or k differ, ids repeat or are in the collection, or there are
                texts where the collection has no words, or the reverse.
        """
        new = as_new_ids(self._numbered(len(more)) if ids is None else ids, len(more))
        places = self.positions(new)
        known = places >= 0
        if known.any():
            if replacing:
                return self._freed_without(places[known]).added(more, new, tokens)
            first = new[known].tolist()[0]
            raise ValueError(
                f"id {first!r} is in the index; remove it first, pass replace=True, or pass "
                "another id"
            )
        joined = np.concatenate([self.ids, new]) if len(self.ids) else new
        documents = self.documents.joined(more)
        return Collection(
            documents,
            joined,
            self.lookup.extended(joined),
            np.concatenate([self.present, np.ones(len(new), bool)]),
            self.n_present + len(new),
            max(self.next_id, next_id(new)),
            *self._words_with(tokens),
        )

    def _words_with(self, tokens: list[Tokens] | None) -> tuple[Words | None, Statistics | None]:
        if self.words is None or self.statistics is None:
            if tokens is not None:
                raise ValueError(
                    "this index has no words; leave words= out, or build it from all texts: "
                    "SparseIndex.build(codes, words=texts)"
                )
            return None, None
        if tokens is None:
            raise ValueError(
                "this index has words; pass words=, the text of each document, '' for one without"
            )
        words = self.words.joined(tokens)
        new = Statistics.of(words, np.arange(len(self.words), len(words)))
        return words, self.statistics.changed(new, 1)

    def _numbered(self, count: int) -> NDArray[np.int64]:
        return numbered(self.next_id, count, self.ids.dtype == object and len(self.ids) > 0)

    def removed(self, ids: Ids) -> Collection:
        """This collection without some documents; rows are freed once more than half are removed.

        Raises:
            ValueError: If an id is not in the collection.
        """
        return self._freed_without(self.known_positions(as_id_array(ids)))

    def _freed_without(self, positions: NDArray[Any]) -> Collection:
        left = self.without(positions)
        # Compacting copies fewer rows than were removed since the last time.
        return left.compacted() if 2 * left.n_present < len(left.present) else left

    def without(self, positions: NDArray[Any]) -> Collection:
        """This collection without the documents at some positions, whose rows stay."""
        present = self.present.copy()
        present[positions] = False
        left = replace(self, present=present, n_present=int(present.sum()))
        if self.words is not None and self.statistics is not None:
            gone = Statistics.of(self.words, np.flatnonzero(self.present & ~present))
            left = replace(left, statistics=self.statistics.changed(gone, -1))
        return left

    def compacted(self) -> Collection:
        """The same documents without the rows of removed ones."""
        if self.n_present == len(self.present):
            return self
        words = None if self.words is None else self.words.rows(self.present)
        kept = Collection.of(self.documents.rows(self.present), self.ids[self.present], words)
        return replace(kept, next_id=self.next_id)

    def allowed(self, selected: Ids | NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,) bool, the documents that a filter selects.

        Args:
            selected: Ids, or one bool per document in the order of the ids.

        Raises:
            TypeError: If they are neither ids nor bools, or some are missing.
            ValueError: If an id is not in the collection, or there is not one bool per document.
        """
        array = as_array(selected)
        if array.dtype == object and len(array) and isinstance(array[0], bool | np.bool_):
            array = as_bools(array)
        allowed = np.zeros(len(self.present), bool)
        if array.dtype == bool:
            if array.shape != (self.n_present,):
                raise ValueError(
                    f"the filter has shape {array.shape}; a bool filter has one entry for each "
                    f"of the {self.n_present} documents, along index.ids"
                )
            allowed[np.flatnonzero(self.present)[array]] = True
        else:
            allowed[self.known_positions(as_id_array(array))] = True
        return allowed

    def known_positions(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Positions of ids.

        Raises:
            ValueError: If one is not in the collection.
        """
        places = self.positions(ids)
        missing = places < 0
        if missing.any():
            raise ValueError(
                f"id {ids[missing].tolist()[0]!r} is not in the index of {self.n_present} documents"
            )
        return places

    def positions(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Positions of ids, -1 for those that are not in the collection.

        Raises:
            TypeError: If integers are looked up among strings or the other way round.
        """
        places = self.lookup.positions(ids)
        if not len(self.present):
            return places
        return np.where((places >= 0) & self.present[places], places, -1)


def numbered(next_id: int, count: int, strings: bool) -> NDArray[np.int64]:
    """Ids for new documents, above every id that was ever used.

    Raises:
        ValueError: If the other ids are strings, or these exceed the largest id.
    """
    if count and strings:
        raise ValueError("the ids of this index are strings; pass ids for the added documents")
    if next_id + count - 1 > MAX_ID:
        raise ValueError(
            f"{count} ids from {next_id} on exceed {MAX_ID}; pass ids for the added documents"
        )
    return np.arange(count, dtype=np.int64) + next_id


def as_bools(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Bools in an array of objects, as bools.

    Raises:
        TypeError: If one is something else.
    """
    for place, value in enumerate(values):
        if not isinstance(value, bool | np.bool_):
            raise TypeError(
                f"entry {place} of the filter is {value!r}; a bool filter has only True and False"
            )
    return values.astype(bool)


def next_id(ids: NDArray[Any]) -> int:
    """The smallest integer above every id; 0 for strings."""
    return int(ids.max()) + 1 if len(ids) and ids.dtype != object else 0
