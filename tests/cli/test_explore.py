"""`csr-st explore`: a page as a file, of a sample, of two collections, or served."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import WORDS


@pytest.fixture
def documents(tmp_path):
    """A file of 300 short texts."""
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS, 6))} for _ in range(300)]
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_page_is_written_and_its_place_said(run, saved, documents, tmp_path):
    code, out, _ = run("explore", saved, documents, "--output", "explorer.html")
    assert code == 0
    assert re.search(r"explorer.html: 300 texts, \d+ of \d+ topics named, 0.\d MB. Open it", out)
    assert (tmp_path / "explorer.html").read_text().startswith("<!doctype html>")


def test_the_page_is_called_explorer_html_without_a_name(run, saved, documents, tmp_path):
    assert run("explore", saved, documents)[0] == 0
    assert (tmp_path / "explorer.html").is_file()


def test_a_sample_is_the_same_every_time(run, saved, documents, tmp_path):
    for name in ("one.html", "two.html"):
        code, out, _ = run("explore", saved, documents, "--output", name, "--limit", 50)
        assert code == 0
        assert "50 of 300 texts, drawn at random" in out
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_two_collections_are_compared(run, saved, documents, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(documents.read_text().splitlines()[:100]))
    code, out, _ = run("explore", saved, documents, "--compare", other)
    assert code == 0
    assert "400 texts" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", 0], "k=0"),
        (["--k", 65], "k=65 exceeds hidden_dim=64"),
        (["--limit", 20_001], "20000"),
        (["--output", "."], "is a folder; name a file in it"),
        (["--column", "body"], "body"),
        (["--compare", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_bad_options_are_one_line(run, saved, documents, options, said):
    code, _, err = run("explore", saved, documents, *options)
    assert code in (1, 2)
    assert err.strip().splitlines()[-1].startswith("csr-st: error: ")
    assert said in err


@pytest.mark.slow
def test_a_served_page_answers_until_ctrl_c(saved, documents, tmp_path):
    command = [sys.executable, "-m", "csr_st.cli", "explore", saved, str(documents), "--serve"]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        said = next(line for line in process.stdout if "http://" in line)
        port = int(re.search(r"http://127.0.0.1:(\d+)/", said)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"text": "the cat sat"})
        connection.request("POST", "/encode", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["latents"]
        connection.close()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "the page is no longer served; serve it again with" in err
    assert "Traceback" not in err
    assert not (tmp_path / "explorer.html").exists()
