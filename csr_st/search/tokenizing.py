"""From texts to words: split, without stop words, stemmed; or by a function of the caller's.

`bm25s` splits and has the stop words, `PyStemmer` the stems.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Language: TypeAlias = str | Callable[[str], Sequence[str]]

_OLD_STEMMERS = {"porter", "dutch_porter"}
# Those of bm25s. Other languages have none: that costs room, but frequent words weigh little.
_STOP_WORDS = {
    *("danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish", "turkish"),
}
_TEXTS_AT_ONCE = 8192  # bounds the memory of words as Python objects
_CHARACTERS_AT_ONCE = 2**22  # Ctrl-C works between parts


class Tokens(NamedTuple):
    """The words of some texts.

    Attributes:
        words: The words of all texts, one after another, as places in ``names``.
        lengths: (n,) words of each text.
        names: Distinct words, in the order in which they first occur.
    """

    words: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: list[str]


def as_texts(texts: Any, n: int | None, what: str) -> list[str]:
    """Texts in any list or column, as a list of str.

    Args:
        texts: The texts.
        n: How many there must be, if that is known.
        what: What they are of, for messages: "documents" or "queries".

    Raises:
        TypeError: If they are one str, no list, or one of them is not a str.
        ValueError: If their number is not n.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(
            f"words are the {type(texts).__name__} {texts!r:.60}; pass a list with the text of "
            f"each of the {what}"
        )
    listed = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise TypeError(
                f"words have {text!r:.60} of type {type(text).__name__} in row {row}; pass a str, "
                "'' where there is no text"
            )
    if n is not None and len(listed) != n:
        raise ValueError(f"there are {len(listed)} texts for {n} {what}; pass one text for each")
    return listed


def check_language(language: Language) -> None:
    """Check the name of a language, or that it is a function.

    Raises:
        TypeError: If it is neither a str nor callable.
        ValueError: If there is no stemmer for the language.
        ImportError: If the libraries for it are not installed.
    """
    if callable(language):
        return
    if not isinstance(language, str):
        raise TypeError(
            f"language={language!r} is a {type(language).__name__}; pass a name such as 'english', "
            "or a function from a text to the list of its words"
        )
    known = sorted(set(_library("Stemmer").algorithms()) - _OLD_STEMMERS)
    if language not in known:
        raise ValueError(
            f"language={language!r} is unknown; pass one of {', '.join(known)}, or a function from "
            "a text to the list of its words"
        )


def tokenized(texts: Sequence[str], language: Language) -> Iterator[Tokens]:
    """The words of texts, some texts at a time.

    Raises:
        TypeError: If a function in place of a language does not return a list of str.
    """
    for part in _parts(texts):
        words, names = (
            _by_function(part, language) if callable(language) else _by_name(part, language)
        )
        flat = np.fromiter(chain.from_iterable(words), np.int64)
        # bm25s numbers stems in the order of a set, which is another one in each process.
        used, first, places = np.unique(flat, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        lengths = np.array([len(row) for row in words], np.int64)
        yield Tokens(rank[places], lengths, [names[place] for place in used[order]])


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if len(part) == _TEXTS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _by_name(texts: list[str], language: str) -> tuple[list[list[int]], list[str]]:
    """The words of each text as numbers, and the words of all numbers."""
    stemmer = _library("Stemmer").Stemmer(language)  # two threads must not use the same one
    found = _library("bm25s").tokenize(
        texts,
        stopwords=language if language in _STOP_WORDS else [],
        stemmer=stemmer,
        show_progress=False,
    )
    names = [""] * len(found.vocab)
    for name, number in found.vocab.items():
        names[number] = name
    return found.ids, names


def _by_function(
    texts: list[str], split: Callable[[str], Sequence[str]]
) -> tuple[list[list[int]], list[str]]:
    numbers: dict[str, int] = {}
    rows = []
    for text in texts:
        words = split(text)
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise TypeError(
                f"the function that splits texts returned {words!r:.60} for {text!r:.60}; it must "
                "return a list of str"
            )
        rows.append([numbers.setdefault(word, len(numbers)) for word in words])
    return rows, list(numbers)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f'words need {name}: pip install "csr-st[words]"; or pass as language a function from '
            "a text to the list of its words",
            name=name,
        ) from error
