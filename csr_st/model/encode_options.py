"""Refuse the options of ``encode`` that damage codes: those that cut or quantize dense vectors.

sentence-transformers applies both after the head, and passes neither on to it.
"""

from __future__ import annotations

import inspect
from typing import Any

import sentence_transformers

KEY = "sentence_embedding"


def refuse_truncation(kept: int, hidden_dim: int) -> None:
    """Raise the ValueError of a ``truncate_dim``."""
    raise ValueError(
        f"truncate_dim={kept} would keep the first {kept} of {hidden_dim} latents, an arbitrary "
        "few; leave it out (model.truncate_dim = None) and pass encode(..., k=) for shorter codes"
    )


class WholeCodes(dict[str, Any]):
    """The features that a head returns, in which nothing can shorten the codes afterwards.

    ``encode`` cuts to ``truncate_dim`` with this assignment; modules behind a head use ``update``.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        codes = self.get(key) if key == KEY else None
        if codes is not None and value.shape[-1] < codes.shape[-1]:
            refuse_truncation(value.shape[-1], codes.shape[-1])
        super().__setitem__(key, value)


class SentenceTransformer(sentence_transformers.SentenceTransformer):
    """A `SentenceTransformer` that ends in a head; only its ``encode`` differs.

    It has the name of the class that it stands for, as sentence-transformers shows it to users.
    """

    stands_for = sentence_transformers.SentenceTransformer  # in a store's note of its model

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        """What the base class returns.

        Raises:
            ValueError: If ``precision`` is "int8" or "uint8", or it is "binary" or "ubinary" and
                hidden_dim is not a multiple of 8.
        """
        base = super().encode
        given = inspect.signature(base).bind(*args, **kwargs).arguments.get("precision")
        width = self.get_embedding_dimension() or 0
        if given in ("int8", "uint8"):
            # Each latent would get a range of its own, in which 0 is not 0.
            reason = "would make zeros non-zero and weigh latents anew"
        elif given in ("binary", "ubinary") and width % 8:
            reason = f"packs 8 latents in a byte, and hidden_dim={width} is not a multiple of 8"
        else:
            return base(*args, **kwargs)
        raise ValueError(
            f"precision={given!r} {reason}; leave it out: csr_st.encode(model, texts, k, "
            "dtype='float16') stores 16-bit values of the active latents only"
        )


def guard(model: Any, *, has_head: bool) -> None:
    """Make a model's ``encode`` refuse such options, or no longer where it has no head."""
    plain = sentence_transformers.SentenceTransformer
    if type(model) in (plain, SentenceTransformer):  # a subclass of the user's keeps its methods
        model.__class__ = SentenceTransformer if has_head else plain
