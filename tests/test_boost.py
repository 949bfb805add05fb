"""Steering: latents of codes raised, lowered, removed or brought in."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from csr_st import Decoder, SparseIndex
from csr_st.codes import SparseCodes


def codes_of(rng, n, k, hidden_dim=24):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k]
    values = rng.exponential(size=(n, k)).astype(np.float32)
    values[rng.random((n, k)) < 0.2] = 0
    return SparseCodes(indices, values, hidden_dim)


def unit(matrix):
    lengths = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def test_by_hand():
    codes = SparseCodes(np.array([[4, 1, 2]]), np.array([[3, 2, 1]], np.float32), 6)
    boosted = codes.boost({2: 5, 4: 0}, add={5: 4.0, 1: 0.5})
    assert boosted.to_dense().tolist() == [[0, 2.5, 5, 0, 0, 4]]
    assert boosted.indices[0, :3].tolist() == [2, 5, 1]
    assert codes.to_dense().tolist() == [[0, 2, 1, 0, 3, 0]]
    assert codes.boost({0: 9.0, 3: 0}).to_dense().tolist() == codes.to_dense().tolist()


@given(st.integers(0, 10**6), st.booleans())
def test_boosted_codes_are_those_of_the_dense_matrix(seed, normalized):
    rng = np.random.default_rng(seed)
    codes = codes_of(rng, 5, int(rng.integers(1, 25)))
    codes = codes.normalize() if normalized else codes
    factors = {int(latent): float(rng.choice([0, 0.5, 3])) for latent in rng.choice(24, 6)}
    add = {int(latent): float(rng.random()) for latent in rng.choice(24, 3)}
    dense = codes.to_dense().astype(np.float64)
    for latent, factor in factors.items():
        dense[:, latent] *= factor
    for latent, more in add.items():
        dense[:, latent] += more
    found = codes.boost(factors, add=add)
    expected = unit(dense) if normalized else dense
    np.testing.assert_allclose(found.to_dense(), expected, atol=1e-6)
    assert found.normalized == normalized
    assert (np.diff(found.values, axis=1) <= 0).all()
    if normalized:
        np.testing.assert_allclose(
            found.raw().to_dense(), dense * codes.norms[:, None], rtol=1e-5, atol=1e-6
        )


def test_a_search_with_boost_is_the_product_of_scipy(rng):
    pytest.importorskip("numba")
    documents, queries = codes_of(rng, 200, 6), codes_of(rng, 7, 12)
    boost = {3: 4.0, 5: 0, 9: 0.25}
    diagonal = np.ones(24)
    diagonal[list(boost)] = list(boost.values())
    steered = unit((queries.to_scipy() @ scipy.sparse.diags(diagonal)).toarray())
    expected = steered @ unit(documents.to_dense()).T
    index = SparseIndex.build(documents)
    for given_codes in (queries, queries.normalize()):
        found = index.search(given_codes, 200, boost=boost)
        for row in range(7):
            np.testing.assert_allclose(found.scores[row], expected[row, found.ids[row]], atol=1e-6)
            assert (np.diff(found.scores[row]) <= 0).all()
        same = index.search(given_codes.boost(boost), 200)
        assert (same.ids == found.ids).all()
    plain = index.search(queries, 10)
    assert (index.search(queries, 10, boost={}).ids == plain.ids).all()


def test_a_forbidden_latent_no_longer_finds_a_document():
    pytest.importorskip("numba")
    documents = SparseCodes(np.array([[0], [1], [2]]), np.ones((3, 1), np.float32), 4)
    query = SparseCodes(np.array([[0, 1]]), np.array([[2, 1]], np.float32), 4)
    index = SparseIndex.build(documents, ["wing", "bread", "dam"])
    assert index.search(query, 1).ids[0, 0] == "wing"
    found = index.search(query, 3, boost={0: 0})
    assert found.ids[0, 0] == "bread"
    assert found.scores[0].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    none = index.search(query, 3, boost={0: 0, 1: 0})
    assert (none.scores == 0).all()
    more = index.search(query.boost({}, add={2: 9.0}), 1)
    assert more.ids[0, 0] == "dam"


def test_boost_and_words_add_up(rng):
    for name in ("numba", "bm25s", "Stemmer"):
        pytest.importorskip(name)
    codes = codes_of(rng, 20, 4)
    index = SparseIndex.build(codes, words=[f"word{row % 3}" for row in range(20)])
    boost = {1: 0, 2: 3.0}
    both = index.search(codes[:1], 20, words=["word1"], boost=boost)
    steered = index.search(codes[:1], 20, boost=boost)
    words = index.search(None, 20, words=["word1"])
    scores = np.zeros(20)
    for part in (steered, words):
        scores[part.ids[0]] += part.scores[0]
    np.testing.assert_allclose(both.scores[0], scores[both.ids[0]], atol=1e-6)


def test_types_stay_and_k_grows_to_the_latents_of_the_head(rng):
    codes = codes_of(rng, 4, 3).normalize().astype("float16")
    assert codes.boost({1: 2}).values.dtype == np.float16
    assert codes.boost({1: 2}).k == 3
    assert codes.boost({}, add={1: 1, 2: 1}).k == 5
    full = codes_of(rng, 4, 24)
    assert full.boost({}, add={1: 1}).k == 24
    none = codes_of(rng, 0, 3).boost({1: 2.0})
    assert len(none) == 0


def test_what_cannot_be_boosted_is_refused(rng):
    codes = codes_of(rng, 4, 3)
    with pytest.raises(ValueError, match="latent=24 exceeds the last one, 23"):
        codes.boost({24: 2})
    with pytest.raises(TypeError, match="latent='wing' is not an integer"):
        codes.boost({"wing": 2})
    for factor in (-1, float("nan"), float("inf"), 1e7):
        with pytest.raises(ValueError, match=r"the factor of latent 3 is .*; pass one within 0"):
            codes.boost({3: factor})
        with pytest.raises(ValueError, match=r"the add of latent 3 is .*; pass one within 0"):
            codes.boost({}, add={3: factor})
    for factor in ("2", None, True):
        with pytest.raises(TypeError, match=r"the factor of latent 3 is .*; pass a number >= 0"):
            codes.boost({3: factor})
    with pytest.raises(TypeError, match=r"factor=\[3\] must be a dict from latents to numbers"):
        codes.boost([3])
    with pytest.raises(ValueError, match="magnitudes are finite"):
        codes.astype("float16").boost({int(codes.indices[0, 0]): 1e6})


def test_a_search_refuses_a_boost_that_has_nothing_to_act_on(rng):
    pytest.importorskip("numba")
    codes = codes_of(rng, 4, 3)
    decoder = Decoder(rng.normal(size=(24, 5)).astype(np.float32), np.zeros(5, np.float32))
    index = SparseIndex.build(codes, decoder=decoder)
    dense = rng.normal(size=(4, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="but rescore=4 ranks by their dense vectors"):
        index.search(codes, 2, rescore=4, queries_dense=dense, boost={1: 2})
    with pytest.raises(TypeError, match="applies to latents, but the query codes are NoneType"):
        index.search(None, 2, words=["a"], boost={1: 2})
    with pytest.raises(ValueError, match="latent=24 exceeds"):
        index.search(codes, 2, boost={24: 2})
