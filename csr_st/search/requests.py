"""Checks of what a search is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from csr_st._io.threads import resolve_threads
from csr_st.codes import SparseCodes
from csr_st.search.bm25 import QueryWords
from csr_st.search.documents import checked_codes
from csr_st.search.numbers import whole
from csr_st.search.parts import Parts
from csr_st.search.tokenizing import as_texts
from csr_st.search.words import check_weight

_MAX_THREADS = 256


def checked_queries(
    codes: SparseCodes | None, words: Any, parts: Parts
) -> tuple[SparseCodes, list[str] | None]:
    """Codes, with the values that count, and texts; codes are empty where there are only texts.

    Raises:
        TypeError: If the queries are not SparseCodes, or texts not str.
        ValueError: If there are neither codes nor texts, not as many, or such that the index has
            none of their kind.
    """
    hidden_dim = parts.documents.hidden_dim
    if words is None and codes is None:
        raise ValueError("there is nothing to search for; pass codes, words=queries, or both")
    if words is not None and parts.words is None:
        raise ValueError(
            "this index has no words; search by codes alone, or build it with words=texts"
        )
    if codes is None:
        texts = as_texts(words, None, "queries")
        # Rows of one latent with value 0; of no latent where the index has none.
        none = np.zeros((len(texts), min(hidden_dim, 1)))
        empty = SparseCodes(np.zeros((0, 1), np.uint8), np.zeros((0, 1), np.float32), 1)
        return empty._with(indices=none.astype(np.uint8), values=none.astype(np.float32)), texts
    checked = checked_codes(codes, "query codes", parts.documents.similarity)
    if not hidden_dim:
        raise ValueError("this index has only words; leave the query codes out")
    if checked.hidden_dim != hidden_dim:
        raise ValueError(
            f"the queries have hidden_dim={checked.hidden_dim}, the index {hidden_dim}; encode "
            "both with the same head"
        )
    return checked, None if words is None else as_texts(words, len(checked), "queries")


def boosted_queries(
    codes: SparseCodes | None, boost: Mapping[int, float], rescore: int | None
) -> SparseCodes:
    """The codes of queries with some latents raised or lowered.

    Raises:
        TypeError: If there are no codes, or what is boosted is of the wrong type.
        ValueError: If documents are rescored, or a latent or factor is out of bounds.
    """
    if rescore is not None:
        raise ValueError(
            f"boost={boost!r:.60} changes the codes of queries, but rescore={rescore} ranks by "
            "their dense vectors, which stay as they are; leave one of them out"
        )
    if not isinstance(codes, SparseCodes):
        raise TypeError(
            f"boost={boost!r:.60} applies to latents, but the query codes are "
            f"{type(codes).__name__}; pass csr_st.SparseCodes"
        )
    return codes.boost(boost)


def checked_sizes(parts: Parts, top_k: int, k: int | None) -> tuple[int, int]:
    """``top_k`` and ``k`` as numbers that are possible.

    Raises:
        TypeError: If one is not an integer.
        ValueError: If one is not possible, or the index is empty.
    """
    if not parts.n_present:
        raise ValueError("the index is empty: there is nothing to search; add documents first")
    top_k = whole("top_k", top_k, parts.n_present, "the documents in the index")
    if k is None:
        return top_k, parts.documents.k
    return top_k, whole("k", k, parts.documents.k, "the latents stored per document")


def word_queries(
    texts: list[str] | None, parts: Parts, weight: float | None
) -> list[QueryWords] | None:
    """The words of queries, for each part, and what they are worth; None without texts.

    Raises:
        TypeError: If the weight is not a number.
        ValueError: If it is negative, NaN or infinite, or there is one without texts.
    """
    if texts is None or parts.words is None:
        if weight is not None:
            raise ValueError(f"weight={weight} applies to words; pass words=queries with it")
        return None
    return parts.word_queries(texts, parts.words.weight if weight is None else check_weight(weight))


def checked_recall(approximate: float) -> float:
    """The recall that an approximate search is asked for.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not above 0 and at most 1.
    """
    if isinstance(approximate, bool) or not isinstance(approximate, int | float | np.number):
        raise TypeError(f"approximate={approximate!r:.60} is not a number; pass a recall like 0.95")
    if not 0 < approximate <= 1:
        raise ValueError(f"approximate={approximate!r} is not a recall above 0 and at most 1")
    return float(approximate)


def checked_threads(threads: int | None) -> int:
    """The number of threads to use.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below 1.
    """
    return resolve_threads(
        None if threads is None else min(whole("threads", threads), _MAX_THREADS)
    )
