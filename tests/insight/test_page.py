"""The file of a page: whole, small, the same each time; what it refuses."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest
from topics import topic_texts

from csr_st import Decoder, LatentNames, SparseCodes, name_latents
from csr_st.insight.page import Corpus, PageServer, content, layout, write_page
from csr_st.insight.page.assembly import _script


def content_of(path):
    """What a page holds, read as its script reads it."""
    packed = re.search(r'<script id="data" type="text/plain">([\w+/=]*)</script>', path.read_text())
    return json.loads(zlib.decompress(base64.b64decode(packed[1])))


def random_codes(rng, n, k=4, hidden_dim=16):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k]
    return SparseCodes(indices, rng.uniform(0.1, 1, (n, k)).astype(np.float32), hidden_dim)


def nameless(hidden_dim=16):
    return LatentNames([], hidden_dim=hidden_dim, k=4, n_texts=2)


def test_it_holds_texts_codes_and_names(rng, tmp_path):
    codes, texts = topic_texts(rng, 60)
    names = name_latents(codes, texts)
    write_page(tmp_path / "p.html", codes, texts, names, label="tales")
    found = content_of(tmp_path / "p.html")
    assert found["texts"] == texts
    assert found["corpora"] == [{"label": "tales", "size": 60, "images": False}]
    uses = np.bincount(codes.indices.ravel(), minlength=20)
    assert [uses[latent] for latent in found["latents"]] == sorted(uses[uses > 0], reverse=True)
    assert found["words"] == [list(names[latent].words) for latent in found["latents"]]
    places = np.frombuffer(base64.b64decode(found["places"]), "<u2").reshape(60, 2)
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(60, 2)
    assert np.array_equal(np.array(found["latents"])[places], codes.indices)
    assert np.array_equal(values, codes.values)


def test_codes_of_any_form_give_unit_values(rng, tmp_path):
    codes = random_codes(rng, 20)
    for form in (codes, codes.normalize().astype("float16"), codes.pack(8)):
        write_page(tmp_path / "p.html", form, ["a b"] * 20, nameless())
        values = np.frombuffer(base64.b64decode(content_of(tmp_path / "p.html")["values"]), "<f4")
        np.testing.assert_allclose(np.square(values.reshape(20, 4)).sum(axis=1), 1, rtol=1e-2)


def test_the_same_texts_give_the_same_file(rng, tmp_path):
    codes, texts = topic_texts(rng, 80)
    for name in ("one", "two"):
        write_page(tmp_path / name, codes, texts)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_five_thousand_long_texts_take_less_than_15_mb(rng, tmp_path):
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      éß"))
    texts = ["".join(rng.choice(letters, 2500)) for _ in range(5000)]  # what packs worst
    codes = random_codes(rng, 5000, k=32, hidden_dim=64)
    write_page(tmp_path / "p.html", codes, texts, nameless(64))
    assert (tmp_path / "p.html").stat().st_size < 15e6


def test_long_texts_are_cut_and_their_length_is_kept(rng, tmp_path):
    write_page(tmp_path / "p.html", random_codes(rng, 2), ["a" * 100_000, "b" * 2000], nameless())
    found = content_of(tmp_path / "p.html")
    assert [len(text) for text in found["texts"]] == [2000, 2000]
    assert found["lengths"] == {"0": 100_000}


def test_empty_codes_and_a_single_latent_have_a_page(tmp_path):
    indices, values = np.array([[3, 0], [3, 0]]), np.array([[1.0, 0], [1, 0]], np.float32)
    write_page(tmp_path / "p.html", SparseCodes(indices, values, 8), ["a", "b"], nameless(8))
    assert content_of(tmp_path / "p.html")["latents"] == [3]
    write_page(tmp_path / "p.html", SparseCodes(indices, 0 * values, 8), ["a", "b"], nameless(8))
    assert content_of(tmp_path / "p.html")["latents"] == []


def test_a_failed_write_leaves_the_old_page(rng, tmp_path, monkeypatch):
    path = tmp_path / "p.html"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match=r"cannot write .*p\.html"):
        write_page(path, random_codes(rng, 3), ["a", "b", "c"], nameless())
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["p.html"]


def test_the_script_ends_no_element():
    assert "</script" not in _script()
    assert "<!--" not in _script()
    assert "innerHTML" not in _script()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"texts": ["a"]}, ValueError, "this collection has 1 texts for 3 codes"),
        ({"texts": ["a", None, "b"]}, TypeError, "text 1 is None, no str"),
        ({"texts": "abc"}, TypeError, "texts are one str"),
        ({"codes": np.zeros((3, 4))}, TypeError, r"codes are ndarray; pass csr_st\.SparseCodes"),
        ({"names": nameless(99)}, ValueError, "names are of 99 latents, codes of 16"),
        (
            {"decoder": Decoder(np.ones((9, 2), np.float32), np.zeros(2, np.float32))},
            ValueError,
            "the decoder has 9 latents, codes 16",
        ),
    ],
)
def test_bad_input_is_named(rng, tmp_path, change, error, message):
    given = {"codes": random_codes(rng, 3), "texts": ["a", "b", "c"], "names": nameless()}
    with pytest.raises(error, match=message):
        write_page(tmp_path / "p.html", **{**given, **change})
    assert not list(tmp_path.iterdir())


def test_more_texts_than_a_page_holds_are_refused(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "MAX_TEXTS", 5)
    other = Corpus(random_codes(rng, 3), ["x"] * 3, "other")
    with pytest.raises(ValueError, match="n=6 texts exceed the 5 of a page; pass a sample"):
        write_page(tmp_path / "p", random_codes(rng, 3), ["x"] * 3, nameless(), compared=other)
    with pytest.raises(ValueError, match="no texts"):
        Corpus(random_codes(rng, 3)[:0], [])


def test_collections_of_other_heads_are_refused(rng, tmp_path):
    other = Corpus(random_codes(rng, 3, hidden_dim=32), ["x"] * 3)
    with pytest.raises(ValueError, match=r"codes of \[16, 32\] latents; encode both with"):
        write_page(tmp_path / "p", random_codes(rng, 3), ["x"] * 3, nameless(), compared=other)


def test_collections_of_two_k_meet_at_the_smaller(rng, tmp_path):
    one, other = random_codes(rng, 5), Corpus(random_codes(rng, 4, k=2), ["x"] * 4)
    write_page(tmp_path / "p.html", one, ["y"] * 5, nameless(), compared=other)
    found = content_of(tmp_path / "p.html")
    assert found["k"] == 2
    values = np.frombuffer(base64.b64decode(found["values"]), "<f4").reshape(9, 2)
    np.testing.assert_allclose(values[:5], one.normalize().prefix(2).values, rtol=1e-6)


@pytest.mark.parametrize("with_decoder", [True, False])
@pytest.mark.parametrize("landmarks", [1000, 60])
def test_latents_of_one_group_lie_together(rng, monkeypatch, with_decoder, landmarks):
    monkeypatch.setattr(layout, "LANDMARKS", landmarks)
    groups = np.arange(90) % 3
    rows = np.eye(3)[groups] + 0.2 * rng.normal(size=(90, 3))
    decoder = Decoder(rows.astype(np.float32), np.zeros(3, np.float32)) if with_decoder else None
    indices = np.array(
        [rng.choice(np.flatnonzero(groups == row % 3), 6, False) for row in range(600)]
    )
    codes = SparseCodes(indices, np.ones(indices.shape, np.float32), 90)
    placed = layout.positions(codes, np.arange(90), decoder)
    assert placed.min() == 0
    assert placed.max() == 1
    distances = np.linalg.norm(placed[:, None] - placed, axis=2) + 9 * np.eye(90)
    assert np.mean(groups[distances.argmin(axis=1)] == groups) > 0.95


def test_latents_that_are_all_alike_have_places():
    codes = SparseCodes(np.tile(np.arange(8), (100, 1)), np.ones((100, 8), np.float32), 8)
    for some in (codes, codes[:1]):
        placed = layout.positions(some, np.arange(8), None)
        assert np.isfinite(placed).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_latents_have_places(rng, n):
    decoder = Decoder(rng.normal(size=(8, 4)).astype(np.float32), np.zeros(4, np.float32))
    placed = layout.positions(random_codes(rng, 5, 2, 8), np.arange(n), decoder)
    assert placed.shape == (n, 2)
    assert np.isfinite(placed).all()


def test_a_port_in_use_is_named():
    with (
        PageServer("", lambda _: None) as server,
        pytest.raises(
            OSError, match=rf"port {server.server_port} cannot be served .* or 0 for any"
        ),
    ):
        PageServer("", lambda _: None, server.server_port)
