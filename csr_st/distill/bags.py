"""Texts as bags of tokens: all that a static query knows of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from tokenizers import Tokenizer

MAX_WORDS = 60_000  # tokens that are embedded alone
MARKS = re.compile(r"^(##|▁|Ġ)|</w>$")  # of WordPiece, SentencePiece and byte-level BPE
SPECIAL = re.compile(r"^(\[.+\]|<.+>|\s*)$")


class Bags(NamedTuple):
    """The tokens of n texts, one text after the other; none is empty.

    Attributes:
        tokens: Ids.
        starts: (n + 1,) where each text starts in ``tokens``, and where the last ends.
    """

    tokens: NDArray[np.int64]
    starts: NDArray[np.int64]

    def matrix(self, vocabulary: int) -> scipy.sparse.csr_array:
        """(n, vocabulary) float32: what each token's vector is multiplied by in a text's mean."""
        lengths = np.diff(self.starts)
        shares = np.repeat((1 / lengths).astype(np.float32), lengths)
        arrays = shares, self.tokens, self.starts
        found = scipy.sparse.csr_array(arrays, shape=(len(lengths), vocabulary))
        found.sum_duplicates()
        return found

    def rows(self, index: NDArray[np.int64]) -> Bags:
        """The bags of some texts."""
        lengths = np.diff(self.starts)[index]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[index] - starts[:-1], lengths)
        return Bags(self.tokens[places], starts)


def bags_of(
    tokenizer: Tokenizer, texts: Sequence[str], most: int | None
) -> tuple[Bags, NDArray[np.int64]]:
    """The bags of texts, and the numbers of those that have tokens.

    Args:
        tokenizer: Without special tokens, it splits texts.
        texts: n texts.
        most: Tokens of a text at most, as the backbone cuts it; None for all.
    """
    found = [one.ids[:most] for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    kept = np.flatnonzero([bool(ids) for ids in found])
    lengths = [len(found[place]) for place in kept]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = [np.array(found[place], np.int64) for place in kept]
    return Bags(np.concatenate([np.empty(0, np.int64), *tokens]), starts), kept


def words_of(tokenizer: Tokenizer) -> tuple[NDArray[np.int64], list[str]]:
    """Tokens and how they are written, without special ones: the first `MAX_WORDS` by id.

    Vocabularies are ordered by how frequent tokens are, or nearly so.
    """
    written = {
        number: MARKS.sub("", token)
        for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        if not SPECIAL.match(token)
    }
    known = [(number, word) for number, word in written.items() if word][:MAX_WORDS]
    return np.array([number for number, _ in known], np.int64), [word for _, word in known]
