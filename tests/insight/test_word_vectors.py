"""Vectors of words: words of the same latents are alike, whatever the values and however rare."""

import numpy as np
import pytest

import csr_st
from csr_st.codes import SparseCodes
from csr_st.insight.vocabulary import Vocabulary
from csr_st.insight.word_vectors import WordVectors

PAIRS = {2: ("scalpel", "lancet"), 3: ("barley", "oats"), 4: ("granite", "basalt")}
FREQUENT = 0


def texts_of_pairs(n_each=20):
    """(codes, texts): each text has one word of a pair; the weak latent of the pair tells which.

    A strong latent is in every second text of each pair, with a word of its own.
    """
    texts, indices = [], []
    for latent, pair in PAIRS.items():
        for row in range(n_each):
            is_common = row % 4 < 2
            texts.append(f"{pair[row % 2]} {'common' if is_common else 'other'}")
            indices.append([FREQUENT if is_common else 1, latent])
    values = np.tile(np.array([[0.99, 0.14]], np.float32), (len(texts), 1))
    return SparseCodes(np.array(indices), values, 5), texts


def cosines_of(codes, texts):
    rows = np.arange(len(texts))
    vocabulary = Vocabulary.of(texts, rows)
    vectors = WordVectors.fit(vocabulary.matrix, codes.normalize().to_scipy(), rows)
    place = {word: at for at, word in enumerate(vocabulary.words.tolist())}
    return lambda one, other: float(vectors.words[place[one]] @ vectors.words[place[other]])


def test_words_of_one_weak_latent_are_alike_and_those_of_others_are_not():
    cosine = cosines_of(*texts_of_pairs())
    for latent, (one, other) in PAIRS.items():
        assert cosine(one, other) > 0.9
        for stranger in (words[0] for key, words in PAIRS.items() if key != latent):
            assert cosine(one, stranger) < 0.5


def test_vectors_depend_on_which_latents_a_text_has_alone(rng):
    codes, texts = texts_of_pairs()
    # one latent always first: the order of values stays, their sizes do not
    values = np.sort(rng.uniform(0.01, 1, codes.values.shape).astype(np.float32), axis=1)[:, ::-1]
    other = SparseCodes(np.array(codes.indices), np.ascontiguousarray(values), codes.hidden_dim)
    before, after = cosines_of(codes, texts), cosines_of(other, texts)
    for pair in (PAIRS[2], ("scalpel", "barley"), ("scalpel", "common")):
        assert after(*pair) == pytest.approx(before(*pair), abs=1e-4)


def test_a_name_counts_for_a_word_of_the_same_latent_that_it_lacks():
    """Half of the texts of a latent have its other word; the AUC of a name by one is still 1."""
    codes, texts = texts_of_pairs(40)
    names = csr_st.name_latents(codes, texts, name_with=lambda *_: "scalpel")
    assert names[2].auc == pytest.approx(1)
