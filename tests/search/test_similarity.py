"""Search by dot product, for codes that are not of unit norm, against the scipy product."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st._io.tensor_files import open_tensors
from csr_st.codes import SparseCodes
from csr_st.search import HybridVectors, SparseIndex, explain

pytest.importorskip("numba")

HIDDEN_DIM = 30


def random_codes(rng, n, k, hidden_dim=HIDDEN_DIM, spread=1.0):
    """Codes without norms, of lengths that differ by factors, and some empty rows."""
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint16)
    values = rng.exponential(size=(n, k)) * np.exp(spread * rng.normal(size=(n, 1)))
    values[rng.random(n) < 0.1] = 0
    return SparseCodes(indices, -np.sort(-values.astype(np.float32), axis=1), hidden_dim)


def products(queries, documents, dtype=np.float64):
    """(queries, documents) dot products of the values as they are."""
    return queries.to_dense().astype(dtype) @ documents.to_dense().astype(dtype).T


def assert_exact(found, scores, top_k):
    """The best scores, each that of its id; a value is stored to 6e-8 of its row's norm."""
    near = {"rtol": 1e-5, "atol": 1e-6 * scores.max(initial=0)}
    best = -np.sort(-scores, axis=1)[:, :top_k]
    np.testing.assert_allclose(found.scores, best, **near)
    claimed = np.take_along_axis(scores, found.ids, axis=1)
    np.testing.assert_allclose(found.scores, claimed, **near)
    assert all(len(set(row)) == top_k for row in found.ids.tolist())


@pytest.fixture
def documents(rng):
    return random_codes(rng, 300, 6)


