"""The codes of a training step: of its batch, and of a noisy view of each item.

A noisy view of item v is v + u (v_a - v_b) / √2 with random items a, b of the batch and u uniform
in 0..noise. This noise has the covariance of the data and at most its size, so codes must not
depend on what varies between any two items. An identical view would be recognised after a few steps
and then teach nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csr_st.head import SparseCSRHead
from csr_st.model.coding import Code
from csr_st.model.top_k import top_k
from csr_st.processes import gather, rank_and_world
from csr_st.training.compiled import autograd, dispatch


def encoded(head: SparseCSRHead, vectors: Tensor, k: int) -> tuple[Tensor, Code]:
    """(b, h) pre-activations of (b, d) vectors, and raw codes at ``k``, or at h where h is less."""
    pre, k = head.pre_activations(vectors), min(k, head.hidden_dim)
    if _takes(head, vectors):
        (code,) = _compiled_codes(head, pre, (vectors, _no_noise(len(vectors)), k))
        return pre, code
    return pre, _code(pre, k)


def encoded_with_noisy_views(
    head: SparseCSRHead,
    vectors: Tensor,
    ks: tuple[int, int],
    noise: float,
    generator: torch.Generator,
) -> tuple[Tensor, Code, Code]:
    """Pre-activations and raw codes of a batch, and raw codes of noisy views of its items.

    Args:
        head: The head.
        vectors: (b, d) this process's items.
        ks: Active latents of the batch's codes and of the views'.
        noise: The upper bound of u.
        generator: Source of randomness, in the same state on every process.

    Returns:
        (b, h) pre-activations, (b, ks[0]) and (b, ks[1]) codes.
    """
    rank, world = rank_and_world()
    b, n = len(vectors), world * len(vectors)
    plus, minus = (torch.randperm(n, generator=generator) for _ in range(2))
    sizes = torch.rand(n, generator=generator) * (noise / math.sqrt(2))
    mine = slice(rank * b, (rank + 1) * b)
    plus, minus, sizes = (x[mine].to(vectors.device) for x in (plus, minus, sizes))
    everyone = gather(vectors.detach())[0]  # a backbone gets no gradient from the noise
    sizes = sizes.to(vectors)
    views = _noisy(vectors, everyone, plus, minus, sizes)
    if world > 1 or vectors.requires_grad:
        return *encoded(head, vectors, ks[0]), encoded(head, views, ks[1])[1]
    # Pre-activations are linear in the vectors: those of the views need no second product.
    pre = head.pre_activations(vectors)
    k, view_k = (min(k, head.hidden_dim) for k in ks)
    if _takes(head, vectors):
        batch = vectors, _no_noise(b), k
        noisy = views, (torch.arange(b), plus, minus, sizes), view_k
        code, view_code = _compiled_codes(head, pre, batch, noisy)
        return pre, code, view_code
    known, sizes = pre.detach(), sizes.to(pre)
    latents = top_k(_noisy(known, known, plus, minus, sizes), view_k)[1]
    own = pre.gather(1, latents)
    added, taken = (pre[items[:, None], latents] for items in (plus, minus))
    view_code = Code((own + sizes[:, None] * (added - taken)).relu(), latents)
    return pre, _code(pre, k), view_code


def _takes(head: SparseCSRHead, vectors: Tensor) -> bool:
    return not vectors.requires_grad and dispatch.takes(vectors, head.encoder_weight)


def _noisy(x: Tensor, everyone: Tensor, plus: Tensor, minus: Tensor, sizes: Tensor) -> Tensor:
    """(b, d) noisy views of the rows of x, which are vectors or linear in them."""
    difference = everyone.index_select(0, plus) - everyone.index_select(0, minus)
    return torch.addcmul(x, difference, sizes[:, None])


def _code(pre: Tensor, k: int) -> Code:
    latents = top_k(pre.detach(), k)[1]
    return Code(pre.gather(1, latents).relu(), latents)


def _no_noise(n: int) -> tuple[Tensor, ...]:
    """The n items of a batch, written as noisy views of size 0."""
    rows = torch.arange(n)
    return rows, rows, rows, torch.zeros(n)


def _compiled_codes(
    head: SparseCSRHead, pre: Tensor, *wanted: tuple[Tensor, tuple[Tensor, ...], int]
) -> list[Code]:
    parameters = head.encoder_weight, head.latent_bias, head.pre_bias
    return [Code(*found) for found in autograd.activations(pre, parameters, *wanted)]
