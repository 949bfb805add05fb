"""Making the file of a segment, from codes in memory, from shards or from other segments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import run_all
from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.packed_codes import PackedCodes
from csr_st.search.collection import Collection
from csr_st.search.documents import Documents, Similarity
from csr_st.search.parts import Parts
from csr_st.search.storage import index_writer
from csr_st.search.tokenizing import as_texts
from csr_st.search.words import Words

ROWS_AT_ONCE = 2**16
_TASKS_AT_ONCE = 8  # bounds the memory of shards that are open


class CodeShards(Protocol):
    """Codes that are read shard by shard, such as `csr_st.CodeStore`."""

    def __len__(self) -> int:
        """Number of items."""

    def shards(self) -> Iterator[SparseCodes]:
        """The codes, one part after another."""


class Source(Protocol):
    """Documents to be written, a part at a time."""

    def like(self) -> Documents:
        """Documents with the same settings, any number of them."""

    def parts(self) -> Iterator[Callable[[], Documents]]:
        """Functions that give the documents, one part after another."""


class FromCodes:
    """Documents of codes, in memory or in shards.

    Args:
        codes: The codes.
        similarity: What they are compared by.
    """

    def __init__(
        self, codes: SparseCodes | PackedCodes | CodeShards, similarity: Similarity
    ) -> None:
        known = isinstance(codes, SparseCodes | PackedCodes) or hasattr(codes, "shards")
        if not known:
            raise TypeError(
                f"codes are {type(codes).__name__}; pass SparseCodes, PackedCodes or a CodeStore"
            )
        self._codes = codes.unpack() if isinstance(codes, PackedCodes) else codes
        self._similarity = similarity

    def __len__(self) -> int:
        return len(self._codes)

    def like(self) -> Documents:
        """See `Source`."""
        first = next(self._shards(), None)
        if first is None:
            raise ValueError("the store has no codes; pass one with some")
        return self._documents(first[:0])

    def parts(self) -> Iterator[Callable[[], Documents]]:
        """See `Source`."""
        for shard in self._shards():
            for first in range(0, len(shard), ROWS_AT_ONCE):
                yield partial(self._documents, shard[first : first + ROWS_AT_ONCE])

    def _shards(self) -> Iterator[SparseCodes]:
        codes = self._codes
        return iter([codes]) if isinstance(codes, SparseCodes) else codes.shards()

    def _documents(self, codes: SparseCodes) -> Documents:
        return Documents.from_codes(codes, None, self._similarity)


class FromCollections:
    """The documents of other segments, or of an index in memory, that were not removed."""

    def __init__(self, collections: Sequence[Collection]) -> None:
        self._collections = collections

    def like(self) -> Documents:
        """See `Source`."""
        return _unpacked_rows(self._collections[0].documents, np.arange(0))

    def parts(self) -> Iterator[Callable[[], Documents]]:
        """See `Source`."""
        for collection in self._collections:
            rows = np.flatnonzero(collection.present)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[first : first + ROWS_AT_ONCE]
                yield partial(_unpacked_rows, collection.documents, some)


class WordsAlone:
    """Documents without codes."""

    def like(self) -> Documents:
        """See `Source`."""
        return Documents.without_codes(0)

    def parts(self) -> Iterator[Callable[[], Documents]]:
        """See `Source`."""
        return iter(())


def _unpacked_rows(documents: Documents, rows: NDArray[np.int64]) -> Documents:
    """Some of the documents, which are written as other codes are if they were packed."""
    return replace(documents.rows(rows), value_bits=None)


def source_of(
    codes: SparseCodes | PackedCodes | CodeShards | None,
    words: Sequence[str] | None,
    similarity: Similarity,
) -> tuple[Source, int]:
    """What is to be written of new documents, and their number."""
    if codes is None:
        return WordsAlone(), len(as_texts(words, None, "documents"))
    source = FromCodes(codes, similarity)
    return source, len(source)


def checked_addition(
    parts: Parts, codes: SparseCodes | PackedCodes | CodeShards | None, words: Sequence[str] | None
) -> tuple[Source, int, Words | None]:
    """What is to be written of documents that are added to others: codes, their number, and words.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If they do not fit the documents that are there.
    """
    if codes is None and parts.documents.hidden_dim:
        raise ValueError("this index has codes; pass those of the documents to add")
    if codes is not None and not parts.documents.hidden_dim:
        raise ValueError("this index has only words; pass words= and no codes")
    if (words is None) != (parts.words is None):
        missing = "has words; pass words=, the text of each document, '' for one without"
        none = "has no words; leave words= out, or create it from all texts"
        raise ValueError(f"this index {missing if words is None else none}")
    source, n = source_of(codes, words, parts.documents.similarity)
    if codes is not None:
        parts.documents.check_addable(source.like())
    found = None
    if words is not None and parts.words is not None:
        texts = as_texts(words, n, "documents")
        found = Words.of(texts, parts.words.known_language(), parts.words.weight)
    return source, n, found


def write_segment(
    path: Path,
    source: Source,
    ids: NDArray[Any],
    words: Words | None,
    threads: int,
    decoder: Decoder | None = None,
) -> None:
    """Write a file of documents, completely or not at all; only some of them are in memory.

    It is a file that `SparseIndex.load` opens.

    Raises:
        TypeError: If a part is not of codes.
        ValueError: If codes cannot be stored, or parts do not fit each other.
        OSError: If the disk is full.
    """
    like = source.like()
    with index_writer(path, like, ids, words, decoder) as write:

        def put(first: int, part: Documents) -> None:
            like.check_addable(part)
            write(first, part)

        first, parts = 0, source.parts()
        while some := list(itertools.islice(parts, _TASKS_AT_ONCE)):
            documents = run_all(some, threads)
            firsts = first + np.cumsum([0, *map(len, documents)])
            if firsts[-1] > len(ids):
                raise ValueError(f"there are more than the {len(ids)} codes that were announced")
            pairs = zip(firsts[:-1].tolist(), documents, strict=True)
            run_all([partial(put, *pair) for pair in pairs], threads)
            first = int(firsts[-1])
        if like.hidden_dim and first < len(ids):
            raise ValueError(f"there are {first} codes, where {len(ids)} were announced")


def joined_ids(collections: Sequence[Collection]) -> NDArray[Any]:
    """The ids of the documents of segments that were not removed."""
    each = [collection.ids[collection.present] for collection in collections]
    return np.concatenate([ids for ids in each if len(ids)] or each[:1])


def joined_words(collections: Sequence[Collection]) -> Words | None:
    """The words of the documents of segments that were not removed."""
    parts = []
    for collection in collections:
        if collection.words is None:
            return None
        parts.append(collection.words.rows(collection.present))
    return Words.together(parts)