@pytest.fixture
def queries(rng):
    return random_codes(rng, 20, 9)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_equals_the_scipy_product_on_any_codes(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    spread = draw(st.sampled_from([0.0, 1.0, 8.0]))
    documents = random_codes(rng, draw(st.integers(1, 40)), draw(st.integers(1, 12)), spread=spread)
    queries = random_codes(rng, draw(st.integers(0, 5)), draw(st.integers(1, 12)), spread=spread)
    top_k, k = draw(st.integers(1, len(documents))), draw(st.integers(1, documents.k))
    index = SparseIndex.build(documents, similarity="dot")
    found = index.search(queries, top_k=top_k, k=k)
    scores = products(queries, documents.prefix(k))
    for query in range(len(queries)):  # their lengths differ by as much
        one = slice(query, query + 1)
        part = type(found)(found.ids[one], found.scores[one])
        assert_exact(part, scores[one], top_k)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("k", [None, 2])
def test_equals_the_scipy_product_over_many_blocks(rng, threads, k):
    documents, queries = random_codes(rng, 40_000, 8, 96), random_codes(rng, 20, 20, 96)
    found = SparseIndex.build(documents, similarity="dot").search(
        queries, top_k=25, k=k, threads=threads
    )
    stored = documents if k is None else documents.prefix(k)
    assert_exact(found, products(queries, stored), 25)
    cosine = SparseIndex.build(documents).search(queries, top_k=25, k=k)
    assert (cosine.ids != found.ids).any()


def test_long_documents_rank_by_their_values():
    """By hand: the cosine prefers the first, the dot product the second."""
    documents = SparseCodes(
        np.array([[0, 1], [0, 1]]), np.array([[1, 0], [2, 2]], np.float32), hidden_dim=2
    )
    query = SparseCodes(np.array([[0]]), np.array([[3]], np.float32), hidden_dim=2)
    found = SparseIndex.build(documents, similarity="dot").search(query, top_k=2)
    np.testing.assert_array_equal(found.ids, [[1, 0]])
    np.testing.assert_allclose(found.scores, [[6, 3]], rtol=1e-6)
    found = SparseIndex.build(documents).search(query, top_k=2)
    np.testing.assert_array_equal(found.ids, [[0, 1]])


@pytest.mark.parametrize("value", [1e-6, 1.0, 1e9])
def test_as_many_equal_values_as_an_index_takes(value):
    codes = SparseCodes(
        np.tile(np.arange(1024), (3, 1)),
        np.full((3, 1024), value, np.float32) * np.array([[1], [2], [0.5]], np.float32),
        hidden_dim=1024,
    )
    found = SparseIndex.build(codes, similarity="dot").search(codes, top_k=3)
    np.testing.assert_array_equal(found.ids, [[1, 0, 2]] * 3)
    np.testing.assert_allclose(found.scores[0], 1024 * value**2 * np.array([2, 1, 0.5]), rtol=1e-5)


@pytest.mark.parametrize("value_bits", [4, 8])
def test_packed_codes_have_the_values_of_their_unpacked_ones(documents, queries, value_bits):
    packed = documents.pack(value_bits)
    index = SparseIndex.build(packed, similarity="dot")
    found = index.search(queries, top_k=40)
    assert_exact(found, products(queries, packed.unpack()), 40)


@pytest.mark.parametrize("as_bools", [True, False])
def test_a_filter(documents, queries, as_bools):
    index = SparseIndex.build(documents, similarity="dot")
    kept = np.arange(len(documents)) % 3 == 0
    found = index.search(queries, top_k=20, filter=kept if as_bools else np.flatnonzero(kept))
    scores = products(queries, documents)
    scores[:, ~kept] = -1
    assert_exact(found, scores, 20)


def test_a_boost_multiplies_shares(documents, queries):
    index = SparseIndex.build(documents, similarity="dot")
    dense = queries.to_dense()
    latent = int(queries.indices[0, 0])
    dense[:, latent] *= 5
    found = index.search(queries, top_k=30, boost={latent: 5.0})
    assert_exact(found, dense @ documents.to_dense().T.astype(np.float64), 30)


def test_added_and_removed_documents(rng, documents, queries):
    more = random_codes(rng, 50, 6, spread=2.0)
    index = SparseIndex.build(documents, similarity="dot")
    index.search(queries, top_k=5)
    index.add(more)
    index.remove(range(100))
    scores = products(queries, SparseCodes.concatenate([documents, more]))
    scores[:, :100] = -1
    assert_exact(index.search(queries, top_k=30), scores, 30)


@pytest.mark.parametrize("value_bits", [None, 8])
def test_the_file_says_so(documents, queries, tmp_path, value_bits):
    codes = documents if value_bits is None else documents.pack(value_bits)
    index = SparseIndex.build(codes, similarity="dot")
    assert "similarity='dot'" in repr(index)
    index.save(tmp_path / "dot.index")
    loaded = SparseIndex.load(tmp_path / "dot.index")
    assert loaded.similarity == "dot"
    expected, found = index.search(queries, top_k=9), loaded.search(queries, top_k=9)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    # A version that ranks by cosine alone refuses it.
    assert open_tensors(tmp_path / "dot.index").metadata["version"] == "4"


@pytest.mark.parametrize(("value_bits", "version"), [(None, "1"), (8, "2")])
def test_a_file_without_a_similarity_opens_as_before(documents, tmp_path, value_bits, version):
    codes = documents if value_bits is None else documents.pack(value_bits)
    SparseIndex.build(codes).save(tmp_path / "cosine.index")
    metadata = open_tensors(tmp_path / "cosine.index").metadata
    assert metadata["version"] == version
    assert "similarity" not in metadata
    assert SparseIndex.load(tmp_path / "cosine.index").similarity == "cosine"


def test_the_shares_of_a_score_add_up_to_it(documents, queries):
    index = SparseIndex.build(documents, similarity="dot")
    for k in (None, 3):
        found = index.search(queries[1], top_k=1, k=k)
        name = int(found.ids[0, 0])
        made = explain(index, queries[1], name, k=k)
        assert made.score == pytest.approx(float(found.scores[0, 0]), rel=1e-5)
        latent = made.latents[0].latent
        product = queries[1].to_dense()[0, latent] * documents[name].to_dense()[0, latent]
        assert made.latents[0].share == pytest.approx(float(product), rel=1e-5)


def test_what_is_not_possible_is_refused(documents, queries, tmp_path):
    with pytest.raises(ValueError, match="similarity='l2' is unknown; pass 'cosine' or 'dot'"):
        SparseIndex.build(documents, similarity="l2")
    unit = documents.normalize()
    for codes in (unit, unit.pack(4)):
        with pytest.raises(ValueError, match=r"the codes have unit norm, but similarity='dot'"):
            SparseIndex.build(codes, similarity="dot")
    index = SparseIndex.build(documents, similarity="dot")
    with pytest.raises(ValueError, match=r"pass codes\.raw\(\)"):
        index.add(unit)
    index.add(unit.raw())
    huge = SparseCodes(np.zeros((1, 1), int), np.full((1, 1), 1e20, np.float32), HIDDEN_DIM)
    with pytest.raises(ValueError, match=r"row 0 of the query codes has norm 1e\+20; a dot prod"):
        index.search(huge, top_k=1)
    with pytest.raises(ValueError, match=r"row 0 of the codes has norm 1e\+20; a dot product"):
        SparseIndex.build(huge, similarity="dot")


class TestWords:
    """Words beside codes that are compared by dot product."""

    @pytest.fixture(autouse=True)
    def _needed(self):
        pytest.importorskip("bm25s")
        pytest.importorskip("Stemmer")

    @pytest.mark.parametrize("weight", [0.0, 0.5, 40.0])
    def test_the_score_is_the_sum(self, rng, weight, tmp_path):
        from word_scores import bm25s_product, random_texts

        n = 20_000
        documents, queries = random_codes(rng, n, 5), random_codes(rng, 10, 9)
        texts, asked = random_texts(rng, n, 15), random_texts(rng, 10, 8)
        index = SparseIndex.build(documents, words=texts, weight=weight, similarity="dot")
        scores = products(queries, documents) + weight * bm25s_product(texts, asked)
        assert_exact(index.search(queries, 15, words=asked), scores, 15)
        index.save(tmp_path / "dot.index")
        loaded = SparseIndex.load(tmp_path / "dot.index")
        assert loaded.similarity == "dot"
        assert_exact(loaded.search(queries, 15, words=asked), scores, 15)
        only = bm25s_product(texts, asked)
        assert_exact(loaded.search(None, 15, words=asked, weight=1.0), only, 15)

    def test_vectors_for_databases_have_the_same_scores(self, rng, tmp_path):
        from word_scores import bm25s_product, random_texts

        documents, queries = random_codes(rng, 60, 5), random_codes(rng, 10, 9)
        texts, asked = random_texts(rng, 60, 15), random_texts(rng, 10, 8)
        index = SparseIndex.build(documents, words=texts, weight=2.0, similarity="dot")
        scores = products(queries, documents) + 2 * bm25s_product(texts, asked)
        HybridVectors.of(index).save(tmp_path / "vectors")
        built = HybridVectors.build(texts, HIDDEN_DIM, weight=2.0, similarity="dot")
        for vectors in (HybridVectors.of(index), HybridVectors.load(tmp_path / "vectors"), built):
            for stored in (vectors.documents(documents, texts), vectors.documents_of(index)):
                found = (vectors.queries(queries, asked) @ stored.T).toarray()
                np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-5)

    def test_words_alone_have_none(self):
        with pytest.raises(ValueError, match="similarity='dot' applies to codes; pass"):
            SparseIndex.build(words=["a"], similarity="dot")
