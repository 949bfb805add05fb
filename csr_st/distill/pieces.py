"""The texts that static queries are fitted to, and those by which they are measured.

Queries are short, so that pieces of texts stand for them: sentences, and spans of a few words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST = 20  # texts
HELD_OUT = 0.05  # of the texts, at most MAX_HELD_OUT
MAX_HELD_OUT = 500
MAX_TEXTS = 20_000  # that are used whole
MAX_DOCUMENTS = 2_000  # that figures are measured on
PIECES = 12  # of each text
MAX_PIECES = 20_000  # of all
SENTENCES = 4  # at most, of each text
WORDS = 3, 12  # of a span
END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")


def pieces_of(text: str, n: int, rng: np.random.Generator) -> list[str]:
    """At most n pieces of a text: up to a quarter, and `SENTENCES`, are sentences, the rest spans.

    A text of up to three words is its own only piece.

    Args:
        text: The text.
        n: Pieces.
        rng: Chooses them.
    """
    words = text.split()
    if len(words) <= WORDS[0]:
        return [" ".join(words)] if words else []
    sentences = [one for one in END_OF_SENTENCE.split(text) if len(one.split()) >= WORDS[0]]
    chosen = rng.permutation(len(sentences))[: min(SENTENCES, -(-n // 4))]
    found = [sentences[place].strip() for place in chosen.tolist()]
    while len(found) < n:
        length = int(rng.integers(WORDS[0], WORDS[1] + 1))
        first = int(rng.integers(0, max(1, len(words) - length + 1)))
        found.append(" ".join(words[first : first + length]))
    return found


def pieces(texts: Sequence[str], each: int, most: int, seed: int) -> list[str]:
    """Pieces of many texts, at least one of each, without repetition and in their order.

    Args:
        texts: The texts.
        each: Pieces of a text.
        most: Pieces of all; fewer of each where there are many texts.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng(seed)
    n = max(1, min(each, most // max(1, len(texts))))
    return list(dict.fromkeys(piece for text in texts for piece in pieces_of(text, n, rng)))


class Chosen(NamedTuple):
    """Which texts are used for what.

    Attributes:
        training: Texts, pieces of them, and real queries: what is fitted.
        asked: A piece of each text that was set aside: queries of the figures.
        documents: What is searched for these: the texts that were set aside, and others.
    """

    training: list[str]
    asked: list[str]
    documents: list[str]


def chosen_texts(texts: Sequence[str], queries: Sequence[str], seed: int) -> Chosen:
    """Choose what to fit and what to measure, equally each time.

    Args:
        texts: Texts like those that are searched.
        queries: Real queries.
        seed: Seed of the choice.

    Raises:
        ValueError: If there are fewer than `LEAST` texts that are not empty.
    """
    texts = [text for text in texts if text.strip()]
    if len(texts) < LEAST:
        raise ValueError(
            f"there are {len(texts)} texts that are not empty; static queries need at least {LEAST}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(texts))[: MAX_TEXTS + MAX_HELD_OUT]
    n = min(MAX_HELD_OUT, max(1, int(HELD_OUT * len(order))))
    set_aside = [texts[row] for row in np.sort(order[:n]).tolist()]
    whole = [texts[row] for row in np.sort(order[n:]).tolist()]
    asked = [pieces_of(text, 1, rng)[0] for text in set_aside]
    parts = pieces(whole, PIECES, MAX_PIECES, seed)
    used = [query for query in queries if query.strip()]
    return Chosen([*whole, *parts, *used], asked, [*set_aside, *whole[: MAX_DOCUMENTS - n]])
