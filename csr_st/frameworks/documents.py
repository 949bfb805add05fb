"""Documents of a framework by id, and the index of their codes, changed and searched together."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from csr_st.codes import SparseCodes, index_dtype
from csr_st.frameworks.diversity import Diversity
from csr_st.search import SparseIndex
from csr_st.search.collection import Collection
from csr_st.search.documents import Similarity
from csr_st.search.ids import as_array, as_new_ids
from csr_st.search.numbers import whole
from csr_st.search.tokenizing import Language, as_texts
from csr_st.search.words import WEIGHT

Document = TypeVar("Document")
# From all documents by id to some of them
Selection = Callable[[Mapping[str, Document]], Mapping[str, Document]]

_alive: weakref.WeakSet[IndexedDocuments[Any]] = weakref.WeakSet()


class Ask(Protocol):
    """One query, ready to be put to an index."""

    def __call__(
        self, index: SparseIndex, top_k: int, allowed: list[str] | None
    ) -> list[tuple[str, float]]:
        """Ids and scores of the best documents, best first; of ``allowed`` alone if given."""


def empty_index(
    hidden_dim: int,
    k: int,
    *,
    words: bool = False,
    language: Language = "english",
    weight: float | None = None,
    similarity: Similarity = "cosine",
) -> SparseIndex:
    """An index without documents, which are added later.

    Args:
        hidden_dim: Number of latents.
        k: Latents of each document.
        words: Index the words of texts too.
        language: Language of the texts.
        weight: Weight of BM25 in a score; the default of `csr_st.SparseIndex.build` if None.
        similarity: What codes are compared by.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If one is out of bounds or unknown, or a weight is given without words.
        ImportError: If numba, or what words need, is not installed.
    """
    if weight is not None and not words:
        raise ValueError(f"weight={weight} applies to words, and words=False; pass words=True")
    hidden_dim = whole("hidden_dim", hidden_dim)
    k = whole("k", k, hidden_dim, "hidden_dim")
    none = np.empty((0, k), index_dtype(hidden_dim)), np.empty((0, k), np.float32)
    codes = SparseCodes(*none, hidden_dim)
    return SparseIndex.build(
        codes if similarity == "dot" else codes.normalize(),
        words=[] if words else None,
        language=language,
        weight=WEIGHT if weight is None else weight,
        similarity=similarity,
    )


class IndexedDocuments(Generic[Document]):
    """Documents by id, and an index that has the code of each under the same id.

    Several threads may search and change them at once: a search sees the documents from before or
    after a change, which is done or, also when it is interrupted, not begun. Documents are returned
    as they are stored, not copied.

    Args:
        index: The index.
        documents: Those that it has, by id.

    Attributes:
        index: The index.
        lock: Held during a change; hold it to look at documents and change them in one step.
    """

    def __init__(self, index: SparseIndex, documents: Mapping[str, Document] | None = None) -> None:
        self.index = index
        self._set(dict(documents or {}))
        self.lock = threading.RLock()
        _alive.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """The content, without the lock, which cannot be copied."""
        index, documents = self.state()
        return {"index": index, "documents": documents}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.documents)

    def __contains__(self, id: object) -> bool:
        return id in self.documents

    @property
    def documents(self) -> Mapping[str, Document]:
        """All documents by id, as they are now, in the order in which they were added.

        It is another object after every change, and none is ever edited.
        """
        collection, before, after = self._versions
        return before if self.index._collection is collection else after

    def _change(self, change: Callable[[], None], documents: dict[str, Document]) -> None:
        """Change the index, and put documents in the place of the others, both in one moment.

        That moment is when the index has another collection: so nothing can come between them.
        """
        self._versions = _Versions(self.index._collection, self.documents, documents)
        try:
            change()
        finally:  # the others need not be kept
            self._set(self.documents)

    def _set(self, documents: Mapping[str, Document]) -> None:
        self._versions = _Versions(self.index._collection, documents, documents)

    def put(
        self, documents: Mapping[str, Document], codes: SparseCodes, texts: Sequence[str]
    ) -> None:
        """Add documents; those whose id is known replace what was there.

        Args:
            documents: By id.
            codes: Their codes, in the same order.
            texts: Their texts, for the words of an index that has words.

        Raises:
            TypeError: If an id or a text is not a str.
            ValueError: If sizes differ from those of the index, or an id cannot be written to a
                file. Nothing is changed then.
        """
        ids = as_new_ids(list(documents), len(codes)).tolist()
        wrong = [id for id in ids if not isinstance(id, str)]
        if wrong:
            raise TypeError(f"id {wrong[0]!r} is not a str; pass {str(wrong[0])!r}")
        if not ids:
            return
        size = codes.hidden_dim, codes.k
        if size != (self.index.hidden_dim, self.index.k):
            raise ValueError(
                f"the codes have hidden_dim={size[0]} and k={size[1]}, the index "
                f"hidden_dim={self.index.hidden_dim} and k={self.index.k}; encode with the same "
                "model and k"
            )
        words = None if self.index.language is None else as_texts(texts, len(ids), "documents")
        add = self.index._addition(codes, ids, words, replace=True)
        with self.lock:
            found = self._without(ids)
            found.update(documents)
            self._change(add, found)

    def replace(self, documents: Mapping[str, Document]) -> None:
        """Put documents in the place of others with the same ids and codes; skip unknown ids."""
        with self.lock:
            found = dict(self.documents)
            found.update((id, new) for id, new in documents.items() if id in found)
            self._set(found)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove documents, and return how many there were; unknown ids are skipped.

        Raises:
            TypeError: If the ids are one str.
        """
        given = dict.fromkeys(as_array(ids).tolist())
        return self.remove_where(lambda documents: of_ids(documents, given))

    def remove_where(self, select: Selection[Document] | None) -> int:
        """Remove documents that are selected, all of them if None; return how many there were."""
        with self.lock:
            known = list(self.where(select))
            if known:
                self._change(partial(self.index.remove, known), self._without(known))
        return len(known)

    def _without(self, ids: Iterable[str]) -> dict[str, Document]:
        found = dict(self.documents)
        for id in ids:
            found.pop(id, None)
        return found

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents of some ids, in their order; unknown ids are skipped."""
        documents = self.documents
        return [documents[id] for id in ids if id in documents]

    def where(self, select: Selection[Document] | None) -> Mapping[str, Document]:
        """The documents that are selected, by id; all of them if None."""
        return self.documents if select is None else select(self.documents)

    def state(self) -> tuple[SparseIndex, dict[str, Document]]:
        """The index and its documents, in one order, as they are now; later changes change neither.

        The index is a copy that shares its content.
        """
        with self.lock:
            ids = self.index.ids.tolist()
            documents = self.documents
            return copy.copy(self.index), {id: documents[id] for id in ids}

    def search(
        self, ask: Ask, top_k: int, select: Selection[Document] | None = None
    ) -> list[tuple[str, Document, float]]:
        """The best documents of a query.

        Args:
            ask: Puts the query to the index.
            top_k: Documents to return; all where there are fewer.
            select: Return only documents that it selects.

        Returns:
            Id, document and score of each, best first.

        Raises:
            TypeError: If top_k is not an integer.
            ValueError: If it is below 1, or as ``ask`` does.
        """
        top_k = whole("top_k", top_k)
        documents = self.documents
        # Without the lock, so that threads encode their queries side by side
        found, error = [], None
        try:
            found = self._search(ask, top_k, documents, select)
        except (ValueError, KeyError) as raised:  # such as of a document removed meanwhile
            error = raised
        if self.documents is not documents:
            with self.lock:
                return self._search(ask, top_k, self.documents, select)
        if error is not None:
            raise error
        return found

    def search_diverse(
        self,
        ask: Ask,
        top_k: int,
        diversity: Diversity,
        select: Selection[Document] | None = None,
    ) -> list[tuple[str, Document, float]]:
        """Good documents of a query that are unlike each other.

        Args:
            ask: See `search`.
            top_k: See `search`.
            diversity: How to choose them.
            select: See `search`.

        Returns:
            Id, document and score of each, in the order in which they were chosen.

        Raises:
            TypeError: As `search`.
            ValueError: As `search`, or if the index has only words.
        """
        top_k = whole("top_k", top_k)
        found = self.search(ask, max(top_k, diversity.candidates), select)
        with self.lock:
            found = [each for each in found if each[0] in self]  # still
            codes = self.index.codes([id for id, *_ in found])
        scores = np.array([score for *_, score in found])
        return [found[row] for row in diversity.choose(scores, codes, top_k)]

    def _search(
        self,
        ask: Ask,
        top_k: int,
        documents: Mapping[str, Document],
        select: Selection[Document] | None,
    ) -> list[tuple[str, Document, float]]:
        selected = documents if select is None else select(documents)
        if not selected:
            return []
        allowed = None if selected is documents else list(selected)
        found = ask(self.index, min(top_k, len(selected)), allowed)
        return [(id, documents[id], score) for id, score in found]


class _Versions(NamedTuple):
    """Documents while an index has a collection, and when it has another one."""

    collection: Collection
    before: Mapping[str, Any]
    after: Mapping[str, Any]


def of_ids(documents: Mapping[str, Document], ids: Iterable[str]) -> dict[str, Document]:
    """The documents of some ids, in their order; unknown ids are skipped."""
    return {id: documents[id] for id in ids if id in documents}


def for_which(condition: Callable[[Document], bool]) -> Selection[Document]:
    """Selects the documents for which a condition holds."""
    return lambda documents: {id: each for id, each in documents.items() if condition(each)}


def _renew_locks() -> None:
    """After a fork, let go of locks of threads that the child does not have."""
    for documents in _alive:
        documents.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
