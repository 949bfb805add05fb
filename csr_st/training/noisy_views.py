"""The codes of a step: of its batch, and of disturbed copies of some of its items.

A copy of item v is v + u (v_a - v_b) / √2: a, b random items of the batch, u ~ U(0, noise) each.
The noise has the data's own covariance and at most its size, so a code must hold against what tells
the data's items apart. An identical copy would be told apart after a few steps and then teach
nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csr_st.distributed import gather, rank_and_world
from csr_st.head import Code, SparseCSRHead
from csr_st.model.top_k import top_k
from csr_st.training.compiled import autograd, dispatch
from csr_st.training.compiled.autograd import Disturbance


def encoded(head: SparseCSRHead, vectors: Tensor, k: int) -> tuple[Tensor, Code]:
    """(b, h) pre-activations of (b, d) vectors, and raw codes at ``k``, or at h where h is less."""
    k = min(k, head.hidden_dim)
    if _takes(head, vectors):
        found = autograd.encode(vectors, *_parameters(head), k)
        return found.pre, Code(found.values, found.latents)
    pre = head.pre_activations(vectors)
    latents = top_k(pre.detach(), k)[1]
    return pre, Code(pre.gather(1, latents).relu(), latents)


def encoded_with_copies(
    head: SparseCSRHead,
    vectors: Tensor,
    rows: Tensor,
    ks: tuple[int, int],
    noise: float,
    generator: torch.Generator,
) -> tuple[Tensor, Code, Code]:
    """Pre-activations and raw codes of a batch, and raw codes of disturbed copies of some items.

    Args:
        head: The head.
        vectors: (b, d) this process's items.
        rows: (r,) which of them have a copy.
        ks: Active latents of the batch's codes and of the copies'.
        noise: The most that u can be.
        generator: Source of randomness, in the same state on every process.

    Returns:
        (b, h) pre-activations, (b, ks[0]) and (r, ks[1]) codes.
    """
    k, copied_k = (min(k, head.hidden_dim) for k in ks)
    rank, world = rank_and_world()
    n = world * len(vectors)
    plus, minus = (torch.randperm(n, generator=generator) for _ in range(2))
    sizes = torch.rand(n, 1, generator=generator) * (noise / math.sqrt(2))
    mine = rows.cpu() + rank * len(vectors)
    plus, minus, sizes = (x[mine].to(vectors.device) for x in (plus, minus, sizes))
    if world > 1 or vectors.requires_grad:  # a backbone learns from the copy, not the noise
        everyone = gather(vectors.detach())[0]
        copies = vectors[rows] + sizes.to(vectors) * (everyone[plus] - everyone[minus])
        return *encoded(head, vectors, k), encoded(head, copies, copied_k)[1]
    disturbance = Disturbance(rows, plus, minus, sizes)
    if _takes(head, vectors):
        found = autograd.encode(vectors, *_parameters(head), k, disturbance, copied_k)
        copied = Code(found.copied_values, found.copied_latents)
        return found.pre, Code(found.values, found.latents), copied
    # Pre-activations are linear in v: those of a copy need no second product.
    pre = head.pre_activations(vectors)
    disturbance = disturbance._replace(sizes=sizes.to(pre))
    latents = top_k(pre.detach(), k)[1]
    copied_latents = top_k(disturbance.copies(pre.detach()), copied_k)[1]
    everything = torch.arange(len(vectors), device=vectors.device)
    values, own, added, taken = _picked(
        pre, (everything, latents), *((some, copied_latents) for some in disturbance[:3])
    )
    moved = own + disturbance.sizes * (added - taken)
    return pre, Code(values.relu(), latents), Code(moved.relu(), copied_latents)


def asking_rows(b: int, share: float, device: torch.device) -> Tensor:
    """Which of this process's b items have copies: every 1/share-th one of the whole batch."""
    every = max(1, min(round(1 / max(share, 1e-9)), b))
    first = -rank_and_world()[0] * b % every
    return torch.arange(first, b, every, device=device)


def _takes(head: SparseCSRHead, vectors: Tensor) -> bool:
    return not vectors.requires_grad and dispatch.takes(vectors, head.encoder_weight)


def _parameters(head: SparseCSRHead) -> tuple[Tensor, Tensor, Tensor]:
    return head.encoder_weight, head.latent_bias, head.pre_bias


def _picked(pre: Tensor, *wanted: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Entries of ``pre`` (b, h) at rows (r,) and their latents (r, k), all with one gradient."""
    places = [rows[:, None] * pre.shape[1] + latents for rows, latents in wanted]
    found = pre.reshape(-1).gather(0, torch.cat([x.reshape(-1) for x in places]))
    parts = torch.split(found, [x.numel() for x in places])
    return [part.view_as(x) for part, x in zip(parts, places, strict=True)]
