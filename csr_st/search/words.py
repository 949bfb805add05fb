"""The words of the documents of an index: how often each occurs in which document.

What a word weighs depends on all documents and is computed when it is needed, see
`csr_st.search.bm25`; so nothing stored changes when documents are added or removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.search.tokenizing import Language, Tokens, tokenized

WEIGHT = 0.15  # of the words' part in a score, see `csr_st.search.bm25`
MAX_WEIGHT = 1e6
MAX_WORDS = 2**32  # distinct ones
_MOST = 255  # occurrences in one entry
ARRAYS: dict[str, np.dtype[Any]] = {
    "ends": np.dtype(np.int64),
    "ids": np.dtype(np.uint32),
    "counts": np.dtype(np.uint8),
}  # of `Words`


def check_weight(weight: Any) -> float:
    """The weight of words as a float.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative, NaN or infinite.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
        raise TypeError(f"weight={weight!r} is a {type(weight).__name__}; pass a number")
    number = float(weight)
    if not 0 <= number <= MAX_WEIGHT:
        raise ValueError(f"weight={number} is not within 0..{MAX_WEIGHT:g}")
    return number


class Entries(NamedTuple):
    """Words in the layout of `Words`."""

    ends: NDArray[np.int64]
    ids: NDArray[np.uint32]
    counts: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Words:
    """The words of n documents; adding returns a new object.

    An entry is a word of a document and how often it occurs there, in 5 bytes. A word that occurs
    more than 255 times has several entries, one after the other.

    Attributes:
        ends: (n,) int64, where the entries of each document end.
        ids: (n_entries,) uint32, words as numbers in ``vocabulary``, rising within a document.
        counts: (n_entries,) uint8, occurrences, at least 1.
        vocabulary: The number of each word.
        language: Name of a language, or a function, see `csr_st.search.tokenizing`; None for words
            from a file whose function is not known.
        weight: Weight of BM25 in a score, if a search gives no other.
        lineage: The same object for all words made from one another by `joined`.
        lengths: (n,) int64, words of each document, from the counts.
    """

    ends: NDArray[np.int64]
    ids: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    vocabulary: Mapping[str, int]
    language: Language | None
    weight: float = WEIGHT
    lineage: object = field(default_factory=object)
    lengths: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._check_arrays()
        total = np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])
        object.__setattr__(self, "lengths", np.diff(total[self.ends], prepend=0))

    def __len__(self) -> int:
        return len(self.ends)

    @classmethod
    def of(cls, texts: Sequence[str], language: Language, weight: float) -> Words:
        """The words of texts."""
        entries, vocabulary = _counted(tokenized(texts, language), {})
        return cls(*entries, vocabulary, language, weight)

    def known_language(self) -> Language:
        """The language, or the function that splits texts.

        Raises:
            ValueError: If it is a function that was not given when the file was opened.
        """
        if self.language is None:
            raise ValueError(
                "the texts of this index were split by a function, which a file cannot contain; "
                "open it once more and pass language=function"
            )
        return self.language

    def spoken(self, language: Language | None) -> Words:
        """These words, read from a file, with the function that splits texts.

        Raises:
            ValueError: If the file has a language and another one is given, or the reverse.
        """
        if language is None or language == self.language:
            return self
        if self.language is not None or not callable(language):
            made = "a function" if self.language is None else repr(self.language)
            raise ValueError(
                f"language={language!r} is not that of the file, whose texts were split by {made}"
            )
        return replace(self, language=language)

    def numbers(self, names: Sequence[str]) -> NDArray[np.int64]:
        """The number of each word in the vocabulary, -1 for those that are not in it."""
        return np.array([self.vocabulary.get(name, -1) for name in names], np.int64)

    def joined(self, tokens: Iterable[Tokens]) -> Words:
        """These words, then those of texts. Keep only one result: `begins_with` relies on it."""
        more, vocabulary = _counted(tokens, self.vocabulary)
        first = len(self.ids)
        return replace(
            self,
            ends=np.concatenate([self.ends, more.ends + first]),
            ids=np.concatenate([self.ids, more.ids]),
            counts=np.concatenate([self.counts, more.counts]),
            vocabulary=vocabulary,
        )

    def begins_with(self, other: Words) -> bool:
        """Whether these are the words of ``other``, with or without those of later documents."""
        return self.lineage is other.lineage and len(other) <= len(self)

    def rows(self, keep: NDArray[Any]) -> Words:
        """The words of some documents, copied, and of the vocabulary what these have."""
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        places, n_entries = self.places(rows)
        ids = self.ids[places]
        used = np.zeros(len(self.vocabulary), bool)
        used[ids] = True
        numbers = np.cumsum(used, dtype=np.uint32) - np.uint32(1)
        vocabulary = {
            name: int(numbers[number]) for name, number in self.vocabulary.items() if used[number]
        }
        return replace(
            self,
            ends=np.cumsum(n_entries),
            ids=numbers[ids],
            counts=self.counts[places],
            vocabulary=vocabulary,
            lineage=object(),
        )

    @classmethod
    def together(cls, parts: Sequence[Words]) -> Words:
        """The words of documents of several indexes, in order; the first says the language."""
        vocabulary: dict[str, int] = {}
        ends, ids, counts, first = [], [], [], 0
        for words in parts:
            numbers = np.empty(len(words.vocabulary), np.uint32)
            for name, number in words.vocabulary.items():
                numbers[number] = vocabulary.setdefault(name, len(vocabulary))
            renamed = numbers[words.ids]
            rows = np.repeat(np.arange(len(words)), np.diff(words.ends, prepend=0))
            order = np.lexsort((renamed, rows))  # they rise within a document
            ids.append(renamed[order])
            counts.append(words.counts[order])
            ends.append(words.ends + first)
            first += len(words.ids)
        return replace(
            parts[0],
            ends=np.concatenate(ends),
            ids=np.concatenate(ids),
            counts=np.concatenate(counts),
            vocabulary=vocabulary,
            lineage=object(),
        )

    def places(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The entries of some documents, one document after another, and how many each has."""
        firsts = np.concatenate([[0], self.ends])[rows]
        n_entries = self.ends[rows] - firsts
        shifts = firsts - (np.cumsum(n_entries) - n_entries)
        return np.repeat(shifts, n_entries) + np.arange(n_entries.sum()), n_entries

    def _check_arrays(self) -> None:
        for name, dtype in ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{name} of words are {array.dtype} of shape {array.shape}")
        places = [0, *self.ends[:1], *self.ends[-1:], len(self.ids)]
        rise = places == sorted(places) and bool((np.diff(self.ends) >= 0).all())
        if not rise or places[-2] != places[-1] or len(self.counts) != len(self.ids):
            raise ValueError("the ends of words do not rise to the number of words")

    def check_ids(self) -> None:
        """Check that the words exist, for words from a file: the kernels rely on it.

        Raises:
            ValueError: If one is outside the vocabulary.
        """
        largest = int(self.ids.max(initial=0))
        if len(self.ids) and largest >= len(self.vocabulary):
            raise ValueError(f"word {largest} is outside the vocabulary of {len(self.vocabulary)}")


def _counted(parts: Iterable[Tokens], known: Mapping[str, int]) -> tuple[Entries, dict[str, int]]:
    """The words of texts, and the vocabulary with those that are new."""
    vocabulary = dict(known)
    all_ids: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    all_counts: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]
    n_entries: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for tokens in parts:
        numbers = [vocabulary.setdefault(name, len(vocabulary)) for name in tokens.names]
        if len(vocabulary) > MAX_WORDS:
            raise ValueError(f"the texts have more than {MAX_WORDS} distinct words")
        words = np.array(numbers, np.int64)[tokens.words]
        rows = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)
        keys, counts = np.unique((rows << 32) | words, return_counts=True)
        repeats = -(-counts // _MOST)
        left = np.full(repeats.sum(), _MOST, np.int64)
        left[np.cumsum(repeats) - 1] = counts - _MOST * (repeats - 1)
        keys = np.repeat(keys, repeats)
        all_ids.append((keys & (MAX_WORDS - 1)).astype(np.uint32))
        all_counts.append(left.astype(np.uint8))
        n_entries.append(np.bincount(keys >> 32, minlength=len(tokens.lengths)))
    ends = np.cumsum(np.concatenate(n_entries))
    return Entries(ends, np.concatenate(all_ids), np.concatenate(all_counts)), vocabulary
