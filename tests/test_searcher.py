"""One call from text to hits: the results of encoding and searching."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import WORDS

import csr_st
from csr_st import Decoder, Searcher, SparseIndex

pytest.importorskip("numba")

QUERIES = ["the cat sat", "a blue fish in the sea"]


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 5)) for _ in range(50)]


@pytest.fixture
def contextual(masked_lm_folder):
    from sentence_transformers import SentenceTransformer

    backbone = SentenceTransformer(masked_lm_folder, device="cpu")
    return csr_st.attach(backbone, csr_st.SparseCSRHead(16, k=8))


@pytest.fixture(params=["looked up", "transformer"])
def any_model(request, model, contextual):
    return model if request.param == "looked up" else contextual


def expect(hits, found):
    assert [[hit.id for hit in row] for row in hits] == found.ids.tolist()
    scores = [[hit.score for hit in row] for row in hits]
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)


def test_it_is_encode_and_search(any_model, documents):
    index = SparseIndex.build(csr_st.encode(any_model, documents, k=4, role="document"))
    searcher = Searcher(any_model, index, documents)
    found = index.search(csr_st.encode(any_model, QUERIES, k=16, role="query"), top_k=5)
    expect(searcher(QUERIES, 5), found)
    first = found._replace(ids=found.ids[:1], scores=found.scores[:1])
    expect([searcher(QUERIES[0], top_k=5)], first)
    hit = searcher(QUERIES[0], 1)[0]
    assert hit.text == documents[hit.id]
    shorter = Searcher(any_model, index, k=2, query_k=3)
    found = index.search(csr_st.encode(any_model, QUERIES, k=3, role="query"), 5, k=2)
    expect(shorter(QUERIES, 5), found)
    assert shorter(QUERIES[0], 1)[0].text is None


def test_a_call_in_two_halves_and_with_other_options(any_model, documents):
    index = SparseIndex.build(
        csr_st.encode(any_model, documents, k=4, role="document"),
        decoder=Decoder.from_head(csr_st.find_head(any_model)),
    )
    searcher = Searcher(any_model, index, documents)
    other = searcher.with_options(k=2, query_k=3, rescore=20)
    assert (searcher.k, searcher.query_k, searcher.rescore) == (None, 16, 0)
    expected = Searcher(any_model, index, documents, k=2, query_k=3, rescore=20)(QUERIES, 5)
    asked = other.encoded(QUERIES)
    assert other.search(asked, 5) == expected
    assert other.search(asked.part(1, 2), 5) == expected[1:]
    with pytest.raises(ValueError, match="k=5"):
        searcher.with_options(k=5)
    with pytest.raises(ValueError, match="there are no queries"):
        searcher.encoded([])


def test_filters_and_boosts_are_those_of_the_index(model, documents):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    hits = Searcher(model, index)(QUERIES[0], 10, filter=[3, 7])
    assert sorted(hit.id for hit in hits) == [3, 7]
    codes = csr_st.encode(model, QUERIES, k=16, role="query")
    boost = {int(codes.indices[0, 0]): 0.0}
    found = index.search(codes, 5, boost=boost)
    expect(Searcher(model, index)(QUERIES, 5, boost=boost), found)


def test_a_recall_that_is_enough_is_passed_on(model, documents, monkeypatch):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    asked = []
    search = index.search
    monkeypatch.setattr(index, "search", lambda *a, **b: asked.append(b) or search(*a, **b))
    Searcher(model, index, approximate=0.9)(QUERIES[0])
    assert asked[0]["approximate"] == 0.9
    with pytest.raises(ValueError, match="at most 1"):
        Searcher(model, index, approximate=2)


def test_it_rescores_as_the_index_does(any_model, documents):
    decoder = Decoder.from_head(csr_st.find_head(any_model))
    codes = csr_st.encode(any_model, documents, k=4, role="document")
    asked = csr_st.encode(any_model, QUERIES, k=16, role="query")
    dense = csr_st.encode_dense(any_model, QUERIES, role="query")
    for stored in (decoder, None):
        index = SparseIndex.build(codes, decoder=stored)
        found = index.search(asked, 5, rescore=20, queries_dense=dense, decoder=decoder)
        expect(Searcher(any_model, index, rescore=20)(QUERIES, 5), found)


def test_an_index_with_words_is_searched_by_both(model, documents):
    pytest.importorskip("bm25s")
    codes = csr_st.encode(model, documents, k=4, role="document")
    index = SparseIndex.build(codes, words=documents)
    asked = csr_st.encode(model, QUERIES, k=16, role="query")
    for weight in (None, 0.5, 0):
        found = index.search(asked, 5, words=QUERIES, weight=weight)
        expect(Searcher(model, index, weight=weight)(QUERIES, 5), found)


def test_texts_are_found_by_any_id_while_the_index_changes(model, documents):
    names = [f"d{place}" for place in range(50)]
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"), names)
    by_id = dict(zip(names, documents, strict=True))
    for texts in (documents, by_id):
        hits = Searcher(model, index, texts)(QUERIES[0], 50)
        assert [hit.text for hit in hits] == [by_id[hit.id] for hit in hits]
    searcher = Searcher(model, index, by_id)
    best = searcher(QUERIES[0], 1)[0].id
    index.remove([best])
    assert best not in [hit.id for hit in searcher(QUERIES[0], 50)]


def test_paths_are_opened(model, documents, saved, tmp_path):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    index.save(tmp_path / "i.csr")
    opened = Searcher(saved, tmp_path / "i.csr", documents)
    assert opened(QUERIES, 5) == Searcher(model, index, documents)(QUERIES, 5)


def test_a_sparse_encoder_is_searched_with_all_its_dimensions(splade, documents):
    index = SparseIndex.build(csr_st.encode(splade, documents, k=6), similarity="dot")
    found = index.search(csr_st.encode(splade, QUERIES, role="query"), 5)
    expect(Searcher(splade, index)(QUERIES, 5), found)
    with pytest.raises(ValueError, match="rescore=5 ranks by dense vectors"):
        Searcher(splade, index, rescore=5)


def test_no_query_is_no_result(model, documents):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    assert Searcher(model, index)([]) == []
    assert len(Searcher(model, index)(QUERIES[0], 1000)) == 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"texts": ["a"]}, "there are 1 texts and 50 documents"),
        ({"texts": "a"}, "texts is one str"),
        ({"k": 5}, "k=5 is not within 1..4"),
        ({"k": 1.5}, "k=1.5 is a float"),
        ({"query_k": 65}, "query_k=65 exceeds hidden_dim=64"),
        ({"rescore": -1}, "rescore=-1"),
        ({"weight": 0.5}, "weight=0.5 applies to words, and the index has none"),
        ({"threads": 0}, "threads=0 must be at least 1"),
    ],
)
def test_wrong_options_are_refused_at_once(model, documents, options, words):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    with pytest.raises((TypeError, ValueError)) as caught:
        Searcher(model, index, **options)
    assert words in str(caught.value)


def test_wrong_queries_and_pairs_are_refused(model, backbone, documents):
    index = SparseIndex.build(csr_st.encode(model, documents, k=4, role="document"))
    searcher = Searcher(model, index)
    with pytest.raises(ValueError, match="input 1 is None"):
        searcher(["a cat", None])
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        searcher("a cat", 0)
    other = csr_st.attach(backbone, csr_st.SparseCSRHead(16, hidden_dim=32))
    with pytest.raises(ValueError, match="hidden_dim=32, the index 64"):
        Searcher(other, index)
    with pytest.raises(ValueError, match="0 SparseCSRHead modules"):
        Searcher(backbone, index)
