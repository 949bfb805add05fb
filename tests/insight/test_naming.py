"""Naming: words by contrast, a score on texts set aside, and chance that is not taken for more."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from topics import OTHERS, TOPICS, topic_texts

import csr_st
from csr_st.codes import SparseCodes
from csr_st.insight.chance import beats_chance, weighted_auc


def test_topics_are_named_by_their_words(rng):
    codes, texts = topic_texts(rng)
    names = csr_st.name_latents(codes, texts)
    for latent, words in TOPICS.items():
        name = names[latent]
        assert set(name.words) & set(words)
        assert not set(name.words) & set(OTHERS)
        assert name.auc > 0.99
        share = np.mean([bool(set(words) & set(text.split())) for text in texts])
        assert name.frequency == pytest.approx(share)
        values = codes.to_dense()[:, latent]
        assert name.texts == tuple(np.argsort(-values, kind="stable")[:10])
    assert (
        sum(bool(names[latent].words) for latent in range(12, 20)) <= 1
    )  # in no relation to words


def test_names_by_chance_are_unnamed(rng):
    """Codes without any relation to the texts: about 5% pass a test at the level of 5%."""
    texts = topic_texts(rng, 600)[1]
    indices = np.argsort(rng.random((600, 200)), axis=1)[:, :8]
    codes = SparseCodes(indices, rng.random((600, 8), np.float32), 200)
    names = csr_st.name_latents(codes, texts)
    assert len(names) == 200
    assert sum(bool(name.words) for name in names) <= 22  # beyond 20 in 2% of such runs
    assert np.nanmean([name.auc for name in names]) == pytest.approx(0.5, abs=0.02)
    assert all(names.label(name.latent).startswith("latent") for name in names if not name.words)


def test_texts_for_testing_do_not_change_the_words(rng):
    """Other words in the texts set aside lower the AUC, and change no name."""
    codes, texts = topic_texts(rng)
    names = csr_st.name_latents(codes, texts)
    testing = np.random.default_rng(0).permutation(len(texts))[240:]
    spoilt = list(texts)
    for row in testing:
        spoilt[row] = " ".join(np.random.default_rng(row).choice(OTHERS, 8))
    heard = []
    csr_st.name_latents(codes, spoilt, name_with=lambda _, words: heard.append(words) or [])
    found = {tuple(words) for words in heard}
    assert {names[3].words, names[7].words, names[11].words} <= found
    assert csr_st.name_latents(codes, spoilt)[3].words == ()


def test_the_same_input_gives_the_same_file(rng):
    codes, texts = topic_texts(rng)
    first = csr_st.name_latents(codes, texts).to_json()
    assert csr_st.name_latents(codes, iter(texts)).to_json() == first
    # The scale of a row does not matter, its shares do.
    assert csr_st.name_latents(codes.raw(), texts).to_json() == first


def test_neighbours_are_active_in_the_same_texts():
    indices = np.array([[0, 1], [0, 1], [0, 2], [3, 2]] * 5)
    codes = SparseCodes(indices, np.full((20, 2), 0.5, np.float32), 5)
    names = csr_st.name_latents(codes, ["some text"] * 20)
    assert names[0].neighbours == (1, 2)  # cosines sqrt(2/3), sqrt(1/6)
    assert names[3].neighbours == (2,)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_function_gives_names_that_are_tested_in_the_same_way(rng, as_list):
    codes, texts = topic_texts(rng)
    naming = set(np.random.default_rng(0).permutation(len(texts))[:240].tolist())
    seen = {}

    def name(strongest, words):
        assert 1 <= len(strongest) <= 10
        assert all(any(texts[row] == text for row in naming) for text in strongest)
        if set(words) & set(TOPICS[3]):
            seen["3"] = strongest
            return ["Wings that  lift", "flight"] if as_list else "Wings that lift, flight"
        return "bola emi" if set(words) & set(TOPICS[7]) else "unheard-of"

    names = csr_st.name_latents(codes, texts, name_with=name)
    assert names[3].words[1] == "flight"
    assert names[3].auc > 0.9
    assert names[7].words == ()  # words that do not tell
    assert math.isnan(names[11].auc)  # words that no text has
    values = codes.to_dense()[:, 3]
    best = max(sorted(naming), key=lambda row: values[row])
    assert seen["3"][0] == texts[best]


def test_a_function_that_returns_no_name_is_refused(rng):
    codes, texts = topic_texts(rng, 40)
    with pytest.raises(TypeError, match="name_with returned None; return a str"):
        csr_st.name_latents(codes, texts, name_with=lambda *_: None)
    with pytest.raises(TypeError, match="name_with='gpt' must be a function"):
        csr_st.name_latents(codes, texts, name_with="gpt")


@pytest.mark.parametrize(
    "texts", [[""] * 6, ["one"] * 6, ["日本語 テキスト", "🦊"] * 3, ["a\0b"] * 6]
)
def test_texts_without_a_word_that_tells_leave_latents_unnamed(texts):
    codes = SparseCodes(np.arange(6)[:, None] % 3, np.ones((6, 1), np.float32), 4)
    names = csr_st.name_latents(codes, texts)
    assert len(names) == 3
    assert all(name.words == () for name in names)
    assert "(unnamed)" in names.table()


def test_packed_codes_and_empty_codes(rng):
    codes, texts = topic_texts(rng)
    packed = csr_st.name_latents(codes.pack(8), texts)
    assert [packed.label(latent) for latent in TOPICS] == [
        csr_st.name_latents(codes, texts).label(latent) for latent in TOPICS
    ]
    none = SparseCodes(np.zeros((3, 1), np.uint8), np.zeros((3, 1), np.float32), 4)
    assert len(csr_st.name_latents(none, ["one", "two", "three"])) == 0


def test_what_cannot_be_named_is_refused(rng):
    codes, texts = topic_texts(rng, 10)
    with pytest.raises(ValueError, match="there are 9 texts for 10 codes; pass one for each"):
        csr_st.name_latents(codes, texts[1:])
    with pytest.raises(ValueError, match="there are 1 texts; names need at least 2"):
        csr_st.name_latents(codes[:1], texts[:1])
    with pytest.raises(TypeError, match="codes are ndarray; pass csr_st"):
        csr_st.name_latents(codes.to_dense(), texts)
    with pytest.raises(TypeError, match="pass a list with the text of each code"):
        csr_st.name_latents(codes, "wing")
    with pytest.raises(TypeError, match="text 1 is None, no str"):
        csr_st.name_latents(codes, [texts[0], None, *texts[2:]])


def test_auc_is_that_of_scikit_learn_and_the_test_that_of_scipy(rng):
    for n in (5, 40, 400):
        scores = rng.integers(0, 12, n).astype(np.float32)
        weights = np.where(rng.random(n) < 0.4, rng.random(n), 0)
        weights[0], weights[1] = 1, 0
        expected = roc_auc_score(
            weights > 0, scores, sample_weight=np.where(weights > 0, weights, 1)
        )
        assert weighted_auc(scores, weights) == pytest.approx(expected)
    decided = []
    for shift in np.linspace(0, 1, 60):
        has = rng.random(80) < 0.3
        scores = rng.normal(size=80) + shift * has
        options = {"alternative": "greater", "method": "asymptotic", "use_continuity": False}
        p = mannwhitneyu(scores[has], scores[~has], **options).pvalue
        if abs(p - 0.05) > 1e-3:
            decided.append(beats_chance(scores, has))
            assert decided[-1] == (p < 0.05)
    assert {True, False} == set(decided)
    assert math.isnan(weighted_auc(np.ones(3), np.zeros(3)))
    assert not beats_chance(np.ones(3), np.ones(3, bool))
