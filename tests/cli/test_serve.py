"""What `csr-st serve` refuses before it serves, each in one line."""

from __future__ import annotations

import socket
import sys

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("numba")

import csr_st


@pytest.fixture
def folder(model, texts, tmp_path):
    csr_st.save(model, tmp_path / "m")
    csr_st.SparseIndex.build(csr_st.encode(model, texts)).save(tmp_path / "i.csr")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "words").write_text("two words")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["none"], ["none is not a folder"]),
        (["i.csr"], ["i.csr is an index, where a model is needed"]),
        (["m", "--index", "m"], ["m is a model, where an index is needed"]),
        (["m", "--index", "none.csr"], ["none.csr does not exist"]),
        (["m", "--texts", "two.txt"], ["--texts two.txt is for hits of an --index"]),
        (["m", "--index", "i.csr", "--texts", "two.txt"], ["2 texts and 5 documents"]),
        (["m", "--index", "i.csr", "--names", "none.json"], ["none.json"]),
        (["m", "--host", "0.0.0.0"], ["--host 0.0.0.0", "--token-file", "--without-token"]),
        (["m", "--host", "::"], ["--host ::", "no token"]),
        (["m", "--host", "192.0.2.1", "--without-token"], ["192.0.2.1 port 0", "another --host"]),
        (["m", "--token-file", "none"], ["none"]),
        (["m", "--token-file", "empty"], ["--token-file empty: the token has 0 characters"]),
        (["m", "--token-file", "words"], ["--token-file words: the token has 9 characters"]),
        (["m", "--device", "cuda:77"], ["--device cuda:77 cannot be used"]),
    ],
)
def test_what_cannot_be_served_is_one_line(run, folder, arguments, parts):
    code, out, err = run("serve", *arguments, "--port", "0")
    assert code == 1
    assert err.startswith("csr-st: error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err, err
    assert "Serving" not in out
    assert "two words" not in err


def test_an_empty_token_in_the_environment_is_refused(run, folder, monkeypatch):
    monkeypatch.setenv("CSR_ST_TOKEN", "")
    code, _, err = run("serve", "m", "--port", "0")
    assert code == 1
    assert "CSR_ST_TOKEN: the token has 0 characters" in err


def test_a_port_in_use_is_named(run, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("serve", "m", "--port", port)
    assert code == 1
    assert f"127.0.0.1 port {port} cannot be served" in err
    assert "name another --port" in err


def test_without_the_extra_its_name_is_said(run, folder, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("csr_st.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = run("serve", "m")
    assert code == 1
    assert err == 'csr-st: error: fastapi is missing: pip install "csr-st[serve]"\n'
