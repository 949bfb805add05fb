"""What a step selects of its pre-activations: the batch's codes, and those of disturbed copies.

A copy of item v is v + u (v_a - v_b) / √2: a, b random items of the batch, u ~ U(0, noise) each.
The noise has the data's own covariance and at most its size, so a code must hold against what tells
the data's items apart. An identical copy would be told apart after a few steps and then teach
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from csr_st.gathering import gather, rank_and_world
from csr_st.head import Code, SparseCSRHead
from csr_st.sparse_products import picked
from csr_st.top_k import top_k

CACHED = 2**19  # numbers of a block that a processor's cache holds


def top_code(pre: Tensor, k: int) -> Code:
    """Raw codes of (b, h) pre-activations at ``k``, or at h where that is less."""
    rows = torch.arange(len(pre), device=pre.device)
    latents = top_k(pre.detach(), min(k, pre.shape[1]))[1]
    return Code(_picked(pre, ((rows, latents),))[0].relu(), latents)


def asking_rows(b: int, share: float, device: torch.device) -> Tensor:
    """Which of this process's b items have copies: every 1/share-th one of the whole batch."""
    every = max(1, min(round(1 / max(share, 1e-9)), b))
    first = -rank_and_world()[0] * b % every
    return torch.arange(first, b, every, device=device)


def codes_with_copies(
    head: SparseCSRHead,
    vectors: Tensor,
    pre: Tensor,
    rows: Tensor,
    ks: tuple[int, int],
    noise: float,
    generator: torch.Generator,
) -> tuple[Code, Code]:
    """Raw codes of a batch and of disturbed copies of some of its items.

    Args:
        head: The head.
        vectors: (b, d) this process's items.
        pre: (b, h) their pre-activations.
        rows: (r,) which of them have a copy.
        ks: Active latents of the batch's codes and of the copies'.
        noise: The most that u can be.
        generator: Source of randomness, in the same state on every process.

    Returns:
        (b, ks[0]) and (r, ks[1]) codes.
    """
    rank, world = rank_and_world()
    n = world * len(vectors)
    first, second = (torch.randperm(n, generator=generator) for _ in range(2))
    size = torch.rand(n, 1, generator=generator) * (noise / math.sqrt(2))
    mine = rows.cpu() + rank * len(vectors)
    size = size[mine].to(vectors)
    plus, minus = (order[mine].to(vectors.device) for order in (first, second))
    if world > 1 or vectors.requires_grad:  # a backbone learns from the copy, not the noise
        everyone = gather(vectors.detach())[0]
        copies = vectors[rows] + size * (everyone[plus] - everyone[minus])
        return top_code(pre, ks[0]), top_code(head.pre_activations(copies), ks[1])
    # Pre-activations are linear in v: those of a copy need no second product.
    found, size = pre.detach(), size.to(pre)
    latents = top_k(found, min(ks[0], pre.shape[1]))[1]
    moved = _copied_latents(found, (rows, plus, minus), size, min(ks[1], pre.shape[1]))
    all_rows = torch.arange(len(vectors), device=vectors.device)
    values, own, added, taken = _picked(
        pre, ((all_rows, latents), (rows, moved), (plus, moved), (minus, moved))
    )
    return Code(values.relu(), latents), Code((own + size * (added - taken)).relu(), moved)


def _copied_latents(
    pre: Tensor, orders: tuple[Tensor, Tensor, Tensor], size: Tensor, k: int
) -> Tensor:
    """(r, k) top latents of pre[rows] + size (pre[plus] - pre[minus]), in blocks, in cache."""
    rows, plus, minus = orders
    own = pre if len(rows) == len(pre) else pre.index_select(0, rows)
    block = max(1, CACHED // pre.shape[1])
    found = []
    parts = (torch.split(x, block) for x in (own, plus, minus, size))
    for still, added, taken, share in zip(*parts, strict=True):
        moved = pre.index_select(0, added).sub_(pre.index_select(0, taken))
        torch.addcmul(still, moved, share, out=moved)
        found.append(top_k(moved, k)[1])
    return torch.cat(found)


def _picked(pre: Tensor, wanted: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Entries of ``pre`` (b, h) at rows (r,) and their latents (r, k), all with one gradient."""
    rows = torch.cat([some.repeat_interleave(latents.shape[1]) for some, latents in wanted])
    columns = torch.cat([latents.reshape(-1) for _, latents in wanted])
    parts = torch.split(picked(pre, rows, columns), [latents.numel() for _, latents in wanted])
    return [part.view_as(latents) for part, (_, latents) in zip(parts, wanted, strict=True)]
