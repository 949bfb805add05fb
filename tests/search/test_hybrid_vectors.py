"""Codes and words as one sparse vector: the scores of the index, by a product of matrices."""

import copy
import math
import pickle
import zlib

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.search import HybridVectors, SparseIndex

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from word_scores import HIDDEN_DIM, expected, random_codes, random_texts, texts


def product(queries, documents):
    return (queries @ documents.T).toarray()


@settings(max_examples=60, deadline=None)
@given(texts(), texts(most=4), st.sampled_from([0.0, 0.15, 30.0]), st.integers(0, 2**16))
def test_the_dot_product_is_that_of_codes_and_bm25s(documents, queries, weight, seed):
    rng = np.random.default_rng(seed)
    codes, asked = random_codes(rng, len(documents)), random_codes(rng, len(queries), 9)
    scores = expected(codes, asked, documents, queries, weight)
    index = SparseIndex.build(codes, words=documents, weight=weight)
    for vectors in (
        HybridVectors.of(index),
        HybridVectors.build(documents, HIDDEN_DIM, weight=weight),
    ):
        stored = vectors.documents(codes, documents)
        assert stored.shape == (len(documents), vectors.dim)
        assert stored.dtype == np.float32
        found = product(vectors.queries(asked, queries), stored)
        np.testing.assert_allclose(found, scores, atol=2e-6, rtol=1e-5)


@pytest.fixture
def changed():
    """An index to which documents were added and from which others were removed, and these."""
    rng = np.random.default_rng(5)
    codes, words = random_codes(rng, 400), random_texts(rng, 400)
    index = SparseIndex.build(codes[:300], words=words[:300])
    index.add(codes[300:], words=words[300:])
    index.remove(range(100))
    return index, codes[100:], words[100:]


def test_the_documents_of_an_index_with_its_scores(changed):
    index, codes, words = changed
    rng = np.random.default_rng(6)
    asked, queries = random_codes(rng, 30, 9), random_texts(rng, 30, 12)
    vectors = HybridVectors.of(index)
    stored = vectors.documents_of(index)
    assert vectors.dim == HIDDEN_DIM + len({word for text in words for word in text.split()})
    np.testing.assert_allclose(
        stored.toarray(), vectors.documents(codes, words).toarray(), atol=1e-7
    )
    for weight in (None, 2.0):
        results = index.search(asked, 10, words=queries, weight=weight)
        scores = product(vectors.queries(asked, queries, weight), stored)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        np.testing.assert_array_equal(index.ids[best], results.ids)
        found = np.take_along_axis(scores, best, axis=1)
        np.testing.assert_allclose(found, results.scores, atol=1e-6, rtol=1e-6)


def test_either_part_may_be_missing(changed):
    index, codes, words = changed
    vectors = HybridVectors.of(index)
    both = vectors.documents(codes, words)
    parts = vectors.documents(codes), vectors.documents(words=words)
    np.testing.assert_array_equal((parts[0] + parts[1]).toarray(), both.toarray())
    asked = vectors.queries(codes[:5], words[:5])
    parts = vectors.queries(codes[:5]), vectors.queries(words=words[:5])
    np.testing.assert_array_equal((parts[0] + parts[1]).toarray(), asked.toarray())
    alone = HybridVectors.build(words)
    assert alone.hidden_dim == 0
    found = product(alone.queries(words=words[:5]), alone.documents(words=words))
    results = SparseIndex.build(words=words).search(words=words[:5], top_k=3)
    np.testing.assert_allclose(-np.sort(-found, axis=1)[:, :3], results.scores, rtol=1e-5)
    with pytest.raises(ValueError, match=r"there are no queries; pass codes, words=texts, or both"):
        vectors.queries()


def test_later_documents_are_scored_by_the_statistics_of_the_first():
    vectors = HybridVectors.build(["a b", "a a c d"], language=str.split, weight=1.0)
    late = vectors.documents(words=["a a new new new new", "b"]).toarray()
    # Two documents of 3 words on average; "a" is in both and "b" in one. k1 0.9, b 0.4.
    of_a = 2 / (2 + 0.9 * (0.6 + 0.4 * 6 / 3))
    of_b = 1 / (1 + 0.9 * (0.6 + 0.4 * 1 / 3))
    np.testing.assert_allclose(late, [[of_a, 0, 0, 0], [0, of_b, 0, 0]], rtol=1e-6)
    asked = vectors.queries(words=["b new"]).toarray()
    idf = math.log(1 + (2 - 1 + 0.5) / (1 + 0.5))
    np.testing.assert_allclose(asked, [[0, idf / math.sqrt(2), 0, 0]], rtol=1e-6)


