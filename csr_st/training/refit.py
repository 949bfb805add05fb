"""Fit the decoder once the encoder is trained, and the maps of short codes.

With the codes fixed, the nested reconstruction error is a quadratic in the decoder, so a few steps
of conjugate gradients come closer to its minimum than training did, at the cost of a few epochs of
decoding. They start at the trained decoder and are few: this, not a penalty, prevents latents that
few vectors use from overfitting those vectors.

Residual bits get their axes here too, see `csr_st.model.residual_basis`.

One decoder for every k cannot be the best for a few latents, which also indicate what tends to
occur with them; larger codes have latents of their own for that. A (d, d) map after the decoder,
the ridge regression of vectors on their reconstructions at one k, adds it for d² numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from csr_st.head import SparseCSRHead
from csr_st.model.pursuit import pursue_each
from csr_st.model.residual_basis import name_of
from csr_st.training.head_copy import changed
from csr_st.training.losses import nested_errors

SAMPLE = 20_000  # vectors that the decoder is fitted to
BATCH = 2048
RIDGE = 0.03  # penalty of a map
PURSUIT_KS = (8, 16, 32)
RESIDUAL_K = 16
RESIDUAL_SAMPLE = 5000  # vectors whose residuals are measured
RESIDUAL_SHARE = 0.3
ITERATIONS = 10  # of conjugate gradients in a round


class _Codes(NamedTuple):
    """Codes of one batch that the decoder is fitted to, at some prefixes.

    Attributes:
        target: (n, input_dim) centred vectors.
        weights: (n, k) of the decoder's rows.
        latents: (n, k).
        ks: Prefixes, rising, the last of them k.
    """

    target: Tensor
    weights: Tensor
    latents: Tensor
    ks: Sequence[int]


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
    codes = []
    with torch.no_grad():
        for part in torch.split(vectors, BATCH):
            values, latents = head.encode(part, ks[-1])
            codes.append([_Codes(part - head.pre_bias, head.magnitudes(values), latents, ks)])
    weight = _least_squares(head.decoder_weight.detach(), codes, iterations)
    return changed(head, {"tied": False}, {"decoder_weight": _finite(weight)})


def refit_for_pursuit(
    head: SparseCSRHead, vectors: Tensor, ks: Sequence[int], rounds: int
) -> SparseCSRHead:
    """A head with the same encoder and a decoder that serves codes by pursuit better.

    The method of optimal directions (Engan et al., ICASSP 1999): codes by pursuit, then the decoder
    by least squares with the codes fixed, in turns. The encoder's codes, debiased, are fitted at
    the same time, so that they are decoded as well as before.

    The arguments are those of `refit_decoder`.
    """
    head = changed(head, {"short_ks": None}, {})
    pursued = [k for k in ks if k in PURSUIT_KS] or [ks[-1]]
    measured = [k for k in ks if k >= pursued[0]]  # shorter codes have maps
    for _ in range(rounds):
        codes = []
        with torch.no_grad():
            weight = head.decoder_weight.float()
            for part in torch.split(vectors, BATCH):
                target = part - head.pre_bias
                found = zip(pursued, pursue_each(target.float(), weight, pursued), strict=True)
                of_batch = [_Codes(target, *code, [k]) for k, code in found]
                values, latents = head.encode(part, ks[-1])
                for k in measured:
                    prefix = values[:, :k], latents[:, :k]
                    of_batch.append(_Codes(target, head.coefficients(*prefix), prefix[1], [k]))
                codes.append(of_batch)
        weight = _least_squares(head.decoder_weight.detach(), codes, ITERATIONS)
        head = changed(head, {"tied": False}, {"decoder_weight": _finite(weight)})
    return head


def _least_squares(start: Tensor, batches: Sequence[Sequence[_Codes]], iterations: int) -> Tensor:
    """The decoder after some conjugate gradients; all kinds of code have equal shares of the error.

    A batch has one entry for each kind of code, in the order of the others.
    """
    nothing = torch.zeros_like(batches[0][0].target[0])

    def squares(code: _Codes, weight: Tensor, target: Tensor) -> Tensor:
        named = code.weights.to(weight), code.latents, weight, nothing, code.ks
        return nested_errors(target, *named)[0] * len(target)

    with torch.no_grad():
        kinds = [
            torch.stack([squares(code, start, code.target) for code in kind]).sum(dim=0)
            for kind in zip(*batches, strict=True)
        ]
    # Relative to the largest, which also prevents a division by 0 for equal vectors.
    largest = torch.cat(kinds).max().clamp_min(1e-30)
    shares = [largest / errors.clamp_min(1e-30) for errors in kinds]

    def gradient(weight: Tensor, of_targets: bool) -> Tensor:
        """Of ½ Σ_k w_k ||target - W z_k||² in W; without targets of the quadratic part alone."""
        weight = weight.detach().requires_grad_()
        total = torch.zeros_like(weight)
        for batch in batches:
            for share, code in zip(shares, batch, strict=True):
                target = code.target if of_targets else nothing.expand_as(code.target)
                error = share @ squares(code, weight, target) / 2
                total += torch.autograd.grad(error, weight)[0]
        return total

    change = torch.zeros_like(start)
    residual = -gradient(start, of_targets=True)
    direction, size = residual.clone(), residual.square().sum(dim=0)
    for _ in range(iterations):
        curved = gradient(direction, of_targets=False)
        slope = (direction * curved).sum(dim=0)
        # At the minimum both are 0.
        step = torch.where(slope > 0, size / slope.clamp_min(1e-30), 0)
        change += step * direction
        residual -= step * curved
        before, size = size, residual.square().sum(dim=0)
        direction = residual + size / before.clamp_min(1e-30) * direction
    return start + change


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


@torch.no_grad()
def fit_residual_basis(head: SparseCSRHead, vectors: Tensor) -> SparseCSRHead:
    """A head with the axes along which residuals of its codes extend furthest.

    They are the principal axes of 0.3 R + 0.7 S, each of unit trace. R is the covariance of what
    the head does not rebuild of its training vectors. It knows them too well: of other vectors much
    more is left, in other directions. For those there is S, the square root of the covariance of
    the vectors themselves, which residuals resemble where the head is less sure. With R alone, bits
    are worse spent than at random on documents that the head has not seen; with S alone, worse than
    with both on those that it has.

    Vectors are (n, input_dim), on the head's device. The given head is not changed.
    """
    d, mean = head.input_dim, vectors.mean(dim=0)
    of_vectors, of_residuals = torch.zeros(2, d, d, dtype=torch.float64)
    for part in torch.split(vectors, BATCH):
        of_vectors += ((part - mean).T @ (part - mean)).cpu().double()
    for part in torch.split(vectors[:: -(-len(vectors) // RESIDUAL_SAMPLE)], BATCH):
        values, latents = head.encode(part, min(RESIDUAL_K, head.hidden_dim), pursuit=True)
        left = part - head.decode(values, latents, fitted=True)
        of_residuals += (left.T @ left).cpu().double()
    sizes, axes = torch.linalg.eigh(of_vectors)
    square_root = (axes * sizes.clamp_min(0).sqrt()) @ axes.T
    mixed = torch.eye(d, dtype=torch.float64) * 1e-6 / d  # all there is without data
    shares = (RESIDUAL_SHARE, of_residuals), (1 - RESIDUAL_SHARE, square_root)
    for share, each in shares:
        mixed += share * each / each.trace().clamp_min(1e-30)
    sizes, axes = torch.linalg.eigh(mixed)
    kind = head.pre_bias.dtype
    arrays = {
        "residual_axes": axes.T.flip(0).to(kind),
        "residual_deviations": sizes.flip(0).clamp_min(1e-7 / d).sqrt().to(kind),
    }
    name = name_of(*(_finite(array).float().numpy() for array in arrays.values()))
    return changed(head, {"residual_basis": name}, arrays)


def _finite(weights: Tensor) -> Tensor:
    """The weights. Raises ArithmeticError if one is not finite."""
    if not torch.isfinite(weights).all():
        raise ArithmeticError("a weight is not finite")
    return weights
