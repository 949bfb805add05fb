"""Words as arrays of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from csr_st._io.string_arrays import joined_strings, split_strings
from csr_st.search.words import ARRAYS, Words, check_weight


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
