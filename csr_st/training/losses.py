"""The terms of the training objective: pure functions of tensors, with their sources.

No models, no state, no processes here. Terms that compare items take a (b, n) matrix of
similarities; `code_similarities` makes one from sparse codes without dense rows on the left.

Sources: [P1] CSR, arXiv 2503.01776; [SAE] Gao et al., arXiv 2406.04093; [NCL] Wang et al.,
arXiv 2403.12459; [H] hierarchical top-k, arXiv 2505.24473; [SupCon] Khosla et al.,
arXiv 2004.11362; [NCE] van den Oord et al., arXiv 1807.03748.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_st.training.compiled import autograd, dispatch


def code_similarities(
    values: Tensor, indices: Tensor, key_values: Tensor, key_indices: Tensor, hidden_dim: int
) -> Tensor:
    """Dot products of b codes with n others, without dense rows of the former.

    Args:
        values: (b, k).
        indices: (b, k) latents.
        key_values: (n, k').
        key_indices: (n, k').
        hidden_dim: Number of latents.

    Returns:
        (b, n) products, with gradients to the values of both sides.
    """
    if dispatch.takes(values, key_values):
        return autograd.similarities(values, indices, key_values, key_indices, hidden_dim)
    table = values.new_zeros(hidden_dim, len(key_values)).scatter_(0, key_indices.T, key_values.T)
    return F.embedding_bag(indices, table, per_sample_weights=values, mode="sum")


def nested_errors(
    target: Tensor,
    values: Tensor,
    indices: Tensor,
    decoder_weight: Tensor,
    pre_bias: Tensor,
    ks: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """L(k) = ||f - f̂_k||² of [P1] equation 4 at rising ks, decoding once at the largest, after [H].

    Codes are sorted by falling value, so each prefix's reconstruction is the one before it plus the
    latents between the two.

    Args:
        target: (b, d) f.
        values: (b, k) raw codes with k >= max(ks).
        indices: (b, k) latents.
        decoder_weight: (h, d), a row a latent.
        pre_bias: (d,).
        ks: Prefix lengths, rising; one may stand twice.

    Returns:
        (len(ks),) errors, squares summed over d and averaged over rows, and (len(ks), b, d) what
        each reconstruction leaves of the target, without gradient; a backward pass overwrites it.

    Raises:
        ValueError: If codes have fewer latents than the last of ks.
    """
    if values.shape[1] < ks[-1]:
        raise ValueError(f"codes of {values.shape[1]} latents have no prefix of ks[-1]={ks[-1]}")
    target = target - pre_bias
    if dispatch.takes(target, values, decoder_weight):
        code = values[:, : ks[-1]], indices[:, : ks[-1]]
        return autograd.nested_errors(target, *code, decoder_weight, ks)
    b, stretches = len(indices), list(pairwise((0, *ks)))
    # A bag for each stretch between two ks, all in one call: its backward pass then fills one
    # (h, d) gradient rather than one for each k.
    widths = torch.tensor([end - start for start, end in stretches], device=indices.device)
    ends = widths.repeat_interleave(b).cumsum(0)
    latents, weights = (
        torch.cat([x[:, start:end].reshape(-1) for start, end in stretches])
        for x in (indices, values)
    )
    weights = weights.to(decoder_weight.dtype)
    offsets = ends - widths.repeat_interleave(b)
    added = F.embedding_bag(
        latents, decoder_weight, offsets, per_sample_weights=weights, mode="sum"
    )
    target, added = target.to(added.dtype), added.view(len(ks), b, -1)
    if torch.compiler.is_compiling():  # the compiler joins these passes by itself
        residuals = target - added.cumsum(dim=0)
        return residuals.square().sum(dim=(1, 2)) / b, residuals.detach()
    errors: Tensor
    errors, residuals = _PrefixErrors.apply(target, added)  # type: ignore[no-untyped-call] # torch's
    return errors, residuals


class _PrefixErrors(torch.autograd.Function):
    """Mean squares of target - added[0] - ... - added[i] for every i, and these differences.

    The differences take the place of ``added``: a stretch is still in the cache when its turn
    comes, and a second (len(ks), b, d) of fresh memory would cost more than the sums themselves.
    """

    @staticmethod
    def forward(ctx: Any, target: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        residuals, before = added.detach(), target
        for stretch in residuals:
            before = torch.sub(before, stretch, out=stretch)
        ctx.save_for_backward(residuals)
        ctx.mark_non_differentiable(residuals)
        ctx.set_materialize_grads(False)  # else backward is given as many zeros
        errors = torch.linalg.vector_norm(residuals, dim=(1, 2)).square() / len(target)
        return errors, residuals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (added,) = ctx.saved_tensors  # the differences, whose place their gradient takes
        share = -2 / len(added[0]) * gradients[0]
        after = added[-1].mul_(share[-1])
        for i in reversed(range(len(added) - 1)):
            after = torch.addcmul(after, added[i], share[i], out=added[i])
        return -added[0], added  # the first stretch is in every reconstruction, as the target is


def aux_k(
    residual: Tensor,
    pre_activations: Tensor,
    dead: Tensor,
    k_aux: int,
    decoder_weight: Tensor,
    highest: Tensor | None = None,
) -> Tensor:
    """AuxK: the dead latents reconstruct what the live ones left ([SAE] appendix A.2).

    The error is relative to the residual's own size, as in [SAE]; [P1] equation 5 prints the plain
    squared error, its code normalises. Both cut every activation by ReLU, which leaves a latent
    that is negative for all items without a gradient for good; with ``highest`` such a one enters
    with its sign.

    Args:
        residual: (b, d) target minus reconstruction; no gradient flows through it.
        pre_activations: (b, h) before top-k.
        dead: (h,) bool, latents counted as dead.
        k_aux: Dead latents used for each item, fewer where fewer are dead.
        decoder_weight: (h, d).
        highest: (h,) each latent's highest activation in the whole batch; with None every
            activation is cut, as in the papers.

    Returns:
        Scalar; 0 when no latent is dead.
    """
    count = int(dead.sum())
    if count == 0:
        return residual.new_zeros(())
    residual = residual.detach()
    masked = pre_activations.masked_fill(~dead, -torch.inf)
    values, indices = masked.topk(min(k_aux, count), dim=1)
    cut = values.relu()
    weights = cut if highest is None else torch.where(highest[indices] <= 0, values, cut)
    weights = weights.to(decoder_weight.dtype)
    guess = F.embedding_bag(indices, decoder_weight, per_sample_weights=weights, mode="sum")
    error = (residual - guess).square().sum(dim=1).mean()
    return error / residual.square().sum(dim=1).mean().clamp_min(1e-12)


def info_nce(
    logits: Tensor, positives: Tensor | None = None, ignored: Tensor | None = None
) -> Tensor:
    """Temperature InfoNCE ([NCE]): each item's positive against all other keys.

    Of non-negative codes, each its own positive, it is L_cl of [P1] equation 6 after [NCL].

    Args:
        logits: (b, n) of items and keys, cosines over a temperature usually; n >= b.
        positives: (b,) the key that is each item's positive; 0..b-1 when None.
        ignored: (b, n) bool, keys that are neither positive nor negative.

    Returns:
        Scalar.
    """
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    if positives is None:
        positives = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, positives)


def supervised_contrastive(
    similarities: Tensor,
    item_labels: Tensor,
    key_labels: Tensor,
    temperature: float,
    own: Tensor | None = None,
) -> Tensor:
    """L_out of [SupCon]: the log is taken of each positive and then averaged, self excluded.

    Args:
        similarities: (b, n) of items and keys, cosines usually.
        item_labels: (b,) class, -1 for unknown.
        key_labels: (n,) class, -1 for unknown.
        temperature: What similarities are divided by.
        own: (b,) the key that is the item itself; 0..b-1 when None.

    Returns:
        Scalar: mean over the items with at least one positive, 0 if there is none.
    """
    if own is None:
        own = torch.arange(len(similarities), device=similarities.device)
    itself = F.one_hot(own, similarities.shape[1]).bool()
    log_p = (similarities / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    positive = (item_labels[:, None] == key_labels[None]) & (item_labels[:, None] >= 0) & ~itself
    count = positive.sum(dim=1)
    mean = log_p.masked_fill(~positive, 0).sum(dim=1) / count.clamp_min(1)
    return -mean.sum() / (count > 0).sum().clamp_min(1)


def similarity_distillation(student: Tensor, teacher: Tensor, own: Tensor | None = None) -> Tensor:
    """KL from the dense similarities of a batch, as a distribution over keys, to the codes'.

    Args:
        student: (b, n) similarities of codes over a temperature, with gradient.
        teacher: (b, n) similarities of dense vectors over a temperature.
        own: (b,) the key that is the item itself, which then does not count.

    Returns:
        Scalar, mean over the b rows.
    """
    teacher = teacher.detach()
    if own is not None:
        # A finite floor: 0 * -inf would turn the masked terms of the divergence into NaN.
        student, teacher = (
            x.scatter(1, own[:, None], torch.finfo(x.dtype).min) for x in (student, teacher)
        )
    log_p = teacher.log_softmax(dim=1)
    p = log_p.exp()
    crossed = _product(p.to(student.dtype), student.log_softmax(dim=1))
    return (_product(p, log_p) - crossed) / len(student)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Sum of x * y, which is not written down anywhere."""
    return torch.dot(x.reshape(-1), y.reshape(-1))


def ordered_pairs(similarities: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """CoSENT: a pair with a higher score must have a higher similarity.

    log(1 + Σ exp((s_j - s_i) / t)) over all i, j whose score i is above score j, as
    sentence-transformers' CoSENTLoss has it (its scale is 1 / temperature).

    Args:
        similarities: (p,) of each pair.
        scores: (p,) graded truth.
        temperature: What differences are divided by.

    Returns:
        Scalar.
    """
    difference = (similarities[None, :] - similarities[:, None]) / temperature
    wrong = difference.masked_fill(scores[:, None] <= scores[None, :], -torch.inf)
    return torch.cat([wrong.new_zeros(1), wrong.flatten()]).logsumexp(dim=0)
