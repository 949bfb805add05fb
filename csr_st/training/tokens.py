"""Train a token-level head: `csr_st.train` on the vectors of tokens, then weights of latents.

The weights are those of BM25, see `csr_st.model.token_pooling`: how many texts have a latent, and
how large its sums are over a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from csr_st.config import TokenConfig, TrainConfig, recipe
from csr_st.embeddings import TokenStore
from csr_st.head import SparseCSRHead
from csr_st.model.token_pooling import rarity
from csr_st.training.head_copy import changed
from csr_st.training.loop import TrainResult, train_rows

COUNTED = 50_000  # texts at most that weights are taken from


def train_tokens(
    store: TokenStore,
    config: TrainConfig | None = None,
    *,
    validation: TokenStore | None = None,
    **options: Any,
) -> TrainResult:
    """Train a token-level head, whose codes can find more than the dense vector of a text does.

    For example::

        store = csr_st.TokenStore.embed(backbone, texts, "tokens")
        head = csr_st.train_tokens(store).head
        model = csr_st.attach(backbone, head)

    Args:
        store: The vectors of tokens.
        config: Settings, those of ``csr_st.recipe("token")`` when None.
        validation: Texts whose tokens are measured during training, as by `csr_st.train`.
        options: Further arguments of `csr_st.train`.

    Returns:
        The head, with the weights that its latents have in the texts of the store, and its history.

    Raises:
        TypeError: If the configuration is of a recipe for vectors of texts, or a store has these.
        ValueError: As `csr_st.train`.
    """
    for given in (store,) if validation is None else (store, validation):
        _check_store(given)
    config = recipe("token") if config is None else config
    if not isinstance(config, TokenConfig):
        raise TypeError(
            f"recipe {getattr(config, 'recipe', config)!r} is for vectors of texts; pass "
            "csr_st.recipe('token', ...)"
        )
    measured = None if validation is None else validation.tokens()
    result = train_rows(store.tokens(), config, validation=measured, **options)
    settings = {
        "level": "token",
        "pooling": config.pooling,
        "k_token": min(config.k_token, result.head.hidden_dim),
        "text_share": config.text_share if config.pooling == "sum" else 0.0,
        "query_k": config.query_k and min(config.query_k, result.head.hidden_dim),
        "skipped_tokens": store.skipped_tokens,
    }
    ones = {"latent_weights": torch.ones(result.head.hidden_dim)}
    found = [
        reweigh(changed(head, settings, ones), store)
        for head in (result.head, result.last)
        if head is not None
    ]
    return replace(result, head=found[0], last=found[1] if len(found) > 1 else None)


def reweigh(head: SparseCSRHead, store: TokenStore) -> SparseCSRHead:
    """A copy of a token-level head with the weights that its latents have in a collection.

    A latent that is in most documents of a collection says little there, however rare it was in the
    training texts. The codes of the two heads do not belong in one index.

    Args:
        head: The head; it is not changed.
        store: Tokens of the collection's documents, of the model that the head belongs to; up to
            50,000 of them are looked at.

    Raises:
        TypeError: If the store has vectors of texts.
        ValueError: If the head is of another level or width.
    """
    _check_store(store)
    if head.level != "token":
        raise ValueError(f"the head has level={head.level!r}; only latents of tokens are weighted")
    if head.input_dim != store.dim:
        raise ValueError(
            f"the head is for vectors of width {head.input_dim}, the store has width {store.dim}; "
            "embed with the model that the head belongs to"
        )
    frequencies = torch.zeros(head.hidden_dim, dtype=torch.int64)
    total, count, n = 0.0, 0, 0
    for pooled in _pooled(head, store):
        active = pooled > 0
        frequencies += active.sum(dim=0).cpu()
        total += float(pooled.sum())
        count += int(active.sum())
        n += len(pooled)
    saturation = total / count if count else 1.0
    weights = {"latent_weights": rarity(frequencies.double(), n).float()}
    return changed(head, {"saturation": saturation}, weights)


def _check_store(store: Any) -> None:
    if not isinstance(store, TokenStore):
        raise TypeError(
            f"{type(store).__name__} given, where the vectors of tokens are needed; "
            "TokenStore.embed makes such a store"
        )


@torch.no_grad()
def _pooled(head: SparseCSRHead, store: TokenStore) -> Iterator[Tensor]:
    """(b, hidden_dim) pooled values of the texts, some at a time."""
    if len(store) > COUNTED:
        store = store.split(COUNTED)[1]
    for part in store.batches():
        yield head.pooled(part.on(head.pre_bias.device))
