"""The exact index against the scipy product, on codes with every special case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex

pytest.importorskip("numba")


def random_codes(rng, n, k, hidden_dim, skew=0.0):
    """Random codes of unit norm; with skew, low latents are used more often."""
    noise = rng.gumbel(size=(n, hidden_dim)) - skew * np.log(np.arange(1, hidden_dim + 1))
    indices = np.argsort(-noise, axis=1)[:, :k].astype(np.uint32)
    values = np.sort(rng.exponential(size=(n, k)).astype(np.float32) + 0.05, axis=1)[:, ::-1]
    return SparseCodes(indices, np.ascontiguousarray(values), hidden_dim).normalize()


def expected_scores(queries, documents, k=None):
    documents = documents.prefix(k) if k else documents
    return (queries.to_scipy() @ documents.to_scipy().T).toarray()


def assert_exact(results, scores, top_k):
    """Best scores, each the score of its id, and lower position first where scores are equal."""
    best = -np.sort(-scores, axis=1)[:, :top_k]
    np.testing.assert_allclose(results.scores, best, atol=1e-5)
    claimed = np.take_along_axis(scores, results.ids, axis=1)
    np.testing.assert_allclose(results.scores, claimed, atol=1e-5)
    for ids, row in zip(results.ids, results.scores, strict=True):
        assert len(set(ids)) == top_k
        equal = row[1:] == row[:-1]
        assert (ids[1:][equal] > ids[:-1][equal]).all()
        assert (row[1:] <= row[:-1]).all()


@pytest.mark.parametrize(
    ("n", "k", "hidden_dim", "skew"),
    [(300, 4, 64, 0.0), (20_000, 8, 96, 0.0), (20_000, 8, 96, 1.5), (33_000, 2, 700, 0.5)],
)
def test_equals_scipy_product(n, k, hidden_dim, skew):
    rng = np.random.default_rng(n + k)
    documents = random_codes(rng, n, k, hidden_dim, skew)
    queries = random_codes(rng, 20, 2 * k, hidden_dim, skew)
    results = SparseIndex.build(documents).search(queries, top_k=10)
    scores = expected_scores(queries, documents)
    assert_exact(results, scores, 10)
    clear = np.diff(-np.sort(-scores, axis=1)[:, :11], axis=1).max(axis=1) < -1e-6
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(results.ids[clear], expected[clear])


@pytest.mark.parametrize("top_k", [65, 700, 17_000])
def test_many_results_of_several_blocks(top_k):
    rng = np.random.default_rng(top_k)
    documents = random_codes(rng, 33_000, 4, 40)
    queries = random_codes(rng, 3, 8, 40)
    results = SparseIndex.build(documents).search(queries, top_k=top_k)
    assert_exact(results, expected_scores(queries, documents), top_k)


@st.composite
def codes_pairs(draw):
    """Documents and queries with empty rows, short rows, duplicates and equal values."""
    hidden_dim = draw(st.integers(1, 12))

    def codes(n, k):
        rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        levels = draw(st.sampled_from([1, 2, 5, 1000]))
        values = rng.integers(0, levels + 1, size=(n, k)) / levels
        values = -np.sort(-values.astype(np.float32), axis=1)
        order = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k]
        if draw(st.booleans()):
            order[:] = order[0]
        repeat = rng.integers(0, n, size=n) if draw(st.booleans()) else np.arange(n)
        made = SparseCodes(order[repeat].astype(np.uint8), values[repeat], hidden_dim)
        return made.normalize() if draw(st.booleans()) else made

    n = draw(st.integers(1, 40))
    return (
        codes(n, draw(st.integers(1, hidden_dim))),
        codes(draw(st.integers(1, 5)), draw(st.integers(1, hidden_dim))),
    )


@settings(max_examples=150, deadline=None)
@given(codes_pairs(), st.data())
def test_equals_scipy_product_on_any_codes(pair, data):
    documents, queries = pair
    top_k = data.draw(st.integers(1, len(documents)))
    k = data.draw(st.integers(1, documents.k))
    results = SparseIndex.build(documents).search(queries, top_k=top_k, k=k)
    scores = expected_scores(queries.normalize(), documents.normalize(), k)
    assert_exact(results, scores, top_k)


def test_many_equal_documents_give_the_lowest_ids():
    row = SparseCodes(np.array([[3, 1]]), np.array([[0.8, 0.6]], np.float32), 5, np.ones(1, "f4"))
    documents = SparseCodes.concatenate([row] * 20_000)
    results = SparseIndex.build(documents).search(row, top_k=5)
    np.testing.assert_array_equal(results.ids, [[0, 1, 2, 3, 4]])
    np.testing.assert_allclose(results.scores, 1.0, atol=1e-6)


def test_documents_without_a_shared_latent_fill_up_by_position():
    documents = SparseCodes(
        np.array([[1], [0], [1], [0]]), np.ones((4, 1), np.float32), 2, np.ones(4, np.float32)
    )
    query = SparseCodes(np.array([[1]]), np.ones((1, 1), np.float32), 2, np.ones(1, np.float32))
    results = SparseIndex.build(documents).search(query, top_k=4)
    np.testing.assert_array_equal(results.ids, [[0, 2, 1, 3]])
    np.testing.assert_array_equal(results.scores, [[1, 1, 0, 0]])


@pytest.mark.parametrize("n", [20, 16 * 16_384])  # with so many, threads search ranges of blocks
def test_no_query_gives_no_row(n):
    documents = random_codes(np.random.default_rng(0), n, 2, 10)
    results = SparseIndex.build(documents).search(documents[:0], top_k=3, threads=2)
    assert results.ids.shape == results.scores.shape == (0, 3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_results(threads):
    rng = np.random.default_rng(5)
    documents = random_codes(rng, 150_000, 2, 40)
    queries = random_codes(rng, 3, 4, 40)
    index = SparseIndex.build(documents)
    results = index.search(queries, top_k=7, threads=threads)
    assert_exact(results, expected_scores(queries, documents), 7)
    one = index.search(queries[0], top_k=7, threads=threads)
    np.testing.assert_array_equal(one.ids[0], results.ids[0])
