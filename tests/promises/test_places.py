"""Promise: any name and any place gives the right result or one clear line, never a traceback."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from killing import in_child
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import cli

NAMES = [
    "a b",
    "ü 日本",
    "C:\\models\\x",
    "data[1]",
    "*",
    "deep/er/m",
    "tr/",
    "%s {0}",
    "line\nend",
]


@pytest.fixture
def files(model, backbone, tmp_path):
    """Models, texts, codes and an index in the current folder."""
    csr_st.save(model, tmp_path / "sparse")
    backbone.save(str(tmp_path / "base"))
    texts = [f"{word} {other}" for word in WORDS for other in WORDS[:4]]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa ab\n" * 3)
    (tmp_path / "empty").mkdir()
    codes = csr_st.encode(model, texts, k=4)
    codes.save(tmp_path / "codes.safetensors")
    csr_st.SparseIndex.build(codes).save(tmp_path / "index.csr")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_name(run, files, model, texts, name):
    """A model, its codes and its conversion under a name with spaces, brackets, backslashes."""
    csr_st.save(model, name)
    steps = [
        ("encode", name, "rows.jsonl", "--output", f"c-{name.rstrip('/')}.safetensors"),
        ("index", f"c-{name.rstrip('/')}.safetensors", "--output", f"i-{name.rstrip('/')}"),
        ("search", f"i-{name.rstrip('/')}", "cat", "--model", name),
        ("convert", name, "--to", "native", "--output", f"n-{name}"),
        ("convert", f"n-{name}", "--to", "csr", "--output", f"b-{name}"),
    ]
    for step in steps:
        code, _, err = run(*step)
        assert code == 0, err
    back = SentenceTransformer(f"b-{name}", device="cpu")
    np.testing.assert_allclose(back.encode(texts), model.encode(texts), atol=1e-6)


def test_a_tilde_that_the_shell_left_is_the_home_folder(run, files, monkeypatch):
    monkeypatch.setenv("HOME", str(files / "home"))
    code, _, err = run("convert", "sparse", "--to", "native", "--output=~/n")
    assert code == 0, err
    assert (files / "home" / "n" / "modules.json").is_file()
    assert not (files / "~").exists()


def test_a_link_to_a_folder_is_that_folder(run, files):
    (files / "link").symlink_to(files / "sparse")
    code, _, err = run("evaluate", "link", "rows.jsonl", "--output", "link", "--limit", 40)
    assert code == 0, err
    assert (files / "link").is_symlink()
    assert "40 documents" in (files / "sparse" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("encode rows.jsonl rows.jsonl --output z", "rows.jsonl is data, where a model is needed"),
        (
            "encode empty rows.jsonl --output z",
            "empty is not a saved model: it has no modules.json",
        ),
        ("encode sparse sparse --output z", "sparse"),
        ("encode sparse bad.txt --output z", "bad.txt"),
        ("train base rows.jsonl --output rows.jsonl/x", "rows.jsonl is a file, not a folder"),
        ("demo --output rows.jsonl/x", "rows.jsonl is a file, not a folder"),
        ("index codes.safetensors --output rows.jsonl/x", "rows.jsonl is a file, not a folder"),
        (
            "index codes.safetensors --output z --ids sparse",
            "--ids: sparse cannot be read as a file",
        ),
        ("index codes.safetensors --output z --ids bad.txt", "--ids: bad.txt is not utf-16"),
        ("index codes.safetensors --output z --model rows.jsonl", "where a model is needed"),
        ("search empty cat --model sparse", "empty"),
        ("search index.csr cat --model base", "SparseCSRHead"),
        ("evaluate rows.jsonl sparse", "rows.jsonl is data, where a model is needed"),
        ("push rows.jsonl org/x", "no modules.json"),
        ("convert empty --to csr --output z", "empty"),
        ("convert rows.jsonl --to native --output z", "where a model is needed"),
        ("convert base --to csr --output z", "SparseAutoEncoder"),
        ("convert sparse --to csr --output z", "SparseAutoEncoder"),
        ("convert rows.jsonl --to csr --backbone base --output z", "rows.jsonl is damaged"),
        ("convert sparse --to csr --backbone base --output z", "sparse"),
        ("convert codes.safetensors --to csr --backbone base --output z", "no tensor"),
    ],
)
def test_one_thing_in_the_place_of_another_is_one_line(run, files, arguments, words):
    before = sorted(files.iterdir())
    code, _, err = run(*arguments.split())
    (line,) = [one for one in err.splitlines() if one.startswith("csr-st: ")]
    assert code == 1
    assert words in line
    assert "unexpected" not in line
    assert "Traceback" not in err
    assert {path.name for path in set(files.iterdir()).difference(before)} <= {"cache"}


def ends(work, folder):
    """Exit code and stderr of a command in a fork, after ``work()`` there."""
    error = folder / "stderr"

    def child():
        sys.stderr = error.open("w", buffering=1)  # pytest's own is not this process's
        work()
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code or 0)

    code = os.waitstatus_to_exitcode(os.waitpid(in_child(child), 0)[1])
    return code, error.read_text()


def typed(*arguments):
    sys.argv = ["csr-st", *map(str, arguments)]


def test_a_current_folder_that_was_deleted_is_named(files, tmp_path):
    def work():
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        typed("convert", files / "sparse", "--to", "native", "--output", "n")

    code, err = ends(work, tmp_path)
    assert code == 1
    assert err.endswith(
        "csr-st: error: the current folder no longer exists; change to one that does, such as "
        "`cd ~`\n"
    )


def test_a_full_disk_is_one_line_and_changes_nothing(files):
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    for command in (
        "convert sparse --to native --output n",
        "convert n0 --to csr --output n",
        "index codes.safetensors --output index.csr",
        "evaluate sparse rows.jsonl --limit 40 --output sparse",
    ):

        def work(command=command):
            os.chdir(files)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
            typed(*command.split())

        if command.startswith("convert n0"):
            csr_st.convert.to_native(SentenceTransformer(str(files / "sparse")), files / "n0")
        code, err = ends(work, files)
        assert code == 1, command
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("csr-st: ")]
        assert len(lines) == 1, err
        assert "too large" in lines[0] or "I/O" in lines[0], lines
        (files / "stderr").unlink()
        after = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
        kept = {path: content for path, content in after.items() if "n0" not in path.parts}
        assert kept == before, command


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs to become nobody")
@pytest.mark.parametrize(
    "command",
    [
        "train sparse rows.jsonl --output locked/o",
        "encode sparse rows.jsonl --output locked/c",
        "encode sparse rows.jsonl --output locked/c.safetensors",
        "index codes.safetensors --output locked/i",
        "evaluate sparse rows.jsonl --output locked",
        "convert sparse --to native --output locked/n",
        "demo --output locked",
    ],
)
def test_a_read_only_folder_is_refused_before_any_work(files, command):
    (files / "locked").mkdir(mode=0o555)

    def work():
        os.chdir(files)
        os.setuid(65534)
        os.environ["HOME"] = "/nonexistent"
        typed(*command.split())

    for folder in [files, *files.parents]:
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "popen")):
            folder.chmod(0o755)
    files.chmod(0o755)
    code, err = ends(work, files)
    assert code == 1
    assert err.startswith("csr-st: error: --output locked"), err
    assert "is read-only here; name another place" in err
    assert not list((files / "locked").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["HOME", "TMPDIR"])
def test_no_home_and_no_temporary_folder(files, missing):
    """A process of its own: both are read when modules are imported."""
    environment = {**os.environ, missing: "/nonexistent/folder"}
    for name in ("HF_HOME", "XDG_CACHE_HOME") if missing == "HOME" else ("TMP", "TEMP"):
        environment.pop(name, None)
    environment["HF_DATASETS_CACHE"] = str(files / "cache")
    for command in (
        "train base rows.jsonl --output o --steps 2 --k 4",
        "convert o --to native --output n",
    ):
        done = subprocess.run(
            [sys.executable, "-m", "csr_st.cli", *command.split()],
            cwd=files,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert Path(files, "n", "modules.json").is_file()
