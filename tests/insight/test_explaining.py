"""Explanations: shares that add up to the score, and words that carry a latent."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import csr_st
from csr_st import LatentName, LatentNames, SparseIndex
from csr_st.codes import SparseCodes
from csr_st.insight import word_shares


def random_codes(rng, n, k, hidden_dim=64):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k]
    values = rng.exponential(size=(n, k)).astype(np.float32)
    values[rng.random((n, k)) < 0.2] = 0  # fewer active latents than k
    return SparseCodes(indices, values, hidden_dim)


@given(st.integers(0, 10**6), st.integers(1, 12), st.booleans())
def test_shares_add_up_to_the_cosine(seed, k, normalized):
    rng = np.random.default_rng(seed)
    documents, queries = random_codes(rng, 3, k), random_codes(rng, 2, min(4 * k, 64))
    if normalized:
        documents, queries = documents.normalize(), queries.normalize()
    for document_k in range(1, k + 1):
        one, two = (
            codes.to_dense().astype(np.float64) for codes in (queries, documents.prefix(document_k))
        )
        lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(two, axis=1)
        cosines = one @ two.T / np.where(lengths > 0, lengths, 1)
        for query in range(2):
            for row in range(3):
                found = csr_st.explain(queries[query], documents[row], k=document_k)
                assert found.score == pytest.approx(cosines[query, row], abs=1e-6)
                shares = [share.share for share in found.latents]
                assert math.fsum(shares) == pytest.approx(found.score, abs=1e-12)
                assert shares == sorted(shares, reverse=True)
                both = (one[query] > 0) & (two[row] > 0)
                assert {share.latent for share in found.latents} == set(np.flatnonzero(both))


@pytest.mark.parametrize("packed", [False, True])
def test_shares_add_up_to_every_score_of_a_search(rng, packed):
    pytest.importorskip("numba")
    documents, queries = random_codes(rng, 50, 8), random_codes(rng, 6, 32)
    if packed:
        documents = documents.pack()
    index = SparseIndex.build(documents)
    for k in (1, 3, 8):
        results = index.search(queries, 50, k=k)
        for query, (ids, scores) in enumerate(zip(results.ids, results.scores, strict=True)):
            for row, score in zip(ids, scores, strict=True):
                hit = csr_st.explain(queries[query], int(row), index=index, k=k)
                assert hit.score == pytest.approx(score, abs=1e-6)
                codes = csr_st.explain(queries[query], documents[int(row)], k=k)
                assert codes.score == pytest.approx(hit.score, abs=1e-6)
                assert {one.latent for one in codes.latents} == {one.latent for one in hit.latents}


def test_a_table_and_html_show_names_shares_and_the_score():
    one = SparseCodes(np.array([[2, 0, 1]]), np.array([[2, 2, 1]], np.float32), 4)
    other = SparseCodes(np.array([[2, 1, 3]]), np.array([[2, 2, 1]], np.float32), 4)
    names = LatentNames(
        [LatentName(2, ("<b>wing</b>", "a|b"), 0.9, 0.5)], hidden_dim=4, k=3, n_texts=9
    )
    found = csr_st.explain(one, other, names)
    assert found.table() == (
        "| shared by query and document | share |\n"
        "| --- | ---: |\n"
        "| <b>wing</b>, a\\|b | 0.4444 |\n"
        "| latent 1 | 0.2222 |\n"
        "| score | 0.6667 |"
    )
    assert found.table(1).splitlines()[3:] == ["| 1 more | 0.2222 |", "| score | 0.6667 |"]
    html = found._repr_html_()
    assert "&lt;b&gt;wing" in html
    assert "<b>" not in html
    assert "0.6667" in html


def test_an_index_with_words_has_shares_of_both(rng):
    for name in ("numba", "bm25s", "Stemmer"):
        pytest.importorskip(name)
    codes = random_codes(rng, 3, 4)
    index = SparseIndex.build(codes, words=["a wing", "a bread", "a dam"])
    found = csr_st.explain(codes[1], 1, index=index, words="bread and wings")
    assert set(found.words) == {"bread"}
    score = index.search(codes[1], 1, words=["bread and wings"]).scores[0, 0]
    assert found.score == pytest.approx(score, abs=1e-6)
    assert "| word: bread |" in found.table()


def test_words_that_carry_a_latent(model, texts):
    """Static embeddings are a mean of words: without its only word a text has no such latent."""
    head = csr_st.find_head(model)
    text = "the cat sat"
    full = model.encode(text, k=64)
    latents = np.argsort(-full)[:5].tolist()
    found = word_shares(model, text, latents)
    assert list(found) == latents
    for latent in latents:
        for word, share in found[latent].items():
            without = " ".join(part for part in text.split() if part != word)
            dense = csr_st.encode_dense(model, [text, without])
            whole, less = csr_st.encode_vectors(head, dense, 64).raw().to_dense()[:, latent]
            assert share == pytest.approx((whole - less) / whole, abs=1e-5)
        shares = list(found[latent].values())
        assert shares == sorted(shares, reverse=True)
        assert min(shares, default=1) > 0
    silent = int(np.argmin(full))
    assert word_shares(model, text, [silent]) == {silent: {}}


def test_explanations_with_texts_name_their_words(model):
    one, other = "the cat sat", "a cat ran"
    codes = csr_st.encode(model, [one, other], k=16)
    found = csr_st.explain(
        codes[0], codes[1], model=model, query_text=one, document_text=other, k=8
    )
    assert set(found.query_words) == {share.latent for share in found.latents}
    assert {word for words in found.query_words.values() for word in words} <= set(one.split())
    assert {word for words in found.document_words.values() for word in words} <= set(other.split())
    assert found.table().splitlines()[0].endswith("| share | in the query | in the document |")


def test_a_long_text_takes_a_bounded_number_of_texts(model, monkeypatch):
    counts = []
    encode = model.encode

    def counted(inputs, *arguments, **options):
        counts.append(len(inputs))
        return encode(inputs, *arguments, **options)

    monkeypatch.setattr(model, "encode", counted)
    text = " ".join(f"w{i}" for i in range(2000)) + " cat CAT Cat"
    word_shares(model, text, [0, 1])
    assert sum(counts) == 257
    counts.clear()
    word_shares(model, "Cat cat CAT dog", [0])
    assert sum(counts) == 3


def test_texts_without_words_are_carried_by_none(model):
    assert word_shares(model, "", [3]) == {3: {}}
    assert word_shares(model, "?!", []) == {}


def test_what_cannot_be_explained_is_named(rng, model):
    codes = random_codes(rng, 3, 4)
    with pytest.raises(ValueError, match="document has 3 rows; pass one"):
        csr_st.explain(codes[0], codes)
    with pytest.raises(ValueError, match="query_codes has 3 rows; pass one"):
        csr_st.explain(codes, codes[0])
    with pytest.raises(ValueError, match="hidden_dim=64, the document 65"):
        csr_st.explain(codes[0], random_codes(rng, 1, 4, 65))
    with pytest.raises(TypeError, match="document=17 is no SparseCodes; pass one row, or an id"):
        csr_st.explain(codes[0], 17)
    with pytest.raises(TypeError, match="query_codes are ndarray; pass csr_st"):
        csr_st.explain(codes.to_dense(), codes[0])
    with pytest.raises(ValueError, match="document is a code, and index, words and weight"):
        csr_st.explain(codes[0], codes[1], words="wing")
    with pytest.raises(ValueError, match="query_text is given without a model"):
        csr_st.explain(codes[0], codes[1], query_text="wing")
    with pytest.raises(ValueError, match=r"latent=64 exceeds the head's last latent, 63"):
        word_shares(model, "the cat", [64])
    with pytest.raises(TypeError, match="must be a str: one text"):
        word_shares(model, ["the cat"], [0])
