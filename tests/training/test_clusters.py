"""Spherical k-means: hand-computed clusters, and what it does with equal and empty vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize

from csr_st import EmbeddingStore, recipe, train
from csr_st.training.clusters import spherical_k_means


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_centroids_are_the_mean_directions_of_their_vectors() -> None:
    """Two vectors near each axis, of different lengths: the mean is that of their directions."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.8, 0.6], [0.6, 8.0]])
    found = spherical_k_means(vectors, torch.eye(2), rounds=1)
    expected = normalize(
        torch.stack(
            [
                normalize(vectors[[0, 2]], dim=1).sum(dim=0),
                normalize(vectors[[1, 3]], dim=1).sum(dim=0),
            ]
        ),
        dim=1,
    )
    torch.testing.assert_close(found, expected)


def test_clusters_are_as_tight_as_those_of_scikit_learn() -> None:
    centres = _random(12, 16)
    points = normalize(centres.repeat(30, 1) + 0.15 * _random(360, 16, seed=1), dim=1)
    points = points[torch.randperm(360, generator=torch.Generator().manual_seed(2))]
    found = spherical_k_means(points, _random(24, 16, seed=3), rounds=8)
    peer = KMeans(24, init=points[:24].numpy(), n_init=1, max_iter=8, algorithm="lloyd")
    theirs = peer.fit(points.numpy()).cluster_centers_
    other = normalize(torch.from_numpy(theirs), dim=1)
    ours, expected = (float((points @ each.T).amax(dim=1).mean()) for each in (found, other))
    assert ours == pytest.approx(expected, abs=0.002)


def test_equal_vectors_give_no_equal_latents() -> None:
    vectors = torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
    start = _random(4, 3)
    found = spherical_k_means(vectors, start, rounds=3)
    torch.testing.assert_close(found[0], vectors[0])
    torch.testing.assert_close(found[1:], start[1:])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_latents_without_vectors_stay_where_they_were(n: int) -> None:
    start = _random(6, 4)
    found = spherical_k_means(_random(n, 4, seed=1), start, rounds=2)
    torch.testing.assert_close(found[n:], start[n:])
    assert torch.isfinite(found).all()


def test_vectors_of_zero_do_not_count() -> None:
    start = _random(4, 3)
    torch.testing.assert_close(spherical_k_means(torch.zeros(5, 3), start, rounds=2), start)


def test_training_finds_the_groups_of_its_vectors_at_once() -> None:
    """After one step of training, k=1 tells 20 groups apart; random latents do not."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 32))
    groups = np.repeat(np.arange(20), 30)
    vectors = (centres[groups] + 0.3 * rng.normal(size=(600, 32))).astype(np.float32)

    def purity(rounds: int) -> float:
        settings = recipe(steps=1, hidden_dim=40, k=4, ks=(1, 2, 4), cluster_rounds=rounds)
        head = train(EmbeddingStore.from_array(vectors), settings, show_progress=False).head
        first = head.encode(torch.from_numpy(vectors), 1).indices[:, 0].numpy()
        largest = [np.bincount(groups[first == latent]).max() for latent in np.unique(first)]
        return sum(largest) / len(groups)

    assert purity(6) > 0.97
    assert purity(6) > purity(0) + 0.1
