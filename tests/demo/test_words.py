"""The three searches of the demonstration: by codes, and by codes and words."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import csr_st
from csr_st.demo import run as demo
from csr_st.demo.corpus import Entry

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

TEXTS = [f"text of {place} " * 9 for place in range(20)]
TEXTS[7] = "Copies the folders recursively."
TEXTS[11] = "Random numbers."
ENTRIES = [Entry(f"m.f{place}", f"Summary {place}.", text) for place, text in enumerate(TEXTS)]


@pytest.fixture
def found(rng):
    """What is printed of codes at random."""
    codes, asked = (
        csr_st.SparseCodes(
            np.tile(np.arange(4, dtype=np.uint16), (n, 1)), rng.random((n, 4), np.float32), 64
        )
        for n in (20, 3)
    )
    lines = []
    demo._search(codes, asked, ENTRIES, lines.append)
    expected = csr_st.SparseIndex.build(codes, words=TEXTS)
    return [line.strip() for line in lines], expected, asked


def test_words_are_searched_beside_codes(found):
    lines, index, asked = found
    assert len(lines) == 3 * (1 + 2 * 4)
    for place, query in enumerate(demo.SEARCHES):
        title, codes, *shown = lines[9 * place : 9 * (place + 1)]
        assert (title, codes, shown[3]) == (repr(query), "by codes", "by codes and words")
        for rows, words in ((shown[:3], None), (shown[4:], demo.SEARCHES)):
            ids = index.search(asked, 3, words=words).ids[place]
            assert rows == [f"m.f{row}: Summary {row}." for row in ids]
    assert lines[6].startswith("m.f7: ")  # the best by both shares "copy" and "folder"


def test_without_what_words_need_codes_are_searched(monkeypatch, request):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bm25s" else there(name)
    )
    lines, _, _ = request.getfixturevalue("found")
    assert len(lines) == 3 * (1 + 4)
    assert "by codes and words" not in lines
    assert demo._texts(ENTRIES, np.arange(3)) is None


def test_figures_are_of_documents_and_the_summaries_that_are_queries():
    texts = demo._texts(ENTRIES, np.array([7, 2]))
    assert texts.documents == TEXTS
    assert texts.queries == ["Summary 7.", "Summary 2."]
