"""The terms of the training objective: pure functions of tensors, with their sources.

They know nothing of models, training state or other processes. Terms that compare items take a
(b, n) matrix of similarities, which `code_similarities` computes from sparse codes. What is written
here in torch is the reference; on the CPU `csr_st.training.compiled` computes `prefix_sums`.

Sources: [P1] CSR, arXiv 2503.01776; [SAE] Gao et al., arXiv 2406.04093; [NCL] Wang et al.,
arXiv 2403.12459; [H] hierarchical top-k, arXiv 2505.24473; [SupCon] Khosla et al.,
arXiv 2004.11362; [NCE] van den Oord et al., arXiv 1807.03748.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from csr_st.training.compiled import autograd, dispatch


def prefix_sums(
    start: Tensor, values: Tensor, latents: Tensor, table: Tensor, ks: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """``start`` plus the weighted sum of the table's rows over the first k latents, for rising k.

    Args:
        start: (b, d).
        values: (b, ks[-1]) weights.
        latents: (b, ks[-1]) rows of the table.
        table: (h, d).
        ks: Prefix lengths, rising; one may occur twice.

    Returns:
        (len(ks), b, d) sums and (len(ks),) the sum of their squares over rows and d, with gradients
        to all but the latents.
    """
    if dispatch.takes(start, values, table):
        return autograd.prefix_sums(start, values, latents, table, ks)
    b, k = latents.shape
    # One bag per row and stretch between two ks; the bags of a row follow each other in memory.
    begins = torch.tensor([0, *ks[:-1]], device=latents.device)
    offsets = (k * torch.arange(b, device=latents.device)[:, None] + begins).flatten()
    weights = values.to(table.dtype).flatten()
    added = F.embedding_bag(
        latents.flatten(), table, offsets, per_sample_weights=weights, mode="sum"
    )
    stretches = added.view(b, len(ks), -1).unbind(dim=1)
    sums = list(accumulate(stretches, torch.add, initial=start.to(added.dtype)))[1:]
    return torch.stack(sums), torch.stack([x.square().sum() for x in sums])


def code_similarities(
    values: Tensor, indices: Tensor, key_values: Tensor, key_indices: Tensor, hidden_dim: int
) -> Tensor:
    """Dot products of b codes with n others; only the others are made dense.

    Args:
        values: (b, k).
        indices: (b, k) latents.
        key_values: (n, k').
        key_indices: (n, k').
        hidden_dim: Number of latents.

    Returns:
        (b, n) products, with gradients to the values of both sides.
    """
    table = values.new_zeros(hidden_dim, len(key_values)).scatter_(0, key_indices.T, key_values.T)
    zeros = values.new_zeros(len(values), len(key_values))
    return prefix_sums(zeros, values, indices, table, (values.shape[1],))[0][0]


def nested_errors(
    target: Tensor,
    values: Tensor,
    indices: Tensor,
    decoder_weight: Tensor,
    pre_bias: Tensor,
    ks: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """L(k) = ||f - f̂_k||² of [P1] equation 4 at rising ks, decoding once at the largest, after [H].

    Codes are sorted by falling value, so the reconstruction of each prefix is that of the one
    before it plus the latents between the two.

    Args:
        target: (b, d) f.
        values: (b, k) raw codes with k >= max(ks).
        indices: (b, k) latents.
        decoder_weight: (h, d), one row per latent.
        pre_bias: (d,).
        ks: Prefix lengths, rising; one may occur twice.

    Returns:
        (len(ks),) errors, squares summed over d and averaged over rows, and (len(ks), b, d) the
        residual of each reconstruction, without gradient; a backward pass may overwrite these.

    Raises:
        ValueError: If codes have fewer latents than the last of ks.
    """
    k = ks[-1]
    if values.shape[1] < k:
        raise ValueError(f"codes of {values.shape[1]} latents have no prefix of ks[-1]={k}")
    code = -values[:, :k], indices[:, :k]
    residuals, squares = prefix_sums(target - pre_bias, *code, decoder_weight, ks)
    return squares / len(target), residuals.detach()


def aux_k(
    residual: Tensor,
    pre_activations: Tensor,
    dead: Tensor,
    k_aux: int,
    decoder_weight: Tensor,
    highest: Tensor | None = None,
) -> Tensor:
    """AuxK: the dead latents reconstruct the residual of the live ones ([SAE] appendix A.2).

    The error is relative to the size of the residual, as in [SAE]; [P1] equation 5 prints the plain
    squared error, its code normalises. Both apply ReLU to every activation, so a latent that is
    negative for all items never gets a gradient again; with ``highest`` it enters with its sign.

    Args:
        residual: (b, d) target minus reconstruction; no gradient flows through it.
        pre_activations: (b, h) before top-k.
        dead: (h,) bool, latents counted as dead.
        k_aux: Dead latents used for each item, fewer where fewer are dead.
        decoder_weight: (h, d).
        highest: (h,) each latent's highest activation in the complete batch; with None ReLU is
            applied to every activation, as in the papers.

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
    """Sum of x * y, without a tensor for the products."""
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
