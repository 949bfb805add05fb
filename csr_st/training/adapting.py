"""Adapt a head to a corpus in a tenth of the steps that training from the start takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_st.config import EPOCHS, TrainConfig, recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.model.settings import number
from csr_st.training.clusters import clusters_of
from csr_st.training.head_copy import changed
from csr_st.training.loop import SAMPLE, TrainResult, train
from csr_st.training.setup import refuse_recipe_of_tokens

BATCH_SIZE, LEARNING_RATE, NOISE = 256, 6e-3, 0.5  # for few steps
MIN_STEPS, MAX_STEPS = 60, 2_000
REPLACED = 0.75  # share of latents
ROUNDS = 6  # of k-means
CENTRE = 0.5  # how far a calibrated centre goes from the head's to that of the corpus
STRONGEST = 10  # vectors by which a latent is recognised
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Adapted:
    """A head that was adapted to a corpus.

    Attributes:
        head: The adapted head.
        kept: Share of latents, of those that were active on the corpus before, that still mean the
            same: at least half of the ten vectors on which they are strongest are the same.
        result: The training.
    """

    head: SparseCSRHead
    kept: float
    result: TrainResult


def adapt(
    head: SparseCSRHead,
    store: EmbeddingStore,
    config: TrainConfig | None = None,
    *,
    replaced: float = REPLACED,
    **options: Any,
) -> Adapted:
    """Adapt a head to the vectors of a corpus, with its labels or pairs where it has them.

    The latents that are least used on the corpus are replaced by directions of its clusters; then
    the head is trained for a tenth of the steps that one without a start gets, centred on the
    corpus. Codes of the adapted head do not fit those of the one before.

    Args:
        head: A trained head; it is not changed.
        store: Vectors of the corpus, of the model that the head belongs to.
        config: Settings of training; those of `adapt_recipe` when None.
        replaced: Share of latents that are replaced, within 0..1. With 0 most latents keep their
            meaning, and few latents say less about a corpus that is unlike the head's.
        options: Further arguments of `csr_st.train`.

    Returns:
        The adapted head, and how many latents kept their meaning.

    Raises:
        ValueError: If ``replaced`` is not within 0..1, or the head has modalities or is of tokens;
            else as `csr_st.train`.
        TypeError: If ``replaced`` is not a number; else as `csr_st.train`.
    """
    refuse_recipe_of_tokens(config)
    share = number("replaced", replaced, 1)
    refuse_tokens(head)
    if head.input_dim != store.dim:
        raise ValueError(
            f"the head is for vectors of width {head.input_dim}, the store has width {store.dim}; "
            "embed with the model that the head belongs to"
        )
    if head.modalities:
        raise ValueError(
            f"the head has a centre for each of {head.modalities}, which adapting would lose; "
            "train one for these data with csr_st.train_pairs"
        )
    vectors = torch.from_numpy(store.sample(SAMPLE)).to(head.pre_bias.device)
    config = config or adapt_recipe(len(store), k=head.k)
    start = _with_clusters(_centred(head, vectors, 1.0), vectors, share, config.seed)
    result = train(store, config, start=start, **options)
    own = {name: getattr(head, name) for name in ("k", "query_k", "normalize", "residual_seed")}
    found = replace(result, head=changed(result.head, own, {}))
    return Adapted(found.head, kept_latents(head, found.head, vectors), found)


def adapt_recipe(n: int, **overrides: Any) -> TrainConfig:
    """The settings of `adapt` for n vectors: a tenth of the default recipe's passes over them.

    Raises what `csr_st.recipe` does.
    """
    steps = min(max(MIN_STEPS, EPOCHS // 10 * n // BATCH_SIZE), MAX_STEPS)
    own = {"batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE, "noise": NOISE, "steps": steps}
    return recipe("nested", **{**own, **overrides})


def calibrate(head: SparseCSRHead, store: EmbeddingStore) -> SparseCSRHead:
    """A copy of a head with its centre half-way to that of a corpus, in a second, untrained.

    Around the centre of other texts, the first latents of every document say what all documents of
    the corpus have in common. Half-way is better at every k than either end. Latents keep their
    meaning, but codes do not fit those of the head before.

    Args:
        head: A trained head; it is not changed.
        store: Vectors of the corpus, of the model that the head belongs to.

    Raises:
        ValueError: If the store is empty or of another width, or the head is of tokens.
    """
    refuse_tokens(head)
    if not len(store) or head.input_dim != store.dim:
        raise ValueError(
            f"{len(store)} vectors of width {store.dim} given to a head for width {head.input_dim};"
            " pass at least one, of the model that the head belongs to"
        )
    vectors = torch.from_numpy(store.sample(SAMPLE)).to(head.pre_bias.device)
    return _centred(head, vectors, CENTRE)


def refuse_tokens(head: SparseCSRHead) -> None:
    """Raise a ValueError if a head is of tokens."""
    if head.level == "token":
        raise ValueError(
            "a head with level='token' cannot be adapted or calibrated; csr_st.reweigh takes the "
            "weights of its latents from a collection, csr_st.train_tokens trains a new head"
        )


def _centred(head: SparseCSRHead, vectors: Tensor, share: float) -> SparseCSRHead:
    """A copy whose ``pre_bias`` goes this share of the way to the mean of (n, d) vectors."""
    mean = vectors.double().mean(dim=0).to(head.pre_bias)
    return changed(head, {}, {"pre_bias": torch.lerp(head.pre_bias.detach(), mean, share)})


@torch.no_grad()
def kept_latents(before: SparseCSRHead, after: SparseCSRHead, vectors: Tensor) -> float:
    """The share of latents active before whose strongest vectors stay; see `Adapted`."""
    strongest = [_strongest(head, vectors) for head in (before, after)]
    (rows, active), (others, _) = strongest
    both = (rows[:, :, None] == others[:, None, :]) & active[:, :, None]
    common, known = both.any(dim=2).sum(dim=1), active.sum(dim=1)
    stays = 2 * common >= known
    return float(stays[known > 0].float().mean()) if bool((known > 0).any()) else 1.0


def _strongest(head: SparseCSRHead, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """(h, m) rows on which each latent is strongest, and whether it is active there at the k."""
    values = torch.zeros(head.hidden_dim, STRONGEST, device=vectors.device)
    rows = torch.full_like(values, -1, dtype=torch.int64)
    for first in range(0, len(vectors), ROWS_AT_ONCE):
        part = vectors[first : first + ROWS_AT_ONCE]
        code = head.encode(part)
        table = torch.zeros(head.hidden_dim, len(part), device=part.device)
        table.scatter_(0, code.indices.T, code.values.T.to(table))
        numbers = torch.arange(first, first + len(part), device=part.device)
        everything = torch.cat([rows, numbers.expand(head.hidden_dim, -1)], dim=1)
        values, places = torch.cat([values, table], dim=1).topk(STRONGEST, dim=1)
        rows = everything.gather(1, places)
    return rows, values > 0


@torch.no_grad()
def _with_clusters(head: SparseCSRHead, vectors: Tensor, share: float, seed: int) -> SparseCSRHead:
    """A copy in which the least used latents are directions of clusters of the vectors."""
    count = min(round(share * head.hidden_dim), len(vectors))
    used = torch.zeros(head.hidden_dim, device=vectors.device)
    for part in torch.split(vectors, ROWS_AT_ONCE):
        used += torch.bincount(head.encode(part).indices.flatten(), minlength=head.hidden_dim)
    latents = used.argsort(stable=True)[:count]
    weight, bias = head.encoder_weight.clone(), head.latent_bias.clone()
    length = weight.norm(dim=1).median()
    start = F.normalize(weight[latents], dim=1)
    weight[latents] = length * clusters_of(vectors - head.pre_bias, start, ROUNDS, seed).to(weight)
    bias[latents] = 0
    given = {"encoder_weight": weight, "latent_bias": bias}
    return changed(head, {"tied": True, "short_ks": None}, given)
