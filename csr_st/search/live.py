"""The collection of an index as it changes, and what searches derive from it and keep."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from csr_st.decoder import Decoder
from csr_st.search.bm25 import Statistics
from csr_st.search.collection import Collection
from csr_st.search.documents import Documents
from csr_st.search.large_postings import LARGE, LargePostings
from csr_st.search.postings import Postings
from csr_st.search.rescoring import Rescorer
from csr_st.search.word_postings import WordPostings
from csr_st.search.words import Words

_POSTINGS_KEPT = 3  # inverted indexes of different k in memory

_alive: weakref.WeakSet[LiveCollection] = weakref.WeakSet()


class LiveCollection:
    """The newest `Collection`; several threads may use it, and change it, at once.

    A search takes ``collection`` once and asks for what belongs to that one, which is kept only if
    no change came in between.

    Attributes:
        collection: The newest one.
        lock: Held while it changes and while something is derived from it.
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.lock = threading.RLock()
        self._postings: dict[int, Postings] = {}
        self._large: dict[int, LargePostings | None] = {}  # None: another kind is better
        self._word_postings: WordPostings | None = None
        self._rescorers: dict[int, Rescorer] = {}
        _alive.add(self)

    def change(self, changed: Callable[[Collection], Collection]) -> None:
        """Put what a function makes of the collection in its place."""
        with self.lock:
            self.collection = changed(self.collection)
            documents = self.collection.documents
            for k, postings in list(self._postings.items()):
                if not documents.begins_with(postings.documents):
                    del self._postings[k]
            for k, large in list(self._large.items()):
                if large is None or not documents.begins_with(large.documents):
                    del self._large[k]
            for k, rescorer in list(self._rescorers.items()):
                if not documents.begins_with(rescorer.documents):
                    del self._rescorers[k]
            words, kept = self.collection.words, self._word_postings
            if words is None or kept is None or not words.begins_with(kept.words):
                self._word_postings = None

    def postings(self, k: int, documents: Documents, threads: int) -> Postings:
        """The inverted index of documents at k."""
        with self.lock:
            postings = self._postings.get(k)
            if postings is None or postings.documents is not documents:
                postings = Postings.build(documents, k, threads, postings)
                if documents is self.collection.documents:  # no change in between
                    self._postings.pop(k, None)
                    while len(self._postings) >= _POSTINGS_KEPT:
                        del self._postings[next(iter(self._postings))]
                    self._postings[k] = postings
            return postings

    def large_postings(self, k: int, documents: Documents, threads: int) -> LargePostings | None:
        """What searches a large collection by codes alone, or None if `postings` do it better."""
        if len(documents) < LARGE:
            return None
        with self.lock:
            large = self._large.get(k)
            newest = documents is self.collection.documents
            known = k in self._large and (newest if large is None else large.documents is documents)
            if not known:
                large = LargePostings.build(documents, k, threads, large)
                if newest:
                    self._large.pop(k, None)
                    while len(self._large) >= _POSTINGS_KEPT:
                        del self._large[next(iter(self._large))]
                    self._large[k] = large
            return large

    def keep_large(self, large: LargePostings) -> None:
        """Keep what was derived before, such as what a file has."""
        with self.lock:
            self._large[large.k] = large

    def word_postings(self, words: Words, statistics: Statistics, threads: int) -> WordPostings:
        """The inverted index of words, good for these statistics."""
        with self.lock:
            postings = self._word_postings
            if postings is None or not postings.serves(words, statistics):
                postings = WordPostings.build(words, statistics, threads, postings)
                if words is self.collection.words:
                    self._word_postings = postings
            return postings

    def rescorer(self, k: int, documents: Documents, decoder: Decoder, keep: bool) -> Rescorer:
        """What scores documents through a decoder at k."""
        if not keep:
            return Rescorer(documents, decoder, k)
        with self.lock:
            rescorer = self._rescorers.get(k)
            if rescorer is None or rescorer.documents is not documents:
                rescorer = Rescorer(documents, decoder, k)
                if documents is self.collection.documents:
                    self._rescorers[k] = rescorer
            return rescorer


def _renew_locks() -> None:
    """After a fork, let go of locks of threads that the child does not have."""
    for live in _alive:
        live.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
