"""What a code's latents are multiplied by in the decoder, from what the encoder measured.

An activation is a measurement of the vector, z_r = w_r·(v - b_pre) + b_r. The sum of decoder rows
d_r weighted by activations does not have these measurements: rows are not orthogonal, so what two
active latents share is counted twice. The coefficients a of the sum that has them solve

    Σ_s (w_r·d_s) a_s = z_r - b_r    for all active r,

k equations per code. With tied weights their sum is the point nearest to v that the active rows can
make, the least-squares step of orthogonal matching pursuit (Pati et al., Asilomar 1993), although v
itself is not known. Nothing more has to be stored, and every prefix of a code has its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SWEEPS = 3  # of Gauss-Seidel; a fourth changes no figure
RIDGE = 0.03  # keeps a near z where rows are nearly equal
NUMBERS_AT_ONCE = 1 << 22  # of gathered rows, 16 MiB


def debiased(magnitudes: Any, latents: Any, encoder: Any, bias: Any, decoder: Any) -> Any:
    """Coefficients of codes, in the arrays of NumPy or torch.

    Args:
        magnitudes: (n, k) activations, 0 where a latent is not active.
        latents: (n, k) integers.
        encoder: (h, d) rows w.
        bias: (h,) b.
        decoder: (h, d) rows d.

    Returns:
        (n, k) coefficients, 0 where magnitudes are.
    """
    found = magnitudes + 0  # a copy
    step = max(1, NUMBERS_AT_ONCE // (magnitudes.shape[1] * encoder.shape[1]))
    for start in range(0, len(magnitudes), step):
        part, rows = found[start : start + step], latents[start : start + step]
        products = encoder[rows] @ decoder[rows].swapaxes(1, 2)
        # A head that is hardly trained may overflow; `solved` then keeps the magnitudes.
        with np.errstate(over="ignore", invalid="ignore"):
            found[start : start + step] = solved(part, part - bias[rows], products)
    return found


def solved(magnitudes: Any, measured: Any, products: Any) -> Any:
    """Coefficients from the products of rows, see `debiased`.

    Sweeps of Gauss-Seidel from ``magnitudes``, with a ridge. Where they do not bring a code closer
    to its measurements, as when encoder and decoder have little in common, magnitudes are kept.

    Args:
        magnitudes: (n, k) activations z, 0 where a latent is not active.
        measured: (n, k) z - b.
        products: (n, k, k) w_r·d_s.

    Returns:
        (n, k) coefficients, 0 where magnitudes are.
    """
    active = magnitudes > 0
    missing = (measured - (products * magnitudes[:, None, :]).sum(-1)) * active
    change = 0 * magnitudes
    for _ in range(SWEEPS):
        for r in range(magnitudes.shape[1]):
            size = (1 + RIDGE) * products[:, r, r]
            usable = active[:, r] & (size > 0)
            own = RIDGE * products[:, r, r] * change[:, r]
            left = missing[:, r] - (products[:, r, :] * change).sum(-1) - own
            change[:, r] += usable * left / (size * usable + ~usable)
    left = (missing - (products * change[:, None, :]).sum(-1)) * active
    better = (left * left).sum(-1) <= (missing * missing).sum(-1)  # false for NaN
    change[~better] = 0
    return magnitudes + change
