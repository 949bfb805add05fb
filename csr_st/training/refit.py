"""Fit the decoder once the encoder is trained, and the maps of short codes.

With the codes fixed, the nested reconstruction error is a quadratic in the decoder, so a few steps
of conjugate gradients come closer to its minimum than training did, at the cost of a few epochs of
decoding. They start at the trained decoder and are few: this, not a penalty, prevents latents that
few vectors use from overfitting those vectors.

One decoder for every k cannot be the best for a few latents, which also indicate what tends to
occur with them; larger codes have latents of their own for that. A (d, d) map after the decoder,
the ridge regression of vectors on their reconstructions at one k, adds it for d² numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csr_st.head import Code, SparseCSRHead
from csr_st.training.early_stopping import squared_errors
from csr_st.training.head_copy import changed
from csr_st.training.losses import nested_errors

SAMPLE = 20_000  # vectors that the decoder is fitted to
BATCH = 2048
RIDGE = 0.03  # penalty of a map


def refit_decoder(
    head: SparseCSRHead, vectors: Tensor, ks: Sequence[int], iterations: int
) -> SparseCSRHead:
    """A head with the same encoder and a better decoder, which is untied.

    Minimises Σ_k w_k ||v - b_pre - W_dec z_k||² over W_dec, with w_k one over the error of the
    given decoder at k: the gradient of Σ_k ln fvu_k, the objective of training, at that point.

    Vectors are (n, input_dim), on the head's device, ks rise, and an iteration is one step of
    conjugate gradients. The given head is not changed.
    """
    head = changed(head, {"short_ks": None}, {})
    bias, batches = head.pre_bias.detach(), torch.split(vectors, BATCH)
    with torch.no_grad():
        codes = [_magnitudes(head, part, ks[-1]) for part in batches]
    errors = torch.stack([squared_errors(head, part, ks) for part in batches]).sum(dim=0)
    # Relative to the largest, which also prevents a division by 0 for equal vectors.
    weights = (errors.max().clamp_min(1e-30) / errors.clamp_min(1e-30)).to(bias)
    nothing = torch.zeros_like(bias)

    def gradient(weight: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Of ½ Σ_k w_k ||target - W z_k||² in W."""
        weight = weight.detach().requires_grad_()
        total = torch.zeros_like(weight)
        for code, target in zip(codes, targets, strict=True):
            errors, _ = nested_errors(target, *code, weight, nothing, ks)
            error = len(target) / 2 * (weights @ errors)
            total += torch.autograd.grad(error, weight)[0]
        return total

    start = head.decoder_weight.detach()
    targets = [part - bias for part in batches]
    origin = [bias.new_zeros(1).expand_as(target) for target in targets]
    change = torch.zeros_like(start)
    residual = -gradient(start, targets)
    direction, size = residual.clone(), residual.square().sum(dim=0)
    for _ in range(iterations):
        curved = gradient(direction, origin)
        slope = (direction * curved).sum(dim=0)
        # At the minimum both are 0.
        step = torch.where(slope > 0, size / slope.clamp_min(1e-30), 0)
        change += step * direction
        residual -= step * curved
        before, size = size, residual.square().sum(dim=0)
        direction = residual + size / before.clamp_min(1e-30) * direction
    return changed(head, {"tied": False}, {"decoder_weight": _finite(start + change)})


@torch.no_grad()
def fit_short_maps(head: SparseCSRHead, vectors: Tensor, ks: Sequence[int]) -> SparseCSRHead:
    """A head with the same codes that decodes short ones through maps.

    The map of k is (SᵀS + λI)⁻¹ (SᵀV + λI), with S the sums of decoder rows at k and V the vectors,
    both centred on b_pre, and λ `RIDGE` times the mean eigenvalue of SᵀS: without data, the
    identity. A better λ cannot be found on training vectors, as their reconstructions are too good.

    The head is in float32 and not changed; vectors are (n, input_dim), on its device; ks rise and
    have at least one entry, of at most hidden_dim.
    """
    plain = changed(head, {"short_ks": None}, {})
    d = head.input_dim
    squares, crossed = torch.zeros(2, len(ks), d, d, dtype=torch.float64)
    for part in torch.split(vectors, BATCH):
        values, latents = plain.encode(part, ks[-1])
        for i, k in enumerate(ks):
            sums = plain.decode(values[:, :k], latents[:, :k]) - plain.pre_bias
            squares[i] += (sums.T @ sums).cpu().double()
            crossed[i] += (sums.T @ (part - plain.pre_bias)).cpu().double()
    sizes = squares.diagonal(dim1=1, dim2=2).mean(dim=1)
    penalties = (RIDGE * sizes).clamp_min(1e-30)[:, None, None] * torch.eye(d).double()
    # Positive definite, so by Cholesky, and one at a time: in MKL on AMD processors without AVX-512
    # a batch of LU fails or hangs once torch.set_num_threads was called (pytorch issue 142815).
    systems = zip(squares + penalties, crossed + penalties, strict=True)
    maps = torch.stack([torch.cholesky_solve(b, torch.linalg.cholesky(a)) for a, b in systems])
    return changed(head, {"short_ks": list(ks)}, {"short_maps": _finite(maps)})


def _finite(weights: Tensor) -> Tensor:
    """The weights. Raises ArithmeticError if one is not finite."""
    if not torch.isfinite(weights).all():
        raise ArithmeticError("a weight is not finite")
    return weights


def _magnitudes(head: SparseCSRHead, vectors: Tensor, k: int) -> Code:
    values, latents = head.encode(vectors, k)
    return Code(head.magnitudes(values), latents)
