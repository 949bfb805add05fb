"""The terms of the training objective: pure functions of tensors, with their sources.

No models, no state, no processes here. Similarities between codes are taken on dense (b, h) rows,
which `scatter_codes` makes from values and indices with gradients to the values.

Sources: [P1] CSR, arXiv 2503.01776; [SAE] Gao et al., arXiv 2406.04093; [NCL] Wang et al.,
arXiv 2403.12459; [H] hierarchical top-k, arXiv 2505.24473; [SupCon] Khosla et al.,
arXiv 2004.11362; [NCE] van den Oord et al., arXiv 1807.03748.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def scatter_codes(values: Tensor, indices: Tensor, hidden_dim: int) -> Tensor:
    """(b, k) values at (b, k) latents as (b, hidden_dim) rows."""
    return values.new_zeros(len(values), hidden_dim).scatter(1, indices, values)


def nested_decode(
    values: Tensor, indices: Tensor, decoder_weight: Tensor, pre_bias: Tensor, ks: Sequence[int]
) -> list[Tensor]:
    """Reconstructions at rising ks for the price of one at the largest, after [H].

    Codes are sorted by falling value, so each prefix's reconstruction is the one before it plus the
    latents between the two.

    Args:
        values: (b, k) raw codes with k >= max(ks).
        indices: (b, k) latents.
        decoder_weight: (h, d), a row a latent.
        pre_bias: (d,).
        ks: Prefix lengths, rising; one may stand twice.

    Returns:
        A (b, d) reconstruction for each of ``ks``.
    """
    reconstructions, done, total = [], 0, pre_bias
    for k in ks:
        if k > done:  # torch refuses bags that are all empty
            added = F.embedding_bag(
                indices[:, done:k],
                decoder_weight,
                per_sample_weights=values[:, done:k].to(decoder_weight.dtype),
                mode="sum",
            )
            total = total + added
        reconstructions.append(total)
        done = k
    return reconstructions


def fvu(target: Tensor, reconstruction: Tensor, variance: Tensor | float) -> Tensor:
    """Fraction of variance unexplained: mean squared distance over the data's, free of scale.

    Args:
        target: (b, d).
        reconstruction: (b, d).
        variance: Mean squared distance of the data from its mean, summed over d.

    Returns:
        Scalar; 1 is what always answering the mean would give.
    """
    return (target - reconstruction).square().sum(dim=1).mean() / variance


def reconstruction_error(target: Tensor, reconstruction: Tensor) -> Tensor:
    """L(k) = ||f - f̂_k||², summed over d, mean over the batch ([P1] equation 4)."""
    return (target - reconstruction).square().sum(dim=1).mean()


def aux_k(
    residual: Tensor, pre_activations: Tensor, dead: Tensor, k_aux: int, decoder_weight: Tensor
) -> Tensor:
    """AuxK: the dead latents reconstruct what the live ones left ([SAE] appendix A.2).

    The error is relative to the residual's own size, as in [SAE]; [P1] equation 5 prints the plain
    squared error, its code normalises.

    Args:
        residual: (b, d) target minus reconstruction; no gradient flows through it.
        pre_activations: (b, h) before top-k.
        dead: (h,) bool, latents counted as dead.
        k_aux: Dead latents used for each item, fewer where fewer are dead.
        decoder_weight: (h, d).

    Returns:
        Scalar; 0 when no latent is dead.
    """
    count = int(dead.sum())
    if count == 0:
        return residual.new_zeros(())
    residual = residual.detach()
    masked = pre_activations.masked_fill(~dead, -torch.inf)
    values, indices = masked.topk(min(k_aux, count), dim=1)
    weights = values.relu().to(decoder_weight.dtype)
    guess = F.embedding_bag(indices, decoder_weight, per_sample_weights=weights, mode="sum")
    error = (residual - guess).square().sum(dim=1).mean()
    return error / residual.square().sum(dim=1).mean().clamp_min(1e-12)


def non_negative_contrastive(codes: Tensor) -> Tensor:
    """L_cl of [P1] equation 6 after [NCL]: each code against its batch, itself the positive.

    -mean_i log exp(z_i·z_i) / Σ_j exp(z_i·z_j), on raw non-negative codes, no temperature.

    Args:
        codes: (b, h) non-negative.

    Returns:
        Scalar.
    """
    logits = codes @ codes.T
    return F.cross_entropy(logits, torch.arange(len(codes), device=codes.device))


def info_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    positives: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Temperature InfoNCE on cosine similarity ([NCE]).

    Args:
        queries: (b, h).
        keys: (n, h), n >= b; those that are not a query's positive are its negatives.
        temperature: What cosines are divided by.
        positives: (b,) the row of each query's positive in ``keys``; 0..b-1 when None.
        ignored: (b, n) bool, keys that are neither.

    Returns:
        Scalar.
    """
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    if positives is None:
        positives = torch.arange(len(queries), device=queries.device)
    return F.cross_entropy(logits, positives)


def supervised_contrastive(
    queries: Tensor,
    keys: Tensor,
    query_labels: Tensor,
    key_labels: Tensor,
    temperature: float,
    own: Tensor | None = None,
) -> Tensor:
    """L_out of [SupCon]: the log is taken of each positive and then averaged, self excluded.

    Args:
        queries: (b, h).
        keys: (n, h).
        query_labels: (b,) class, -1 for unknown.
        key_labels: (n,) class, -1 for unknown.
        temperature: What cosines are divided by.
        own: (b,) the row of ``keys`` that is the query itself; 0..b-1 when None.

    Returns:
        Scalar: mean over the queries with at least one positive, 0 if there is none.
    """
    if own is None:
        own = torch.arange(len(queries), device=queries.device)
    itself = F.one_hot(own, len(keys)).bool()
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    log_p = logits.masked_fill(itself, -torch.inf).log_softmax(dim=1)
    positive = (query_labels[:, None] == key_labels[None]) & (query_labels[:, None] >= 0) & ~itself
    count = positive.sum(dim=1)
    mean = log_p.masked_fill(~positive, 0).sum(dim=1) / count.clamp_min(1)
    return -mean.sum() / (count > 0).sum().clamp_min(1)


def similarity_distillation(
    student: Tensor,
    teacher: Tensor,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    ignored: Tensor | None = None,
) -> Tensor:
    """KL from the dense similarities of a batch, as a distribution over keys, to the codes'.

    Args:
        student: (b, n) similarities of codes, with gradient.
        teacher: (b, n) similarities of dense vectors.
        student_temperature: What the student's similarities are divided by.
        teacher_temperature: What the teacher's are divided by.
        ignored: (b, n) bool, keys that do not count, such as the item itself.

    Returns:
        Scalar, mean over the b rows.
    """
    student, teacher = student / student_temperature, teacher / teacher_temperature
    if ignored is not None:
        # A finite floor: -inf - -inf would turn the masked terms of the divergence into NaN.
        student = student.masked_fill(ignored, torch.finfo(student.dtype).min)
        teacher = teacher.masked_fill(ignored, torch.finfo(teacher.dtype).min)
    log_p = teacher.detach().log_softmax(dim=1)
    return F.kl_div(student.log_softmax(dim=1), log_p, log_target=True, reduction="batchmean")


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
