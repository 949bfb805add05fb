"""The part of a model that is exported: from token ids to codes, as one module without state.

It computes what `csr_st.encode` does after tokenization, in float32 and with operations that graphs
have: tokens that are left out keep their places and count as zeros.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch import Tensor, nn

from csr_st.head import SparseCSRHead
from csr_st.model.token_pooling import OF_MEANS
from csr_st.vectors import VectorInput

TEXT = "csr-st export writes graphs from token ids, of models that read text and nothing else"


class CodeGraph(nn.Module):
    """Token ids to codes.

    Args:
        model: A model that ends in a `SparseCSRHead`; its weights are shared.

    Raises:
        ValueError: If the model does not end in a head, or reads anything but text.
    """

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.head = _head_of(model)
        first, *between = list(model.children())[:-1]
        self.backbone = _checked(first)
        self.between = nn.ModuleList(between)
        excluding = [one for one in between if isinstance(one, Pooling) and not one.include_prompt]
        if any("weightedmean" in one.pooling_mode for one in excluding):
            raise ValueError(
                "a Pooling module with pooling_mode='weightedmean' and include_prompt=False weighs "
                "tokens by their places behind the prompt, which the graph does not do; use the "
                "model as it is"
            )
        # Whether the tokens of a prompt are read, but not pooled: the graph must know how many.
        self.skips_prompt = self.head.level == "token" or bool(excluding)
        self.skipped: Tensor
        self.register_buffer("skipped", torch.tensor(self.head.skipped_tokens, dtype=torch.int64))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        k: Tensor,
        token_type_ids: Tensor | None = None,
        prompt_length: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The codes of a batch.

        Args:
            input_ids: (n, t) int64.
            attention_mask: (n, t) int64, 0 for padding.
            k: () int64, active latents.
            token_type_ids: (n, t) int64, of backbones that have them.
            prompt_length: () int64, tokens at the begin of each text that are not pooled.

        Returns:
            (n, k) int64 indices, (n, k) float32 values, at unit norm if the head normalises, and
            (n,) float32 norms from before that.
        """
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        features = self.backbone({**features, "modality": "text"})
        kept = attention_mask > 0
        if prompt_length is not None:
            kept = kept & (kept.cumsum(dim=1) > prompt_length)
            features["attention_mask"] = kept.to(attention_mask.dtype)
        for module in self.between:
            features = module(features)
        if self.head.level == "token":
            if self.skipped.numel():
                kept = kept & ~input_ids[..., None].eq(self.skipped).any(dim=-1)
            activations = self._pooled(features["token_embeddings"], kept)
        else:
            vectors = features["sentence_embedding"]
            shift = self.head.shift("text")
            activations = self.head.pre_activations(vectors if shift is None else vectors - shift)
        values, indices = _largest(activations, k)
        if self.head.level == "text":
            values = self.head.raised(values.relu())
        norms = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        if self.head.normalize:
            values = values / norms.clamp_min(torch.finfo(torch.float32).tiny)
        return indices, values, norms[:, 0]

    def _pooled(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """(n, hidden_dim) weighted values of all latents, from the (n, t, d) vectors of tokens."""
        head, counted = self.head, kept[..., None].to(vectors.dtype)
        vectors = F.normalize(vectors, dim=-1) * counted
        values, indices = head.pre_activations(vectors).topk(head.k_token)
        table = vectors.new_zeros(vectors.shape[0], head.hidden_dim)
        added, where = (values.relu() * counted).flatten(1), indices.flatten(1)
        if head.pooling == "max":
            table = table.scatter_reduce(1, where, added, "amax")
        else:
            table = table.scatter_add(1, where, added)
        if head.text_share:
            counts = counted.sum(dim=1)
            means = F.normalize(vectors.sum(dim=1), dim=-1)
            most = min(OF_MEANS * head.k_token, head.hidden_dim)
            values, indices = head.pre_activations(means).topk(most)
            table = table.scatter_add(1, indices, values.relu() * (head.text_share * counts))
        return head.weighted(table)


class TableLookup(nn.Module):
    """A `StaticEmbedding` over padded rows: the mean of the vectors of a text's tokens."""

    def __init__(self, embedding: StaticEmbedding) -> None:
        super().__init__()
        self.weight = embedding.embedding.weight

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """The features with ``sentence_embedding`` (n, d); a text without tokens has zeros."""
        counted = features["attention_mask"][..., None].to(self.weight.dtype)
        sums = (F.embedding(features["input_ids"], self.weight) * counted).sum(dim=1)
        return {**features, "sentence_embedding": sums / counted.sum(dim=1).clamp_min(1)}


def float32_on_cpu(model: SentenceTransformer) -> SentenceTransformer:
    """The model, or a copy in float32 on the CPU where it is not that."""
    if all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters()):
        return model
    copied: SentenceTransformer = copy.deepcopy(model).cpu().float()
    for parameter in _head_of(copied).parameters():  # a head keeps its type in `float`
        parameter.data = parameter.data.float()
    return copied


def _largest(activations: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest activations, for a k that is known only when the graph runs."""
    most = int(activations.shape[-1])
    number: Any = k.item()
    check: Any = torch._check  # what the exporter may take for granted
    check(number >= 1)
    check(number <= most)
    return activations.topk(number)


def _head_of(model: SentenceTransformer) -> SparseCSRHead:
    modules = list(model.children())
    if len(modules) < 2 or not isinstance(modules[-1], SparseCSRHead):
        last = type(modules[-1]).__name__ if modules else "nothing"
        raise ValueError(
            f"the model ends in {last}, not in a SparseCSRHead behind a backbone; csr_st.attach "
            "gives a model with a head at its end"
        )
    return modules[-1]


def _checked(first: nn.Module) -> nn.Module:
    """The first module as it is exported; a ValueError if it is none of text."""
    if isinstance(first, StaticEmbedding):
        return TableLookup(first)
    if isinstance(first, Router):
        raise ValueError(
            "the model's queries are looked up and its documents are not: one graph cannot be "
            "both. Export the model that it was distilled from for documents; csr_st.Searcher "
            "looks queries up without a backbone"
        )
    if isinstance(first, VectorInput):
        raise ValueError(f"the model reads vectors; {TEXT}: export a head attached to a backbone")
    modalities = sorted(map(str, getattr(first, "modality_config", ["unknown inputs"])))
    found: nn.Module = first
    if not isinstance(first, Transformer) or modalities != ["text"]:
        raise ValueError(
            f"the model's first module, {type(first).__name__}, reads {', '.join(modalities)}; "
            f"{TEXT}. Use this model through csr_st.encode"
        )
    return found
