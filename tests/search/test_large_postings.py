"""Searches of large collections, at sizes that a test can afford, against a dense product."""

from __future__ import annotations

import numpy as np
import pytest

from csr_st import SparseCodes, SparseIndex

pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def _large(monkeypatch):
    """Every collection is large, whatever its documents have in common."""
    monkeypatch.setattr("csr_st.search.live.LARGE", 1)
    monkeypatch.setattr("csr_st.search.large_postings.LARGE", 1)
    monkeypatch.setattr("csr_st.search.large_postings._MOST_ENTRIES", 1.0)


def clustered(n, k=16, hidden_dim=300, seed=0, groups=20):
    """Codes of documents that share latents with those of their group."""
    rng = np.random.default_rng(seed)
    favourites = np.random.default_rng(99).random((groups, hidden_dim)) ** 8
    keys = favourites[rng.integers(0, groups, n)] + 0.3 * rng.random((n, hidden_dim))
    indices = np.argsort(-keys, axis=1)[:, :k]
    values = np.sort(rng.random((n, k)).astype(np.float32) + 0.05, axis=1)[:, ::-1]
    return SparseCodes(indices.astype(np.uint16), values.copy(), hidden_dim).normalize()


def dense_best(documents, queries, top_k, allowed=None):
    """Scores and rows of the best, equal ones by row; rows that share nothing have score 0."""
    scores = queries.to_scipy().toarray() @ documents.to_scipy().toarray().T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    order = np.argsort(-np.round(scores, 6), axis=1, kind="stable")[:, :top_k]
    return order, np.take_along_axis(scores, order, 1)


def assert_best(found, documents, queries, top_k, allowed=None):
    _, scores = dense_best(documents, queries, top_k, allowed)
    assert np.allclose(found.scores, scores, atol=1e-6)
    product = queries.to_scipy().toarray() @ documents.to_scipy().toarray().T
    assert np.allclose(np.take_along_axis(product, found.ids, 1), scores, atol=1e-6)
    assert all(len(set(row)) == top_k for row in found.ids.tolist())


def is_pruned(index, k):
    large = index._live.large_postings(k, index._collection.documents, 1)
    return large is not None


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000, 3001])
@pytest.mark.parametrize("top_k", [1, 10, 400])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_best_documents_are_found(n, top_k, threads):
    documents, queries = clustered(n), clustered(9, seed=1)
    top_k = min(top_k, n)
    index = SparseIndex.build(documents)
    assert_best(index.search(queries, top_k, threads=threads), documents, queries, top_k)
    assert is_pruned(index, documents.k)