def test_words_by_hash_are_those_of_an_index_of_their_buckets(changed):
    _, codes, words = changed

    def buckets(text):
        return [str(zlib.crc32(word.encode()) % 64) for word in text.split()]

    index = SparseIndex.build(codes, words=words, language=str.split)
    vectors = HybridVectors.of(index, buckets=64)
    assert vectors.dim == HIDDEN_DIM + 64
    reference = SparseIndex.build(codes, words=words, language=buckets)
    results = reference.search(codes[:20], 10, words=words[:20])
    found = product(vectors.queries(codes[:20], words[:20]), vectors.documents(codes, words))
    best = -np.sort(-found, axis=1)[:, :10]
    np.testing.assert_allclose(best, results.scores, atol=1e-6, rtol=1e-6)
    stored = vectors.documents_of(index)
    assert abs(stored - vectors.documents(codes, words)).max() < 1e-7
    # A word that no earlier document has is found in a later one.
    bucket = zlib.crc32(b"unheard") % 2**20
    wide = HybridVectors.build(words, language=str.split, buckets=2**20)
    late, asked = wide.documents(words=["unheard"]), wide.queries(words=["unheard"])
    assert late.indices.tolist() == asked.indices.tolist() == [bucket]


@pytest.mark.parametrize("buckets", [None, 100])
def test_a_file_gives_the_same_vectors(changed, tmp_path, buckets):
    index, codes, words = changed
    vectors = HybridVectors.of(index, buckets)
    vectors.save(tmp_path / "vectors.safetensors")
    again = HybridVectors.load(tmp_path / "vectors.safetensors")
    assert repr(again) == repr(vectors)
    for one, other in (
        (vectors.documents(codes, words), again.documents(codes, words)),
        (vectors.queries(codes, words), again.queries(codes, words)),
    ):
        np.testing.assert_array_equal(one.toarray(), other.toarray())


def test_a_function_that_splits_is_given_again(tmp_path):
    path = tmp_path / "vectors.safetensors"
    HybridVectors.build(["a b", "c"], language=str.split).save(path)
    with pytest.raises(ValueError, match="split by a function"):
        HybridVectors.load(path).queries(words=["a"])
    found = HybridVectors.load(path, language=str.split).queries(words=["c"])
    assert found.indices.tolist() == [2]
    with pytest.raises(ValueError, match="language='german' is not that of the file"):
        HybridVectors.load(path, language="german")


def test_other_and_damaged_files_are_refused(changed, tmp_path):
    index, codes, _ = changed
    path, other = tmp_path / "vectors.safetensors", tmp_path / "codes.safetensors"
    codes.save(other)
    with pytest.raises(ValueError, match=r"is not a csr_st\.hybrid_vectors file"):
        HybridVectors.load(other)
    with pytest.raises(FileNotFoundError):
        HybridVectors.load(path)
    HybridVectors.of(index).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\0")
    with pytest.raises(ValueError, match="is altered"):
        HybridVectors.load(path)
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"cut short|damaged"):
        HybridVectors.load(path)
    newer = content.replace(b'"version": "1"', b'"version": "9"')
    assert newer != content
    path.write_bytes(newer)
    with pytest.raises(ValueError, match=r"format version 9.*pip install -U"):
        HybridVectors.load(path)


def test_what_does_not_fit_is_named(changed):
    index, codes, words = changed
    vectors = HybridVectors.of(index)
    with pytest.raises(ValueError, match="codes of the documents have hidden_dim=7, these vect"):
        vectors.documents(random_codes(np.random.default_rng(0), 3, 2, hidden_dim=7), words[:3])
    with pytest.raises(ValueError, match="there are 2 texts for 3 queries"):
        vectors.queries(codes[:3], words[:2])
    with pytest.raises(ValueError, match="this index has no words"):
        HybridVectors.of(SparseIndex.build(codes))
    with pytest.raises(ValueError, match="of the index have hidden_dim=30, these vectors 8"):
        HybridVectors.build(words, 8).documents_of(index)
    with pytest.raises(ValueError, match="buckets=0 is not within 1"):
        HybridVectors.of(index, buckets=0)
    with pytest.raises(TypeError, match="hidden_dim='8' is a str"):
        HybridVectors.build(words, "8")


def test_vectors_are_copied_and_pickled(changed):
    index, codes, words = changed
    vectors = HybridVectors.of(index)
    for again in (copy.deepcopy(vectors), pickle.loads(pickle.dumps(vectors))):
        assert abs(again.queries(codes, words) - vectors.queries(codes, words)).max() == 0


def test_empty_collections():
    vectors = HybridVectors.build([], 4)
    assert vectors.dim == 4
    code = SparseCodes(np.array([[2]]), np.array([[1]], np.float32), 4)
    assert vectors.queries(code, ["word"]).toarray().tolist() == [[0, 0, 1, 0]]
    assert scipy.sparse.issparse(vectors.documents(words=[]))
    assert vectors.documents(words=[]).shape == (0, 4)
