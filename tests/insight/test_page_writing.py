"""Writing a page: complete or not at all, the same every time, small, and clear about bad input."""

from __future__ import annotations

import numpy as np
import pytest
from topics import topic_texts

import csr_st
from csr_st.insight.page import Corpus, render_page, write_page
from csr_st.insight.page.layout import positions


@pytest.fixture
def given(rng):
    return topic_texts(rng)


def test_the_same_input_gives_the_same_page(given):
    assert render_page(*given) == render_page(*given)


def test_a_page_that_cannot_be_made_leaves_the_old_one(given, tmp_path):
    codes, texts = given
    page = tmp_path / "explorer.html"
    page.write_text("old")
    with pytest.raises(ValueError, match="399 texts for 400 codes"):
        write_page(page, codes, texts[1:])
    assert page.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["explorer.html"]


def test_the_page_names_nothing_outside_itself(given):
    page = render_page(*given)
    head = page.partition('<script id="data"')[0]
    assert "default-src 'none'" in head
    assert "connect-src 'none'" in head
    assert "unsafe-inline" not in head
    assert "src=" not in head
    assert "https://" not in page


@pytest.mark.slow
def test_5000_documents_take_less_than_15_mb(rng, tmp_path):
    """Words of a Zipf distribution, 250 in each text, and codes without order: little to pack."""
    words = np.array(["".join(rng.choice(list("abcdefghijklmnop"), 7)) for _ in range(30_000)])
    texts = [" ".join(words[np.minimum(rng.zipf(1.3, 250), 30_000) - 1]) for _ in range(5000)]
    indices = np.argsort(rng.random((5000, 512)), axis=1)[:, :32]
    codes = csr_st.SparseCodes(indices, -np.sort(-rng.random((5000, 32), np.float32)), 512)
    names = csr_st.name_latents(codes, texts)
    write_page(tmp_path / "page.html", codes, texts, names)
    assert (tmp_path / "page.html").stat().st_size < 15e6


def test_latents_of_one_meaning_lie_together_on_the_map(rng):
    """Three groups of latents that are active in the same texts: each is nearer to its own."""
    group = rng.integers(0, 3, 600)
    offsets = np.argsort(rng.random((600, 12)), axis=1)[:, :4]
    codes = csr_st.SparseCodes(
        12 * group[:, None] + offsets, np.full((600, 4), 0.5, np.float32), 36
    )
    places = positions(codes, np.arange(36), None)
    assert places.shape == (36, 2)
    np.testing.assert_allclose([places.min(), places.max()], [0, 1])
    np.testing.assert_array_equal(places, positions(codes, np.arange(36), None))
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    assert (nearest // 12 == np.arange(36) // 12).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_page_of_few_texts_can_be_written(n):
    codes = csr_st.SparseCodes(np.arange(n)[:, None], np.ones((n, 1), np.float32), 8)
    assert render_page(codes, ["some words"] * n).startswith("<!doctype html>")


def test_one_text_needs_names_of_others():
    codes = csr_st.SparseCodes(np.arange(6)[None], np.full((1, 6), 0.4, np.float32), 8)
    with pytest.raises(ValueError, match="there are 1 texts; names need at least 2"):
        render_page(codes, ["some words"])
    names = csr_st.name_latents(csr_st.SparseCodes.concatenate([codes] * 2), ["a", "b"])
    assert render_page(codes, ["some words"], names).startswith("<!doctype html>")


def test_codes_without_any_latent_can_be_written():
    codes = csr_st.SparseCodes(np.zeros((2, 1), np.int64), np.zeros((2, 1), np.float32), 8)
    assert render_page(codes, ["", ""]).startswith("<!doctype html>")


def test_bad_input_is_refused_with_what_mends_it(given):
    codes, texts = given
    with pytest.raises(TypeError, match=r"codes are list; pass csr_st\.SparseCodes"):
        render_page([1], ["a"])
    with pytest.raises(TypeError, match="texts are one str"):
        render_page(codes, "a" * 400)
    with pytest.raises(TypeError, match="text 1 is None, no str"):
        render_page(codes[:2], ["a", None])
    with pytest.raises(ValueError, match="no texts"):
        render_page(codes[:0], [])
    other = csr_st.SparseCodes(codes.indices, codes.values, 21)
    with pytest.raises(ValueError, match="20 latents, codes of 21"):
        render_page(other, texts, csr_st.name_latents(codes, texts))
    with pytest.raises(ValueError, match="encode both with the same head"):
        render_page(codes, texts, compared=Corpus(other, texts, "other"))
    many = csr_st.SparseCodes.concatenate([codes] * 51)
    with pytest.raises(ValueError, match="n=20,400 texts exceed the 20,000 of a page"):
        render_page(many, texts * 51)
