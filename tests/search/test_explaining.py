"""What a score is made of: shares that add up to it."""

import math

import numpy as np
import pytest

from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex, explain

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from word_scores import random_codes, random_texts


def test_shares_by_hand():
    codes = SparseCodes(np.array([[4, 1]]), np.array([[4, 3]], np.float32), 5)
    asked = SparseCodes(np.array([[2, 1, 4]]), np.array([[2, 2, 1]], np.float32), 5)
    index = SparseIndex.build(codes, ["a"], words=["The cats chase cats"], weight=2.0)
    found = explain(index, asked, "a", words="a cat that sleeps")
    # One document of 3 words: its length is the mean. k1 0.9; two words in the query.
    of_cat = 2.0 / math.sqrt(2) * math.log(1 + 0.5 / 1.5) * 2 / (2 + 0.9)
    assert found.words == {"cat": pytest.approx(of_cat, rel=1e-6)}
    assert [share[:2] for share in found.latents] == [(1, "latent 1"), (4, "latent 4")]
    assert [share.share for share in found.latents] == pytest.approx([2 / 5, 4 / 15], abs=1e-6)
    assert found.score == pytest.approx(3 / 5 * 2 / 3 + 4 / 5 / 3 + of_cat, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"weight": 3.0}, {"k": 3, "weight": 0.0}])
@pytest.mark.parametrize("parts", ["both", "codes", "words"])
def test_shares_add_up_to_the_score_of_a_search(options, parts):
    rng = np.random.default_rng(8)
    codes, words = random_codes(rng, 300), random_texts(rng, 300)
    words[250] += " word1" * 700
    index = SparseIndex.build(codes[:200].pack(), words=words[:200])
    index.add(codes[200:], words=words[200:])
    index.remove(range(0, 100, 2))
    asked = None if parts == "words" else random_codes(rng, 5, 9)
    texts = None if parts == "codes" else random_texts(rng, 5, 12)
    if parts == "codes":
        options = {name: value for name, value in options.items() if name != "weight"}
    results = index.search(asked, 250, words=texts, **options)
    for row in range(5):
        code = None if asked is None else asked[row : row + 1]
        text = None if texts is None else texts[row]
        for place in (0, 3, 40, 120, 249):
            found = explain(index, code, results.ids[row, place], words=text, **options)
            assert found.score == pytest.approx(results.scores[row, place], abs=1e-6, rel=1e-6)
            assert sum(
                [*(one.share for one in found.latents), *found.words.values()]
            ) == pytest.approx(found.score, abs=1e-9)
            assert bool(found.latents) <= (parts != "words")
            assert bool(found.words) <= (parts != "codes")


def test_what_cannot_be_explained_is_named():
    rng = np.random.default_rng(9)
    codes, words = random_codes(rng, 3), ["a cat", "a dog", ""]
    index = SparseIndex.build(codes, words=words)
    with pytest.raises(ValueError, match="there are 3 query codes; pass one"):
        explain(index, codes, 0)
    with pytest.raises(ValueError, match="id 7 is not in the index of 3 documents"):
        explain(index, codes[:1], 7)
    with pytest.raises(TypeError, match=r"words have \['cat'\] of type list in row 0; pass a str"):
        explain(index, codes[:1], 0, words=["cat"])
    with pytest.raises(ValueError, match="nothing to search for"):
        explain(index, None, 0)
    with pytest.raises(ValueError, match=r"k=5 is not within 1\.\.4"):
        explain(index, codes[:1], 0, k=5)