@pytest.mark.parametrize("seed", range(6))
def test_random_codes_of_any_shape(seed):
    rng = np.random.default_rng(seed)
    hidden_dim, k = int(rng.integers(2, 400)), int(rng.integers(1, 40))
    k = min(k, hidden_dim)
    n = int(rng.integers(1, 2000))

    def codes(count, width):
        indices = np.argsort(rng.random((count, hidden_dim)), axis=1)[:, :width]
        values = np.sort(rng.random((count, width)) ** rng.integers(1, 6), axis=1)[:, ::-1]
        values[rng.random(count) < 0.1, width // 2 :] = 0  # rows with fewer latents, or none
        return SparseCodes(
            indices.astype(np.uint16), values.astype(np.float32), hidden_dim
        ).normalize()

    documents, queries = codes(n, k), codes(5, int(rng.integers(1, hidden_dim + 1)))
    top_k = int(rng.integers(1, n + 1))
    assert_best(SparseIndex.build(documents).search(queries, top_k), documents, queries, top_k)


def test_more_than_65_536_latents_and_one_latent():
    rng = np.random.default_rng(3)
    hidden_dim = 70_000
    indices = rng.integers(0, 50, (500, 4)) + np.array([0, 100, 69_000, 69_900])
    values = np.sort(rng.random((500, 4)).astype(np.float32) + 0.1, axis=1)[:, ::-1].copy()
    documents = SparseCodes(indices.astype(np.uint32), values, hidden_dim).normalize()
    index = SparseIndex.build(documents)
    assert_best(index.search(documents[:20], 7), documents, documents[:20], 7)
    single = documents.prefix(1)
    found = SparseIndex.build(single).search(single[:20], 3)
    assert_best(found, single, single[:20], 3)


def test_codes_that_are_a_little_longer_than_1():
    documents = clustered(300, seed=4)
    longer = SparseCodes(
        documents.indices, documents.values * np.float32(1.0045), documents.hidden_dim,
        norms=np.ones(300, np.float32),
    )  # fmt: skip
    found = SparseIndex.build(longer).search(longer, 3)
    assert np.array_equal(found.ids[:, 0], np.arange(300))
    assert_best(found, longer, longer, 3)


def test_equal_scores_come_in_order_of_position():
    one = clustered(40, seed=5)
    copies = SparseCodes.concatenate([one, one, one])
    found = SparseIndex.build(copies).search(one, 3)
    assert np.array_equal(found.ids, np.arange(40)[:, None] + [0, 40, 80])


def test_documents_that_share_nothing_follow_with_score_0():
    indices = np.array([[0, 1], [2, 3], [4, 5], [0, 4]], np.uint16)
    values = np.array([[0.8, 0.6]] * 4, np.float32)
    documents = SparseCodes(indices, values, 8).normalize()
    found = SparseIndex.build(documents).search(documents[:1], 4)
    assert found.ids.tolist() == [[0, 3, 1, 2]]
    assert np.allclose(found.scores, [[1.0, 0.64, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_filters(share):
    documents, queries = clustered(2000), clustered(8, seed=1)
    allowed = np.random.default_rng(0).random(2000) < share
    found = SparseIndex.build(documents).search(queries, 5, filter=allowed)
    assert_best(found, documents, queries, 5, allowed)
    assert allowed[found.ids].all()


def test_prefixes_of_documents_and_longer_queries():
    documents, queries = clustered(1500), clustered(8, k=60, seed=1)
    index = SparseIndex.build(documents)
    for k in (4, 16):
        assert_best(index.search(queries, 10, k=k), documents.prefix(k), queries, 10)


def test_rescoring_and_boosts_see_the_same_candidates(monkeypatch):
    documents, queries = clustered(1500), clustered(8, seed=1)
    large = SparseIndex.build(documents)
    boost = {int(queries.indices[0, 0]): 0.0, int(queries.indices[1, 1]): 3.0}
    found = large.search(queries, 10, boost=boost)
    monkeypatch.setattr("csr_st.search.live.LARGE", 10**9)
    plain = SparseIndex.build(documents).search(queries, 10, boost=boost)
    assert np.array_equal(found.ids, plain.ids)
    assert np.array_equal(found.scores, plain.scores)


def test_additions_and_removals_are_seen_at_once():
    documents, queries = clustered(2000), clustered(8, seed=1)
    index = SparseIndex.build(documents[:1500])
    index.search(queries, 5)
    head = index._live.large_postings(16, index._collection.documents, 1).head
    for first in range(1500, 1800, 60):
        index.add(documents[first : first + 60])
        so_far = documents[: first + 60]
        assert_best(index.search(queries, 5), so_far, queries, 5)
    large = index._live.large_postings(16, index._collection.documents, 1)
    assert large.head is head  # few documents: not ordered anew
    gone = dense_best(documents[:1800], queries, 3)[0].ravel()
    index.remove(np.unique(gone))
    allowed = np.ones(1800, bool)
    allowed[gone] = False
    found = index.search(queries, 5)
    assert_best(found, documents[:1800], queries, 5, allowed)
    index.add(documents[1800:])
    index.search(queries, 5)
    large = index._live.large_postings(16, index._collection.documents, 1)
    assert large.head is not head
    assert large.tail is None


def test_an_approximate_search_has_the_recall_it_says(monkeypatch):
    documents, queries = clustered(6000, groups=300), clustered(200, seed=1, groups=300)
    index = SparseIndex.build(documents)
    exact = index.search(queries, 10)
    for asked in (0.99, 0.8):
        assert asked <= index.measured_recall(asked) <= 1
        found = index.search(queries, 10, approximate=asked)
        recall = (found.scores >= exact.scores[:, -1:] - 1e-6).mean()
        assert recall >= asked - 0.1
    assert index.measured_recall(1.0) == 1
    assert np.array_equal(index.search(queries, 10, approximate=1.0).scores, exact.scores)
    monkeypatch.setattr("csr_st.search.live.LARGE", 10**9)
    small = SparseIndex.build(documents)
    assert small.measured_recall(0.5) == 1
    assert np.array_equal(small.search(queries, 10, approximate=0.5).scores, exact.scores)


@pytest.mark.parametrize(
    ("approximate", "error", "message"),
    [(0, ValueError, "above 0"), (1.5, ValueError, "at most 1"), ("0.9", TypeError, "number"),
     (True, TypeError, "number"), (float("nan"), ValueError, "recall")],
)  # fmt: skip
def test_impossible_recalls_are_refused(approximate, error, message):
    index = SparseIndex.build(clustered(20))
    with pytest.raises(error, match=message):
        index.search(clustered(2), 3, approximate=approximate)


def test_codes_without_anything_in_common_are_searched_without_bounds(monkeypatch):
    monkeypatch.setattr("csr_st.search.large_postings._MOST_ENTRIES", 0.5)
    rng = np.random.default_rng(0)
    indices = np.argsort(rng.random((3000, 500)), axis=1)[:, :8].astype(np.uint16)
    documents = SparseCodes(indices, np.full((3000, 8), 0.3, np.float32), 500).normalize()
    index = SparseIndex.build(documents)
    assert_best(index.search(documents[:9], 4), documents, documents[:9], 4)
    assert not is_pruned(index, 8)


def test_saved_and_pickled_indexes_find_the_same(tmp_path):
    import pickle

    documents, queries = clustered(1200), clustered(8, seed=1)
    index = SparseIndex.build(documents)
    index.save(tmp_path / "index")
    for other in (SparseIndex.load(tmp_path / "index"), pickle.loads(pickle.dumps(index))):
        assert_best(other.search(queries, 5), documents, queries, 5)
