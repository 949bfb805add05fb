"""`csr-st explore`: a model and texts in, a page out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import tiny_clip
from conftest import WORDS
from insight.test_page import content_of
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.insight.page import PageServer, layout
from csr_st.insight.page import content as page_content
from csr_st.vectors import VectorInput


@pytest.fixture
def texts(model, tmp_path, monkeypatch):
    """80 texts in rows.jsonl and other.jsonl, beside a model in `sparse`."""
    csr_st.save(model, tmp_path / "sparse")
    rng = np.random.default_rng(0)
    found = [" ".join(rng.choice(WORDS, 6)) for _ in range(80)]
    for name, some in (("rows", found), ("other", found[:30])):
        lines = [json.dumps({"text": text, "number": 3}) for text in some]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return found


def test_it_writes_a_page_of_all_texts(run, texts, tmp_path, model):
    code, out, err = run("explore", "sparse", "rows.jsonl", "--output", "deep/page.html")
    assert code == 0, err
    assert "deep/page.html: 80 texts, " in out
    found = content_of(tmp_path / "deep" / "page.html")
    assert found["texts"] == texts
    assert found["title"] == "rows.jsonl"
    assert found["k"] == 32
    codes = csr_st.encode(model, texts, k=32, role="document")
    assert sorted(found["latents"]) == np.unique(codes.indices[codes.values > 0]).tolist()


def test_without_output_the_page_is_explorer_html(run, texts, tmp_path):
    code, _, err = run("explore", "sparse", "rows.jsonl", "--k", "4")
    assert code == 0, err
    assert content_of(tmp_path / "explorer.html")["k"] == 4


def test_of_many_texts_the_same_are_drawn(run, texts, tmp_path):
    for name in ("one.html", "two.html"):
        code, out, err = run("explore", "sparse", "rows.jsonl", "--limit", 20, "--output", name)
        assert code == 0, err
        assert "rows.jsonl: 20 of 80 entries, drawn at random" in out
    one, two = (content_of(tmp_path / name)["texts"] for name in ("one.html", "two.html"))
    assert one == two
    assert len(one) == 20
    assert [text for text in texts if text in one] == one


def test_two_collections_share_the_limit(run, texts, tmp_path):
    code, _, err = run("explore", "sparse", "rows.jsonl", "--compare", "other.jsonl", "--limit", 70)
    assert code == 0, err
    assert content_of(tmp_path / "explorer.html")["corpora"] == [
        {"label": "rows.jsonl", "size": 35, "images": False},
        {"label": "other.jsonl", "size": 30, "images": False},
    ]


def test_names_are_written_without_texts(run, texts, tmp_path):
    file = tmp_path / "sparse" / "latents.json"
    code, _, err = run("explore", "sparse", "rows.jsonl", "--k", "4", "--names", file)
    assert code == 0, err
    names, page = csr_st.LatentNames.load(file), content_of(tmp_path / "explorer.html")
    assert (names.k, names.n_texts) == (4, 80)
    assert [names[latent].words for latent in page["latents"]] == list(map(tuple, page["words"]))
    assert not any(text in file.read_text() for text in texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sparse missing.jsonl", "missing.jsonl"),
        ("sparse rows.jsonl --compare missing.jsonl", "missing.jsonl"),
        ("sparse sparse", "sparse is a model, where data are needed"),
        ("base rows.jsonl", "0 SparseCSRHead modules where one is needed"),
        ("sparse rows.jsonl --k 65", "k=65 exceeds hidden_dim=64"),
        ("sparse rows.jsonl --column number", "number"),
        ("sparse rows.jsonl --output sparse", "--output sparse is a folder"),
        ("sparse rows.jsonl --limit 20001", "--limit"),
        ("sparse rows.jsonl --names sparse", "--names sparse is a folder"),
        ("sparse rows.jsonl --names x --output x", "--names and --output are both x"),
    ],
)
def test_what_the_user_can_fix_is_one_line(run, texts, backbone, arguments, message):
    backbone.save("base")
    code, _, err = run("explore", *arguments.split())
    assert code in (1, 2)
    line = err.splitlines()[-1]
    assert line.startswith("csr-st: error: ")
    assert message in line
    assert not os.path.exists("explorer.html")


@pytest.fixture
def squares(head, tmp_path, monkeypatch):
    """Coloured squares with captions in `squares`, beside a model of images and texts in `clip`."""
    clip = SentenceTransformer(tiny_clip.build(tmp_path / "dense"), device="cpu")
    csr_st.save(csr_st.attach(clip, head), tmp_path / "clip")
    tiny_clip.clip_pairs.tiny_pairs(40).save_to_disk(tmp_path / "squares")
    monkeypatch.chdir(tmp_path)


def test_images_are_shown_with_captions(run, squares, tmp_path):
    code, out, err = run("explore", "clip", "squares", "--captions", "caption", "--k", "4")
    assert code == 0, err
    assert "explorer.html: 40 images, " in out
    found = content_of(tmp_path / "explorer.html")
    assert found["texts"][:2] == ["a photo of a red square", "a photo of a green square"]
    assert len(found["pictures"]) == 40


def test_images_need_no_captions(run, squares, tmp_path):
    code, _, err = run("explore", "clip", "squares", "--column", "image", "--k", "4")
    assert code == 0, err
    found = content_of(tmp_path / "explorer.html")
    assert found["texts"] == [""] * 40
    assert len(found["pictures"]) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("squares --captions image", "--captions image must name a column of texts"),
        ("squares --captions name", "column 'name' is not among"),
        ("squares --column caption --captions caption", "is for images, and squares has texts"),
    ],
)
def test_captions_that_are_none_are_named(run, squares, arguments, message):
    code, _, err = run("explore", "clip", *arguments.split())
    assert code == 1
    assert message in err.splitlines()[-1]


def test_models_of_vectors_are_refused(run, texts, head):
    dense = SentenceTransformer(modules=[VectorInput(16)], device="cpu")
    csr_st.save(csr_st.attach(dense, head), "vectors")
    code, _, err = run("explore", "vectors", "rows.jsonl")
    assert code == 1
    assert "vectors takes vectors, and the page shows texts or images" in err


def test_the_page_that_is_written_is_served_and_its_map_made_once(
    run, texts, tmp_path, monkeypatch
):
    maps, served = [], []

    def positions(*arguments):
        maps.append(arguments)
        return layout.positions(*arguments)

    monkeypatch.setattr(page_content, "positions", positions)
    monkeypatch.setattr(PageServer, "serve_forever", lambda server: served.append(server.page))
    code, out, err = run(
        "explore", "sparse", "rows.jsonl", "--output", "p.html", "--serve", "--port", 0
    )
    assert code == 0, err
    assert "p.html: 80 texts" in out
    assert len(maps) == 1
    (tmp_path / "served.html").write_bytes(served[0])
    written, live = content_of(tmp_path / "p.html"), content_of(tmp_path / "served.html")
    assert (written.pop("live"), live.pop("live")) == (False, True)
    assert written == live


@pytest.mark.slow
def test_it_serves_until_control_c(texts, tmp_path):
    command = [sys.executable, "-m", "csr_st.cli", "explore", "sparse", "rows.jsonl"]
    process = subprocess.Popen(
        [*command, "--serve", "--port", "0", "--k", "4"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = None
    for line in process.stdout:
        if line.startswith("The page is at "):
            address = line.split()[4]
            break
    assert address is not None, process.stderr.read()
    body = json.dumps({"text": "the cat sat"}).encode()
    request = urllib.request.Request(f"{address}encode", body, {"Content-Type": "application/json"})
    found = json.loads(urllib.request.urlopen(request, timeout=60).read())
    assert 0 < len(found["latents"]) <= 4
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "csr-st: interrupted; the page is no longer served; serve it again with\n" in err
    assert err.endswith("--serve --port 0 --k 4\n")
    assert "Traceback" not in err
    assert not (tmp_path / "explorer.html").exists()
