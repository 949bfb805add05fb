"""Words, and lists of strings, as arrays of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.search.words import ARRAYS, Words, check_weight

_SURROGATES = "surrogatepass"  # Python's strings may have halves of characters; they come back


def joined_strings(strings: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Strings in UTF-8, one after another, and where each ends."""
    encoded = [text.encode(errors=_SURROGATES) for text in strings]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def split_strings(text: NDArray[Any], ends: NDArray[Any], what: str) -> list[str]:
    """The strings of `joined_strings`.

    Raises:
        ValueError: If the ends are not those of the text, or it is not UTF-8.
    """
    content, places = text.tobytes(), ends.tolist()
    if places != sorted(places) or [len(content)] != (places[-1:] or [0]):
        raise ValueError(f"the ends of the {what} do not rise to the length of their text")
    pairs = zip([0, *places], places, strict=False)
    return [content[start:end].decode(errors=_SURROGATES) for start, end in pairs]


def words_to_arrays(words: Words) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Language and weight, and the arrays, of words; a function is left out."""
    language = words.language if isinstance(words.language, str) else None
    arrays = {f"word_{name}": getattr(words, name) for name in ARRAYS}
    arrays["vocabulary_text"], arrays["vocabulary_ends"] = joined_strings(words.vocabulary)
    return {"language": language, "weight": words.weight}, arrays


def words_from_arrays(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Words:
    """The words of `words_to_arrays`.

    Raises:
        ValueError: If they are not valid.
        TypeError: If they are not valid.
        KeyError: If something is missing.
    """
    names = split_strings(arrays["vocabulary_text"], arrays["vocabulary_ends"], "vocabulary")
    vocabulary = {name: number for number, name in enumerate(names)}
    if len(vocabulary) < len(names):
        raise ValueError("a word is twice in the vocabulary")
    language, weight = about["language"], check_weight(about["weight"])
    if not isinstance(language, str | None):
        raise ValueError(f"the language is {language!r}")
    stored = {name: arrays[f"word_{name}"] for name in ARRAYS}
    return Words(**stored, vocabulary=vocabulary, language=language, weight=weight)
