"""Orthogonal matching pursuit: the latents from which a decoder makes a vector best.

Pati, Rezaiifar and Krishnaprasad, Asilomar 1993. Each step adds the latent whose decoder row points
most in the direction of what is still missing, and fits all coefficients again. To save steps, an
eighth of the latents so far are added at a time (generalized OMP, Wang et al., IEEE TSP 2012).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1e-4  # relative to rows of norm 1: solvable also with two equal rows
NUMBERS_AT_ONCE = 1 << 24  # of rows and correlations, 64 MiB
SWEEPS = 20  # to mend negative coefficients, which are rare


def pursue(vectors: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Latents and their coefficients, none of them negative.

    Args:
        vectors: (n, d) float32 or float64, centred.
        weight: (h, d), a row for each latent.
        k: Latents per vector, at most h.

    Returns:
        (n, k) coefficients, falling, and int64 latents. Rows that need fewer latents end in zeros.
    """
    coefficients, latents = pursue_each(vectors, weight, [k])[0]
    coefficients, order = coefficients.sort(dim=1, descending=True, stable=True)
    return coefficients, latents.gather(1, order)


def pursue_each(vectors: Tensor, weight: Tensor, ks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """For each of rising ks what `pursue` gives, in the order of choice: one pursuit for all."""
    norms = weight.norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
    rows = weight / norms[:, None]
    step = max(1, NUMBERS_AT_ONCE // max(len(weight), ks[-1] * weight.shape[1]))
    parts = [_pursue(part, rows, ks) for part in torch.split(vectors, step)]
    found = []
    for place in range(len(ks)):
        coefficients, latents = (torch.cat([part[place][i] for part in parts]) for i in (0, 1))
        found.append((coefficients / norms[latents], latents))
    return found


def _pursue(vectors: Tensor, rows: Tensor, ks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    latents = torch.empty((len(vectors), 0), dtype=torch.long, device=vectors.device)
    taken, missing, found = vectors.new_zeros(len(vectors), len(rows)), vectors, []
    for k in ks:
        while (n := latents.shape[1]) < k:
            more = min(max(1, n // 8), k - n)
            best = torch.addmm(taken, missing, rows.T).topk(more).indices
            taken.scatter_(1, best, -torch.inf)
            latents = torch.cat([latents, best], dim=1)
            chosen = rows[latents]
            products = chosen @ chosen.mT
            products.diagonal(dim1=1, dim2=2).add_(RIDGE)
            targets = torch.einsum("nkd,nd->nk", chosen, vectors)
            factor = torch.linalg.cholesky(products)
            coefficients = torch.cholesky_solve(targets[..., None], factor)[..., 0]
            missing = vectors - torch.einsum("nk,nkd->nd", coefficients, chosen)
        negative = (coefficients < 0).any(dim=1)
        kept = coefficients.clone()
        if negative.any():
            kept[negative] = _never_negative(
                coefficients[negative], targets[negative], products[negative]
            )
        found.append((kept, latents))
    return found


def _never_negative(start: Tensor, targets: Tensor, products: Tensor) -> Tensor:
    """Non-negative least squares by coordinate descent (Franc et al., CAIP 2005)."""
    found = start.clamp_min(0)
    for _ in range(SWEEPS):
        for place in range(found.shape[1]):
            slope = targets[:, place] - (products[:, place] * found).sum(dim=1)
            found[:, place] = (found[:, place] + slope / products[:, place, place]).clamp_min(0)
    return found
