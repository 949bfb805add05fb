"""The snippets of README.md run as they stand, with a small model in the place of the real one."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from huggingface_hub import constants

import csr_st

ROOT = Path(csr_st.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, flags=re.M | re.S)
SHELL = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.M | re.S)


def sentences(n):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(n)]


def assert_codes(found, n, k):
    assert found.shape[0] == n
    assert (np.count_nonzero(found, axis=1) <= k).all()


def test_a_saved_model_is_used(model, tmp_path, monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.chdir(tmp_path)
    csr_st.save(model, "csr-demo")
    names: dict = {}
    exec(PYTHON[0], names)  # what a reader would type
    assert_codes(names["model"].encode(names["texts"], k=16), 3, 16)
    assert names["codes"].k == 16
    assert len(names["index"]) == 3
    exec(PYTHON[1], names)
    assert names["packed"].residual.bits == 1
    assert names["index"].value_bits == 4
    pytest.importorskip("bm25s")
    exec(PYTHON[2], names)
    assert names["index"].language == "english"
    exec(PYTHON[3], names)
    assert len(names["names"]) > 0
    exec(PYTHON[5], names)
    assert sorted(csr_st.SegmentedIndex.open("documents").ids.tolist()) == [0, 1, 2, 11, 12]


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_a_head_is_trained_from_python(backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"csr_st": csr_st, "backbone": backbone, "texts": sentences(200)}
    exec(PYTHON[4], names)
    assert_codes(names["model"].encode(["the cat"], k=4), 1, 4)
    assert "csr-st evaluate" in Path("my-csr/README.md").read_text(encoding="utf-8")
    assert len(PYTHON) == 6


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_commands_from_texts_to_a_published_model_and_a_search(run, backbone, monkeypatch):
    from hub_stand_in import WRITER, HubStandIn

    pytest.importorskip("numba")
    (commands,) = [block for block in SHELL if "csr-st push" in block]
    texts = sentences(200)
    backbone.save("sentence-transformers/all-MiniLM-L6-v2")  # found here before the Hub
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    Path("documents.jsonl").write_text(rows, encoding="utf-8")
    write_beir(Path("beir-folder"), texts)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with HubStandIn() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr("warnings.filterwarnings", lambda *_, **__: None)
        for line in commands.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "csr-st"
            patch.setattr(constants, "HF_HUB_OFFLINE", arguments[0] != "push")
            if arguments[0] == "push":
                with pytest.warns(DeprecationWarning, match="Use 'content="):  # the client's own
                    code, out, err = run(*arguments)
            else:
                code, out, err = run(*arguments)
            assert code == 0, f"{line}\n{err}"
        assert "org/my-csr" in hub.repos
    assert len(out.splitlines()) == 10  # the search, which comes last
    assert {int(line.split("\t")[2]) for line in out.splitlines()} <= set(range(len(texts)))


def write_beir(folder, texts):
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts[:20])]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    qrels = "".join(f"q{i}\td{i}\t1\n" for i in range(20))
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + qrels, "utf-8")


def test_what_is_not_run_here_names_what_exists():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    others = [block.splitlines() for block in SHELL if "csr-st push" not in block]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r'(?:csr-st|"\.)\[([\w,]+)\]', README)
    assert {extra for extras in named for extra in extras.split(",")} <= set(
        project["optional-dependencies"]
    )
    for path in ("tests/run.sh", *re.findall(r"\]\(([\w./-]+)\)", README)):
        assert (ROOT / path).exists(), path
    assert [line.split(" && ")[-1] for lines in others for line in lines] == [
        "csr-st demo",
        'pip install "csr-st[search,plots]"',
        "bash tests/run.sh",
    ]
    for name in re.findall(r"`((?:frameworks|search)[.\w]+)`", README):
        folder = ROOT / "csr_st" / Path(*(part for part in name.split(".") if part.islower()))
        assert folder.exists() or folder.with_suffix(".py").exists(), name
    assert len(README.splitlines()) < 220  # with the table of what it works with
