"""Names of a SPLADE model's latents: they are the tokens of its vocabulary."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from csr_st.insight.names import LatentName, LatentNames
from csr_st.sparse_encoders import ready

UNREADABLE = "\ufffd"  # for a part of a character


def token_names(model: SparseEncoder) -> LatentNames:
    """The tokens of a model whose dimensions they are, as names for `csr_st.explain`.

    For example::

        names = token_names(model)
        names.label(2068)  # 'wing'
        names.find("wing")  # the tokens that contain it

    A name is the token as text: of byte-level tokens what they decode to, "##ing" as it is. No text
    was looked at, so that ``auc`` is nan and ``frequency`` 0; `csr_st.name_latents` names the
    latents of any codes by the texts that have them.

    Args:
        model: A `SparseEncoder` with `SpladePooling` or `SparseStaticEmbedding`.

    Raises:
        ValueError: If its dimensions are no tokens.
    """
    lexical = SpladePooling, SparseStaticEmbedding
    modules = model.modules() if isinstance(model, SparseEncoder) else ()
    if not any(isinstance(module, lexical) for module in modules):
        raise ValueError(
            f"{type(model).__name__} has no SpladePooling and no SparseStaticEmbedding: its "
            "dimensions are no tokens; name them with csr_st.name_latents(codes, texts)"
        )
    tokenizer = _tokenizer(model)
    hidden_dim = ready(model, 1, "document").coder.hidden_dim
    tokens = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), hidden_dim))))
    named = [
        LatentName(number, (_as_text(tokenizer, token),))
        for number, token in enumerate(tokens)
        if token is not None
    ]
    return LatentNames(named, hidden_dim=hidden_dim, k=hidden_dim, n_texts=0)


def _tokenizer(model: SparseEncoder) -> Any:
    """The first tokenizer in the model: all parts of it that have one have the same."""
    found = (getattr(module, "tokenizer", None) for module in [model, *model.modules()])
    return next(tokenizer for tokenizer in found if tokenizer is not None)


def _as_text(tokenizer: Any, token: str) -> str:
    text = tokenizer.convert_tokens_to_string([token]).strip()
    return token if not text or UNREADABLE in text else text
