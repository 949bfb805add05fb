"""The terms of `CSRLoss` for a token-level head: tokens are rebuilt, codes of pairs compared.

A search compares pooled codes at some k, not tokens. So k of the query and k of the document are
drawn anew at each step, and a head that was trained so is good at all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_st.head import SparseCSRHead
from csr_st.model.coding import Code
from csr_st.model.token_pooling import Tokens
from csr_st.model.top_k import top_k
from csr_st.processes import gather
from csr_st.training import losses

DOCUMENT_KS = (16, 32, 64, 128, 256)
QUERY_KS = (8, 16, 32, 64, 128)
REBUILT = 2048  # tokens of a batch, over all of its columns


def joined(parts: Sequence[Tokens]) -> Tokens:
    """The texts of several batches, one after another."""
    starts = [sum(part.n_texts for part in parts[:i]) for i in range(len(parts))]
    texts = [part.texts + start for part, start in zip(parts, starts, strict=True)]
    n_texts = sum(part.n_texts for part in parts)
    return Tokens(torch.cat([part.vectors for part in parts]), torch.cat(texts), n_texts)


def sampled(columns: Sequence[Tokens], generator: torch.Generator) -> Tensor:
    """(m, d) some tokens of all columns, at most `REBUILT`, with gradient.

    Raises:
        ValueError: If there is no token.
    """
    vectors = torch.cat([column.vectors for column in columns])
    if not len(vectors):
        raise ValueError("no text of the batch has a token besides special ones")
    chosen = torch.randperm(len(vectors), generator=generator)[:REBUILT]
    return vectors[chosen.to(vectors.device)]


def contrast(
    head: SparseCSRHead, columns: Sequence[Tokens], temperature: float, generator: torch.Generator
) -> Tensor:
    """InfoNCE of anchors to their positives among all positives and hard negatives of the batch.

    Args:
        head: The head.
        columns: Anchors, positives, and if there are any hard negatives, b texts each.
        temperature: What cosines are divided by.
        generator: Draws k of both sides, the same on every process.

    Returns:
        Scalar.
    """
    query_k, document_k = (_drawn(ks, head, generator) for ks in (QUERY_KS, DOCUMENT_KS))
    anchors = _unit(head, columns[0], query_k)
    values, indices, own = [], [], None
    for column in columns[1:]:
        code = _unit(head, column, document_k)
        gathered, mine = gather(code.values)
        own = mine if own is None else own  # positives come first
        values.append(gathered)
        indices.append(gather(code.indices)[0])
    keys = torch.cat(values), torch.cat(indices)
    similar = losses.code_similarities(*anchors, *keys, head.hidden_dim)
    return losses.info_nce(similar / temperature, own)


def _drawn(ks: Sequence[int], head: SparseCSRHead, generator: torch.Generator) -> int:
    place = int(torch.randint(len(ks), (1,), generator=generator))
    return min(ks[place], head.hidden_dim)


def _unit(head: SparseCSRHead, tokens: Tokens, k: int) -> Code:
    values, indices = top_k(head.weighted(head.pooled(tokens)), k)
    return Code(F.normalize(values, dim=1), indices)
