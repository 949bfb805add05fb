"""Search by codes and words: exact, by the weights of bm25s, for any texts."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.search import Decoder, SparseIndex

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from word_scores import HIDDEN_DIM, bm25s_product, expected, random_codes, random_texts, texts


def assert_exact(results, scores, top_k):
    best = -np.sort(-scores, axis=1)[:, :top_k]
    np.testing.assert_allclose(results.scores, best, atol=2e-6, rtol=1e-5)
    claimed = np.take_along_axis(scores, results.ids, axis=1)
    np.testing.assert_allclose(results.scores, claimed, atol=2e-6, rtol=1e-5)
    assert all(len(set(row)) == top_k for row in results.ids.tolist())


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@settings(max_examples=150, deadline=None)
@given(texts(), texts(most=4), st.data())
def test_equals_the_product_of_the_concatenated_matrices(documents, queries, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    weight = data.draw(st.sampled_from([0.0, 0.01, 0.15, 1, 30.0]))
    codes = random_codes(rng, len(documents)) if data.draw(st.booleans()) else None
    asked = random_codes(rng, len(queries), 9) if codes is not None else None
    index = SparseIndex.build(codes, words=documents)
    top_k = data.draw(st.integers(1, len(documents)))
    scores = expected(codes, asked, documents, queries, weight)
    assert_exact(index.search(asked, top_k, words=queries, weight=weight), scores, top_k)
    if codes is not None:  # either part of a query may be missing
        scores = expected(None, None, documents, queries, weight)
        assert_exact(index.search(None, top_k, words=queries, weight=weight), scores, top_k)
        found = index.search(asked, top_k)
        alone = SparseIndex.build(codes).search(asked, top_k)
        np.testing.assert_array_equal(found.ids, alone.ids)
        np.testing.assert_array_equal(found.scores, alone.scores)


@pytest.mark.parametrize("threads", [1, 3])
def test_equals_the_product_over_many_blocks(rng, threads):
    documents, queries = random_codes(rng, 40_000), random_codes(rng, 20, 12)
    texts, asked = random_texts(rng, 40_000, 15), random_texts(rng, 20, 8)
    index = SparseIndex.build(documents, words=texts)
    scores = expected(documents, queries, texts, asked, 0.15)
    assert_exact(index.search(queries, 25, words=asked, threads=threads), scores, 25)
    scores = expected(documents.prefix(2), queries, texts, asked, 0.15)
    assert_exact(index.search(queries, 5, k=2, words=asked, threads=threads), scores, 5)
    kept = rng.random(40_000) < 0.01
    found = index.search(queries, 5, words=asked, filter=kept, weight=2, threads=threads)
    scores = expected(documents, queries, texts, asked, 2)
    assert_exact(found, np.where(kept, scores, -1), 5)


def test_one_document_of_100000_words(rng):
    texts = [
        "fox " * 100_000,
        " ".join(f"w{n}" for n in range(100_000)),
        "fox w17",
        "",
        "w5 " * 256,
    ]
    asked = ["fox", "w17 fox", "w5 w5 w5", texts[1]]
    index = SparseIndex.build(words=texts)
    assert_exact(index.search(words=asked, top_k=5), expected(None, None, texts, asked, 0.15), 5)


def test_a_document_as_the_query(rng):
    texts = random_texts(rng, 20_000, 400, 30_000)
    texts += [" ".join(texts[:50])]
    asked = [texts[-1], texts[3]]
    documents, queries = random_codes(rng, len(texts)), random_codes(rng, 2, 12)
    index = SparseIndex.build(documents, words=texts)
    scores = expected(documents, queries, texts, asked, 0.15)
    assert_exact(index.search(queries, words=asked), scores, 10)


def test_words_by_hand():
    index = SparseIndex.build(words=["cat dog dog", "cat", ""], ids=["a", "b", "c"])
    found = index.search(words=["dogs dogs unseen cats"], top_k=3, weight=1)
    damping = [0.9 * (0.6 + 0.4 * length / (4 / 3)) for length in (3, 1)]
    dog, cat = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    first = 2 * dog * 2 / (2 + damping[0]) + cat / (1 + damping[0])
    np.testing.assert_allclose(
        found.scores[0], [first / 2, cat / (1 + damping[1]) / 2, 0], rtol=1e-6
    )
    assert found.ids[0].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_rescoring_keeps_the_share_of_the_words(rng, metric):
    documents, queries = random_codes(rng, 300), random_codes(rng, 6, 9)
    texts, asked = random_texts(rng, 300), random_texts(rng, 6, 8)
    decoder = Decoder(rng.normal(size=(HIDDEN_DIM, 8)), rng.normal(size=8))
    index = SparseIndex.build(documents, decoder=decoder, words=texts)
    rescoring = {"rescore": 300, "queries_dense": rng.normal(size=(6, 8)), "metric": metric}
    by_decoder = index.search(queries, 300, **rescoring)
    scores = 0.15 * bm25s_product(texts, asked)
    np.put_along_axis(
        scores,
        by_decoder.ids,
        np.take_along_axis(scores, by_decoder.ids, 1) + by_decoder.scores,
        1,
    )
    found = index.search(queries, 300, words=asked, **rescoring)
    claimed = np.take_along_axis(scores, found.ids, 1)
    np.testing.assert_allclose(found.scores, claimed, atol=1e-5)
    np.testing.assert_allclose(found.scores, -np.sort(-scores, 1), atol=1e-5)
    # With few candidates, queries that share nothing with documents rescore all of them.
    few = {**rescoring, "rescore": 10}
    nothing = index.search(random_codes(rng, 6)._with(values=np.zeros((6, 4), "f4")), 3, **few,
                           words=[""] * 6)  # fmt: skip
    np.testing.assert_array_equal(nothing.ids, by_decoder.ids[:, :3])


def test_a_function_in_place_of_a_language():
    index = SparseIndex.build(words=["东京塔", "北京", "x"], language=list)
    assert index.search(words=["京"], top_k=3).ids.tolist() == [[1, 0, 2]]
    assert repr(index) == "SparseIndex(n=3, words='function')"


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [("german", "Die Häuser", "Haus häuser"), ("finnish", "talossa", "talo")],
)
def test_languages_have_their_stems(language, text, query):
    index = SparseIndex.build(words=["x1", text], language=language)
    assert index.search(words=[query], top_k=1).ids.tolist() == [[1]]
    assert index.search(words=[query], top_k=1).scores[0, 0] > 0
    assert index.language == language


def test_stop_words_count_for_nothing():
    index = SparseIndex.build(words=["the cat", "the and of", ""])
    np.testing.assert_array_equal(index.search(words=["the of"], top_k=3).scores, 0)
    same = index.search(words=["the cat", "cat"], top_k=3)
    np.testing.assert_array_equal(same.scores[0], same.scores[1])


def test_the_weight_of_the_index_is_that_of_a_search_without_one(rng):
    documents, queries = random_codes(rng, 30), random_codes(rng, 3)
    texts, asked = random_texts(rng, 30), random_texts(rng, 3)
    index = SparseIndex.build(documents, words=texts, weight=0.7)
    assert index.weight == 0.7
    found = index.search(queries, words=asked)
    np.testing.assert_array_equal(
        found.scores, index.search(queries, words=asked, weight=0.7).scores
    )
    assert_exact(found, expected(documents, queries, texts, asked, 0.7), 10)


def test_sixteen_threads_get_the_results_of_one(rng):
    documents, queries = random_codes(rng, 3000), random_codes(rng, 5)
    texts, asked = random_texts(rng, 3000), random_texts(rng, 5)
    index = SparseIndex.build(documents, words=texts)
    one = SparseIndex.build(documents, words=texts).search(queries, words=asked, threads=1)

    def work(_):
        return [index.search(queries, words=asked, threads=2) for _ in range(5)]

    with ThreadPoolExecutor(16) as pool:
        found = [result for results in pool.map(work, range(16)) for result in results]
    for result in found:
        np.testing.assert_array_equal(result.ids, one.ids)
        np.testing.assert_array_equal(result.scores, one.scores)


@pytest.mark.slow
def test_a_million_words_take_bytes_in_proportion_to_the_texts():
    rows = np.random.default_rng(0).permutation(1_000_000).reshape(10_000, 100)
    index = SparseIndex.build(words=[" ".join(map(str, row)) for row in rows], language=str.split)
    found = index.search(words=["5 17"], top_k=2)
    assert set(found.ids[0].tolist()) == {int(np.argwhere(rows == n)[0, 0]) for n in (5, 17)}
    postings = index._live._word_postings
    # A list of one posting takes 12 bytes, its place 10, the word's first list 8.
    assert sum(array.nbytes for array in postings.arrays()) <= 30 * rows.size + 16
    words = index._collection.words
    assert words.ids.nbytes + words.counts.nbytes == 5 * rows.size


CODES = SparseCodes(np.array([[1], [2]]), np.ones((2, 1), np.float32), 4)
BOTH = {"codes": CODES, "words": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "nothing to index"),
        ({**BOTH, "words": ["cat"]}, ValueError, "1 texts for 2 documents"),
        ({"words": "cat"}, TypeError, "are the str 'cat'; pass a list"),
        ({"words": 3}, TypeError, "are the int 3; pass a list"),
        ({"words": ["cat", None]}, TypeError, "None of type NoneType in row 1; pass a str, ''"),
        ({**BOTH, "language": "klingon"}, ValueError, "'klingon' is unknown; pass one of arabic"),
        ({**BOTH, "language": 3}, TypeError, "language=3 is a int; pass a name"),
        ({**BOTH, "language": str.upper}, TypeError, "returned 'CAT' for 'cat'; it must return a"),
        ({**BOTH, "weight": -1}, ValueError, r"weight=-1.0 is not within 0\.\."),
        ({**BOTH, "weight": math.nan}, ValueError, "weight=nan is not within"),
        ({**BOTH, "weight": "1"}, TypeError, "weight='1' is a str; pass a number"),
    ],
)
def test_what_cannot_be_indexed_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SparseIndex.build(**arguments)


@pytest.mark.parametrize(
    ("built", "arguments", "error", "message"),
    [
        (BOTH, {}, ValueError, "nothing to search for; pass codes, words=queries, or both"),
        (BOTH, {"query_codes": CODES, "words": ["cat"]}, ValueError, "1 texts for 2 queries"),
        (BOTH, {"words": "cat"}, TypeError, "are the str 'cat'; pass a list"),
        (BOTH, {"query_codes": CODES, "weight": 1}, ValueError, "weight=1 applies to words; pass"),
        (BOTH, {"words": ["cat"], "weight": -1}, ValueError, "weight=-1.0 is not within"),
        ({"codes": CODES}, {"words": ["cat"]}, ValueError, "no words; search by codes alone"),
        ({"words": ["cat"]}, {"query_codes": CODES}, ValueError, "has only words; leave the query"),
        ({"words": ["cat"]}, {"words": ["cat"], "k": 1}, ValueError, "k=1 is not"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(built, arguments, error, message):
    index = SparseIndex.build(**built)
    with pytest.raises(error, match=message):
        index.search(top_k=1, **arguments)


@pytest.mark.parametrize("missing", ["Stemmer", "bm25s"])
def test_a_missing_library_names_its_extra(monkeypatch, missing):
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    with pytest.raises(ImportError, match=rf'words need {missing}: pip install "csr-st\[words\]"'):
        SparseIndex.build(words=["cat"])
    assert len(SparseIndex.build(words=["cat"], language=str.split)) == 1
