"""Directions that training starts its latents from: centroids of spherical k-means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 1024
EQUAL = 1 - 1e-4  # cosine from which a vector is taken for its centroid


def clusters_of(vectors: Tensor, start: Tensor, rounds: int, seed: int) -> Tensor:
    """`spherical_k_means` of the vectors in a random order, in their own precision."""
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    with torch.autocast(start.device.type, enabled=False):
        return spherical_k_means(vectors[order].to(start.device), start, rounds)


@torch.no_grad()
def spherical_k_means(vectors: Tensor, start: Tensor, rounds: int) -> Tensor:
    """Unit centroids of directions, after some rounds (Dhillon and Modha, 2001).

    A centroid is the mean direction of the vectors whose cosine with it is the highest, of equal
    centroids with the first. One without vectors moves to a vector that is far from its centroid,
    and in the end to its row of ``start``, so that no two become equal.

    Args:
        vectors: (n, d) centred; their lengths do not matter, those of 0 do not count.
        start: (h, d) unit rows. As many of them as there are vectors are replaced by the vectors'
            directions before the first round.
        rounds: At least 0.

    Returns:
        (h, d).
    """
    rows = F.normalize(vectors.to(start.dtype), dim=1)
    rows = rows[rows.norm(dim=1) > 0.5]
    first = min(len(rows), len(start))
    centroids = torch.cat([rows[:first], start[first:]])
    if not first:
        return centroids
    for _ in range(rounds):
        cosines, nearest = _nearest(rows, centroids)
        sums = torch.zeros_like(start).index_add_(0, nearest, rows)
        lone = torch.bincount(nearest, minlength=len(start)) == 0
        centroids = torch.where(lone[:, None], start, F.normalize(sums, dim=1))
        furthest = cosines.argsort()[: int(lone.sum())]
        furthest = furthest[cosines[furthest] < EQUAL]
        centroids[lone.nonzero()[: len(furthest), 0]] = rows[furthest]
    # Of two equal ones, which equal vectors may have given, the second would learn as the first.
    lone = torch.bincount(_nearest(rows, centroids)[1], minlength=len(start)) == 0
    lone |= _repeated(centroids)
    return torch.where(lone[:, None], start, centroids)


def _repeated(centroids: Tensor) -> Tensor:
    """(h,) whether one with a lower number has nearly the same direction."""
    found = []
    for first in range(0, len(centroids), ROWS_AT_ONCE):
        part = centroids[first : first + ROWS_AT_ONCE]
        cosines = part @ centroids[: first + len(part)].T
        found.append((cosines.tril(first - 1) > EQUAL).any(dim=1))
    return torch.cat(found)


def _nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) cosines of the rows with their nearest centroids, and which these are."""
    found = [(part @ centroids.T).max(dim=1) for part in torch.split(rows, ROWS_AT_ONCE)]
    cosines, nearest = (torch.cat(parts) for parts in zip(*found, strict=True))
    return cosines, nearest
