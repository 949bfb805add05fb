"""Which words of a text carry a latent: by how much its value falls without the word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from csr_st.codes import SparseCodes
from csr_st.encoding import Role, encode, encode_dense, encode_vectors
from csr_st.head import SparseCSRHead
from csr_st.model.settings import integer
from csr_st.sparse_encoders import AnyModel, ready

MOST_WORDS = 256
ROWS_AT_ONCE = 64


def word_shares(
    model: AnyModel,
    text: str,
    latents: Iterable[int],
    *,
    role: Role | None = None,
    batch_size: int = 32,
) -> dict[int, dict[str, float]]:
    """Which words of a text carry each latent: occlusion, word by word.

    The text is encoded as it is, and once without each of its distinct words, all in one call. A
    word's share of a latent is the part of the latent's activation that is lost without the word:
    0.5 if it falls by half, 1 if it is gone. Shares of different words need not add up to 1, since
    words act together.

    Only the first 256 distinct words (`MOST_WORDS`) are left out in turn, so a long text takes at
    most 257 texts of its length.

    Args:
        model: A model with head, or any `SparseEncoder`.
        text: One text.
        latents: The latents to look at.
        role: "query" or "document", as in `csr_st.encode`.
        batch_size: Texts per forward pass.

    Returns:
        For each latent that the text has, the words with a share above 0, largest first, as they
        are first written; empty for a latent that the text does not activate.

    Raises:
        TypeError: If text is not a str or a latent not an integer.
        ValueError: If a latent is outside the model's, or a `SentenceTransformer` has no head.
    """
    if not isinstance(text, str):
        raise TypeError(f"text={text!r:.60} must be a str: one text")
    high, limit = ready(model, 1, role).coder.hidden_dim - 1, "the head's last latent, "
    wanted = np.array([integer("latent", one, 0, high, limit) for one in latents], np.int64)
    words = _distinct(text)
    variants = [text, *(_without(text, word) for word in words)]
    parts = _whole_codes(model, variants, role, batch_size)
    whole, *rest = np.concatenate([codes.raw().to_dense()[:, wanted] for codes in parts])
    fall = (whole - np.array(rest).reshape(len(words), len(wanted))) / np.where(whole > 0, whole, 1)
    shares: dict[int, dict[str, float]] = {}
    for column, latent in enumerate(wanted.tolist()):
        order = np.argsort(-fall[:, column], kind="stable")
        shares[latent] = {
            words[row]: float(fall[row, column]) for row in order if fall[row, column] > 0
        }
    return shares


def _whole_codes(
    model: AnyModel, texts: list[str], role: Role | None, batch_size: int
) -> Iterator[SparseCodes]:
    """Codes of texts, part after part, with all latents: below the k largest a value counts too."""
    coder = ready(model, 1, role).coder
    k, starts = coder.hidden_dim, range(0, len(texts), ROWS_AT_ONCE)
    if not isinstance(coder, SparseCSRHead) or coder.level == "token":
        for first in starts:
            part = texts[first : first + ROWS_AT_ONCE]
            yield encode(model, part, k, role=role, batch_size=batch_size, show_progress=False)
        return
    dense = encode_dense(model, texts, role=role, batch_size=batch_size, show_progress=False)
    for first in starts:
        yield encode_vectors(coder, dense[first : first + ROWS_AT_ONCE], k)


def _distinct(text: str) -> list[str]:
    """The first distinct words of a text, of which case makes no others."""
    found: dict[str, str] = {}
    for match in re.finditer(r"\w+", text):
        found.setdefault(match[0].casefold(), match[0])
        if len(found) == MOST_WORDS:
            break
    return list(found.values())


def _without(text: str, word: str) -> str:
    return re.sub(rf"\b{re.escape(word)}\b", " ", text, flags=re.IGNORECASE).strip() or " "
