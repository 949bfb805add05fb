"""Maximal marginal relevance: good documents that are unlike each other.

Carbonell and Goldstein, *The use of MMR, diversity-based reranking for reordering documents and
producing summaries*, SIGIR 1998.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.search.numbers import whole


class Diversity(NamedTuple):
    """How to choose.

    Attributes:
        candidates: Choose among this many of the best documents.
        relevance: What a score counts, within 0..1; likeness to a document that was chosen before
            counts the rest. 1 is the order of the scores.
    """

    candidates: int
    relevance: float

    @classmethod
    def checked(cls, candidates: Any, relevance: Any, names: tuple[str, str]) -> Diversity:
        """A `Diversity` of what a framework passes under its own names.

        Raises:
            TypeError: If ``candidates`` is not an integer, or ``relevance`` not a number.
            ValueError: If one is out of bounds.
        """
        candidates = whole(names[0], candidates)
        if isinstance(relevance, bool) or not isinstance(relevance, int | float | np.number):
            raise TypeError(f"{names[1]}={relevance!r} is not a number; pass one within 0..1")
        if not 0 <= relevance <= 1:
            raise ValueError(
                f"{names[1]}={relevance} is not within 0..1, from unlike each other to best scores"
            )
        return cls(candidates, float(relevance))

    def choose(self, scores: NDArray[Any], codes: SparseCodes, top_k: int) -> list[int]:
        """Rows of the documents to return, in the order in which they are chosen.

        Each is the one with the largest relevance * score - (1 - relevance) * likeness, where
        likeness is the largest cosine with one that was chosen before.

        Args:
            scores: (n,) scores of the candidates.
            codes: Their codes.
            top_k: Documents to choose, at most; each once.
        """
        rows = codes.to_scipy() if codes.normalized else codes.normalize().to_scipy()
        likeness = np.zeros(len(scores))
        left = np.ones(len(scores), bool)
        chosen: list[int] = []
        while len(chosen) < min(top_k, len(scores)):
            worth = self.relevance * scores - (1 - self.relevance) * likeness
            row = int(np.argmax(np.where(left, worth, -np.inf)))
            cosines = rows @ rows[[row]].toarray()[0]
            likeness = cosines if not chosen else np.maximum(likeness, cosines)
            left[row] = False
            chosen.append(row)
        return chosen
