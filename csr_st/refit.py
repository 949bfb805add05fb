"""Solve for the decoder once the encoder is trained.

With the codes fixed, the nested reconstruction error is a quadratic in the decoder, so a few steps
of conjugate gradients get nearer to its minimum than training did, at the price of a few epochs of
decoding. The trained decoder is the start and few steps are taken: that, not a penalty, keeps
latents that few vectors use from fitting those vectors alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csr_st.head import Code, SparseCSRHead
from csr_st.losses import nested_errors

SAMPLE = 20_000  # vectors that the decoder is fitted to
BATCH = 2048


def refit_decoder(
    head: SparseCSRHead, vectors: Tensor, ks: Sequence[int], iterations: int
) -> SparseCSRHead:
    """A head with the same encoder and a better decoder; tied weights come apart.

    Minimises Σ_k w_k ||v - b_pre - W_dec z_k||² over W_dec, with w_k one over the error that the
    given decoder has at k: the gradient of Σ_k ln fvu_k, the objective of training, at that point.

    Args:
        head: The trained head.
        vectors: (n, input_dim), on the head's device.
        ks: Numbers of active latents, rising.
        iterations: Steps of conjugate gradients.

    Returns:
        A new head; the given one is as before.
    """
    bias = head.pre_bias.detach()
    with torch.no_grad():
        codes = [_magnitudes(head, part, ks[-1]) for part in torch.split(vectors, BATCH)]
    nothing = torch.zeros_like(bias)

    def gradient(weight: Tensor, targets: Sequence[Tensor], of: Tensor) -> Tensor:
        """Of ½ Σ_k w_k ||target - W z_k||² in W."""
        weight = weight.detach().requires_grad_()
        total = torch.zeros_like(weight)
        for code, target in zip(codes, targets, strict=True):
            errors, _ = nested_errors(target, *code, weight, nothing, ks)
            error = len(target) / 2 * (of @ errors)
            total += torch.autograd.grad(error, weight)[0]
        return total

    start = head.decoder_weight.detach()
    targets = [part - bias for part in torch.split(vectors, BATCH)]
    weights = _inverse_errors(codes, targets, start, nothing, ks)
    origin = [bias.new_zeros(1).expand_as(target) for target in targets]
    change = torch.zeros_like(start)
    residual = -gradient(start, targets, weights)
    direction, size = residual.clone(), residual.square().sum(dim=0)
    for _ in range(iterations):
        curved = gradient(direction, origin, weights)
        slope = (direction * curved).sum(dim=0)
        # Where nothing is left to gain, both are 0.
        step = torch.where(slope > 0, size / slope.clamp_min(1e-30), 0)
        change += step * direction
        residual -= step * curved
        before, size = size, residual.square().sum(dim=0)
        direction = residual + size / before.clamp_min(1e-30) * direction
    fitted = SparseCSRHead(
        **{**{key: getattr(head, key) for key in head.config_keys}, "tied": False}
    ).to(bias.device)
    with torch.no_grad():
        fitted.encoder_weight.copy_(head.encoder_weight)
        fitted.latent_bias.copy_(head.latent_bias)
        fitted.pre_bias.copy_(bias)
        fitted.decoder_weight.copy_(start + change)
    return fitted


def _magnitudes(head: SparseCSRHead, vectors: Tensor, k: int) -> Code:
    values, latents = head.encode(vectors, k)
    return Code(head.magnitudes(values), latents)


@torch.no_grad()
def _inverse_errors(
    codes: Sequence[tuple[Tensor, Tensor]],
    targets: Sequence[Tensor],
    weight: Tensor,
    nothing: Tensor,
    ks: Sequence[int],
) -> Tensor:
    errors = torch.zeros(len(ks), device=weight.device)
    for code, target in zip(codes, targets, strict=True):
        errors += nested_errors(target, *code, weight, nothing, ks)[0]
    # Relative to the largest, which also keeps equal vectors, without error, from dividing by 0.
    return errors.max().clamp_min(1e-30) / errors.clamp_min(1e-30)
