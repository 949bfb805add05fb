"""Quantizers of few bits a dimension that no library has in this form, as peers.

Vectors lose the mean of the training vectors, are projected onto m directions (their own
dimensions, PCA, a random rotation within the PCA subspace, or ITQ's rotation there) and rounded to
the 2**bits levels of a Gaussian (Max 1960, Lloyd 1982). The scale of the levels is that of the
dimension, which costs nothing, or that of the row, two bytes: the one of the least squared error or
the one that makes the product with the vector itself exact, as RaBitQ (2405.12497) does.
"By variance" gives each direction its own bits, the next bit always where the error is largest.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from alternatives_peers import BUDGETS, Method, Stored
from scipy.stats import norm

MOST_BITS = 8
SCALES = {"dimension": "", "row": ", row scale", "exact": ", exact row scale"}


def peers(width: int) -> list[Method]:
    """The methods of this file for vectors of one width."""
    found = [
        Method("1 bit, centred", "own dimensions", partial(few_bits, "own", width, 1, "dimension"))
    ]
    for budget in BUDGETS:
        if 8 * budget <= MOST_BITS * width:
            build = partial(few_bits, "PCA", min(width, 8 * budget), None, "dimension", 8 * budget)
            found.append(Method("PCA, by variance", f"{budget} bytes", build))
    for space, bits, scales in (
        ("PCA", 1, ("dimension",)),
        ("PCA", 2, ("dimension",)),
        ("PCA", 4, ("dimension",)),
        ("rotated", 1, ("dimension", "row", "exact")),
        ("rotated", 2, ("dimension", "row", "exact")),
        ("rotated", 4, ("dimension", "row")),
        ("ITQ", 1, ("dimension", "row")),
    ):
        for scale in scales:
            extra = 0 if scale == "dimension" else 2
            widths = {min(width, 8 * (budget - extra) // bits) for budget in BUDGETS}
            for m in sorted(widths):
                setting = f"{m} dimensions{SCALES[scale]}"
                build = partial(few_bits, space, m, bits, scale)
                found.append(Method(f"{space}, {bits} bit" + "s" * (bits > 1), setting, build))
    return found


@cache
def gaussian_levels(bits: int) -> np.ndarray:
    """The 2**bits levels of the least squared error for a standard normal variable."""
    levels = norm.ppf((np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(2000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        mass, density = np.diff(norm.cdf(edges)), norm.pdf(edges)
        levels = (density[:-1] - density[1:]) / mass
    return levels.astype(np.float32)


def rounded(values: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """(n, m) values of unit variance at the nearest level of their column's bits."""
    found = np.zeros_like(values)
    for count in np.unique(bits[bits > 0]):
        levels, columns = gaussian_levels(int(count)), bits == count
        edges = (levels[1:] + levels[:-1]) / 2
        found[:, columns] = levels[np.searchsorted(edges, values[:, columns])]
    return found


def by_variance(variances: np.ndarray, total: int) -> np.ndarray:
    """Bits of each direction, ``total`` in all: the next one goes where the error is largest."""
    bits, error = np.zeros(len(variances), int), variances.astype(np.float64)
    for _ in range(total):
        widest = int(np.argmax(error))
        bits[widest] += 1
        error[widest] = error[widest] / 4 if bits[widest] < MOST_BITS else -1
    return bits


def few_bits(space, m, bits, scale, *rest) -> Stored:
    """Documents in ``bits`` bits for each of ``m`` directions, or in a total of bits by variance.

    The rest are the total, where bits is None, training vectors, documents and a seed.
    """
    *total, train, documents, seed = rest
    mean = train.mean(axis=0)
    basis = _basis(space, train - mean, m, seed)
    fitted, given = (train - mean) @ basis, (documents - mean) @ basis
    deviations = np.sqrt((fitted**2).mean(axis=0))
    each = by_variance(deviations**2, *total) if bits is None else np.full(m, bits)
    size, fixed = each.sum() / 8, 4 * (basis.size + mean.size)
    if scale == "dimension":
        found = rounded(given / deviations, each) * deviations
        fixed += 4 * m
    else:
        lengths = np.linalg.norm(given, axis=1, keepdims=True)
        levels = rounded(given * (np.sqrt(m) / lengths), each)
        products = (given * levels).sum(axis=1, keepdims=True)
        least = products / (levels**2).sum(axis=1, keepdims=True)
        found = levels * (least if scale == "row" else lengths**2 / products).astype(np.float16)
        size += 2
    return Stored(float(size), fixed, decoded=(found @ basis.T + mean).astype(np.float32))


def _basis(space: str, centred: np.ndarray, m: int, seed: int) -> np.ndarray:
    """(d, m) orthonormal directions."""
    if space == "own":
        return np.eye(m, dtype=np.float32)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    basis = np.ascontiguousarray(vectors[:, ::-1][:, :m], np.float32)
    if space == "PCA":
        return basis
    start = np.random.default_rng(seed).standard_normal((m, m)).astype(np.float32)
    rotation = np.linalg.qr(start)[0]
    if space == "ITQ":
        rotation = _itq(centred @ basis, rotation)
    return basis @ rotation


def _itq(projected: np.ndarray, rotation: np.ndarray, rounds: int = 50) -> np.ndarray:
    """The rotation that brings projections near their signs (Gong and Lazebnik 2011)."""
    for _ in range(rounds):
        left, _, right = np.linalg.svd(projected.T @ np.sign(projected @ rotation))
        rotation = left @ right
    return rotation
