"""What one search reads: a collection, or several that follow each other, at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.search.bm25 import QueryWords, Statistics
from csr_st.search.collection import Collection, as_bools
from csr_st.search.documents import Documents
from csr_st.search.ids import Ids, as_array, as_id_array
from csr_st.search.live import LiveCollection
from csr_st.search.tokenizing import tokenized
from csr_st.search.words import Words


class Part(NamedTuple):
    """One collection.

    Attributes:
        live: Derives what belongs to it.
        collection: The documents.
        first: Position of its first document among those of all parts.
    """

    live: LiveCollection
    collection: Collection
    first: int


class Parts:
    """Collections with the same settings, whose documents are searched as if they were one.

    Attributes:
        all: The parts, at least one.
        documents: Those of the first part, for the settings that all have in common.
        words: As ``documents``; None without words.
        n_present: Documents of all parts that are not removed.
        any_removed: Whether a part has some that are.
    """

    def __init__(self, lives: Sequence[LiveCollection]) -> None:
        found, first = [], 0
        for live in lives:
            collection = live.collection
            found.append(Part(live, collection, first))
            first += len(collection.present)
        self.all = tuple(found)
        self.documents: Documents = found[0].collection.documents
        self.words: Words | None = found[0].collection.words
        self.n_present = sum(part.collection.n_present for part in found)
        self.any_removed = self.n_present < first

    @cached_property
    def ids(self) -> NDArray[Any]:
        """Ids of the documents that are not removed, in order."""
        each = [part.collection.ids[part.collection.present] for part in self.all]
        return np.concatenate([ids for ids in each if len(ids)] or each[:1])

    @cached_property
    def statistics(self) -> Statistics | None:
        """Of the words of all parts; frequencies only if there is one, as numbers are a part's."""
        found = [part.collection.statistics for part in self.all]
        known = [statistics for statistics in found if statistics is not None]
        if not known:
            return None
        if len(known) == 1:
            return known[0]
        n, tokens = (sum(getattr(each, name) for each in known) for name in ("n", "tokens"))
        return Statistics(n, tokens, np.empty(0, np.int64))

    def word_queries(self, texts: list[str], weight: float) -> list[QueryWords]:
        """The words of queries for each part, worth what they are among the documents of all."""
        assert self.words is not None
        assert self.statistics is not None
        tokens = list(tokenized(texts, self.words.known_language()))
        having = [np.zeros(len(each.names), np.int64) for each in tokens]
        numbers = []
        for part in self.all:
            words, statistics = part.collection.words, part.collection.statistics
            assert words is not None
            assert statistics is not None
            found = [words.numbers(each.names) for each in tokens]
            for total, of_part in zip(having, found, strict=True):
                total += statistics.having(of_part)
            numbers.append(found)
        return [
            QueryWords.among(tokens, found, having, self.statistics, weight) for found in numbers
        ]

    def allowed(self, selected: Ids | NDArray[np.bool_] | None) -> list[NDArray[np.bool_]]:
        """For each part (n,) bool, the documents that a filter selects; of those not removed.

        Raises:
            TypeError: If they are neither ids nor bools, or some are missing.
            ValueError: If an id is in no part, or there is not one bool per document.
        """
        if selected is None:
            return [part.collection.present for part in self.all]
        if len(self.all) == 1:
            return [self.all[0].collection.allowed(selected)]
        array = as_array(selected)
        if array.dtype == object and _is_bool(array):
            array = as_bools(array)
        if array.dtype == bool:
            if array.shape != (self.n_present,):
                raise ValueError(
                    f"the filter has shape {array.shape}; a bool filter has one entry for each of "
                    f"the {self.n_present} documents, along index.ids"
                )
            ends = np.cumsum([part.collection.n_present for part in self.all])
            pieces = np.split(array, ends[:-1])
            return [
                part.collection.allowed(piece) for part, piece in zip(self.all, pieces, strict=True)
            ]
        allowed = [np.zeros(len(part.collection.present), bool) for part in self.all]
        for number, positions in self.places(as_id_array(array)):
            allowed[number][positions] = True
        return allowed

    def places(self, ids: NDArray[Any]) -> list[tuple[int, NDArray[np.int64]]]:
        """Where documents are: the number of a part, and positions within it.

        Raises:
            TypeError: If ids are of another type than those of the parts.
            ValueError: If one is in no part.
        """
        found = self._places(ids)
        missing = (found < 0).all(axis=0)
        if missing.any():
            raise ValueError(
                f"id {ids[missing].tolist()[0]!r} is not in the index of {self.n_present} documents"
            )
        return _by_part(found)

    def codes(self, ids: NDArray[Any]) -> SparseCodes:
        """The codes of documents, in the order of their ids, as `Documents.scored_codes`.

        Raises:
            TypeError: As `places`.
            ValueError: As `places`, or if there are no codes.
        """
        k = self.documents.k
        if not k:
            raise ValueError("this index has only words, no codes")
        of_parts = [self.documents.rows(np.arange(0)).scored_codes(k)]
        order = [np.empty(0, np.int64)]
        self.places(ids)  # refuses unknown ids
        for part, row in zip(self.all, self._places(ids), strict=True):
            here = np.flatnonzero(row >= 0)
            order.append(here)
            of_parts.append(part.collection.documents.rows(row[here]).scored_codes(k))
        return SparseCodes.concatenate(of_parts)[np.argsort(np.concatenate(order))]

    def known_places(self, ids: NDArray[Any]) -> list[tuple[int, NDArray[np.int64]]]:
        """As `places`, of those that are in a part.

        Raises:
            TypeError: If ids are of another type than those of the parts.
        """
        return _by_part(self._places(ids))

    def _places(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """(n_parts, n) positions, -1 where a part does not have an id."""
        none = np.full(len(ids), -1, np.int64)
        each = [part.collection for part in self.all]
        return np.stack([found.positions(ids) if found.n_present else none for found in each])

    @property
    def ids_are_strings(self) -> bool:
        """Whether they are; False without documents."""
        return any(
            part.collection.n_present > 0 and part.collection.ids.dtype == object
            for part in self.all
        )

    def external(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The ids of documents by position, -1 or None where there is none."""
        each = [part.collection.ids for part in self.all]
        ids = next((found for found in each if len(found)), each[0])
        nothing = None if ids.dtype == object else -1
        if len(each) == 1:
            found = ids[positions]
            found[positions < 0] = nothing
            return found
        result = np.full(positions.shape, nothing, ids.dtype)
        for part, own in zip(self.all, each, strict=True):
            here = (positions >= part.first) & (positions < part.first + len(own))
            result[here] = own[positions[here] - part.first]
        return result


def _by_part(found: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64]]]:
    return [(number, row[row >= 0]) for number, row in enumerate(found) if (row >= 0).any()]


def _is_bool(array: NDArray[Any]) -> bool:
    return len(array) > 0 and isinstance(array[0], bool | np.bool_)
