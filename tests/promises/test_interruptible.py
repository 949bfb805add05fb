"""Promise: Ctrl-C ends every command within a second, in two lines that say how to go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS

import csr_st

RUNS = str(Path(__file__).parents[1] / "command_runs.py")
SECONDS = 5.0  # one, and some for a busy machine


def interrupted(folder, jobs):
    """Run jobs of `command_runs.py` in a folder; their results."""
    done = subprocess.run(
        [sys.executable, RUNS, json.dumps(jobs)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def folder(model, backbone, tmp_path):
    """Models, texts, codes and an index, as the commands take them."""
    backbone.save(str(tmp_path / "base"))
    csr_st.save(model, tmp_path / "sparse")
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS, 5))} for _ in range(400)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    codes = csr_st.encode(model, [row["text"] for row in rows], k=4)
    codes.save(tmp_path / "codes.safetensors")
    csr_st.SparseIndex.build(codes).save(tmp_path / "index.csr")
    return tmp_path


TRAIN = "train base rows.jsonl --output 'my csr' --steps 20 --k 4"
RESUMED = f"csr-st {TRAIN} --resume"
EMBED = "sentence_transformers:SentenceTransformer.encode"
LOOK_UP = "csr_st.static_queries:StaticQueries.codes"
STAGES = [  # command, where it is interrupted, what it prints
    (TRAIN, EMBED, "my csr; go on with", RESUMED),
    (TRAIN, "csr_st.training.loop:feed", "my csr; go on with", RESUMED),
    (TRAIN, "csr_st.training.loop:_finished", "my csr; go on with", RESUMED),
    (TRAIN, "csr_st.workflow:evaluate_held_out", "my csr; go on with", RESUMED),
    (TRAIN, "csr_st.workflow:save", "my csr; go on with", RESUMED),
    ("distill-queries sparse rows.jsonl --output f", EMBED, "kept in f; go on with", None),
    (
        "distill-queries sparse rows.jsonl --output f",
        "csr_st.distill.distilling:refined",
        "kept in f; go on with",
        None,
    ),
    ("encode sparse rows.jsonl --output=codes", EMBED, "kept in codes; go on with", None),
    ("encode sparse rows.jsonl --output c.safetensors", EMBED, "nothing was written", None),
    ("index codes.safetensors --output i.csr", "csr_st:SparseIndex.build", "nothing was", None),
    ("index codes.safetensors --output i.csr", "csr_st:SparseIndex.save", "nothing was", None),
    ("search index.csr 'a cat' --model sparse", LOOK_UP, "nothing was written", None),
    ("search index.csr cat --model sparse", "csr_st:SparseIndex.search", "nothing was", None),
    ("evaluate sparse rows.jsonl", "csr_st.evaluation.held_out:evaluate", "nothing was", None),
    ("explore sparse rows.jsonl --output e.html", EMBED, "nothing was written", None),
    ("serve sparse --port 0", "csr_st.serving:create_app", "serve again with", None),
    ("push sparse org/name", "csr_st.publishing.hub:published_files", "the Hub has the", None),
    ("convert sparse --to native --output n", "csr_st.convert.native:_card", "nothing was", None),
    ("export sparse --output x", "csr_st.export.exporting:sample_texts", "nothing was", None),
    ("demo --output d", "csr_st.demo.run:gather", "kept in d; go on with", None),
]


if not find_spec("fastapi"):
    STAGES = [stage for stage in STAGES if not stage[0].startswith("serve")]


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [False, True], ids=["waiting", "in compiled code"])
def test_every_command_ends_within_a_second_and_says_how_to_go_on(folder, stuck):
    jobs = [{"arguments": shlex.split(command), "stage": stage} for command, stage, *_ in STAGES]
    found = interrupted(folder, [{**job, "stuck": stuck} for job in jobs])
    for (command, stage, kept, again), result in zip(STAGES, found, strict=True):
        assert result["code"] == 130, (command, stage, result)
        assert result["seconds"] < SECONDS, (command, stage)
        lines = result["err"].rstrip("\n").split("\n")[-2:]
        assert lines[0].startswith("csr-st: interrupted; "), (command, stage, result)
        assert kept in lines[0]
        assert lines[1] == "    " + (again or f"csr-st {command}")
        for trace in ("Traceback", "KeyboardInterrupt", "Exception ignored"):
            assert trace not in result["err"], (command, stage)
    assert not any((folder / name).exists() for name in ("c.safetensors", "i.csr", "e.html", "n"))
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left or stuck


def test_train_says_resume(folder):
    (result,) = interrupted(
        folder, [{"arguments": shlex.split(TRAIN), "stage": "csr_st.training.loop:feed"}]
    )
    assert result["code"] == 130
    assert result["seconds"] < SECONDS
    assert result["err"].endswith(f"    {RESUMED}\n")
    assert "Traceback" not in result["err"]


@pytest.mark.slow
def test_what_is_printed_goes_on_from_any_moment_to_the_same_head(folder):
    """The printed command, interrupted again and again, ends with the bits of one run."""
    command = shlex.split(TRAIN.replace("--steps 20", "--steps 100"))
    moments = [0.4, 0.8, 1.6, 2.5, 4.0]
    jobs = [{"arguments": command, "stage": moments[0]}]
    jobs += [{"arguments": [*command, "--resume"], "stage": moment} for moment in moments[1:]]
    jobs += [{"arguments": [*command, "--resume"], "stage": 120}]
    whole = [one if one != "my csr" else "whole" for one in command]
    *stopped, last, uninterrupted = interrupted(folder, [*jobs, {"arguments": whole, "stage": 120}])
    assert last["code"] == uninterrupted["code"] == 0, last["err"]
    assert stopped[0]["code"] == 130
    for result in stopped:
        assert result["code"] in (0, 130), result["err"]
        assert "Traceback" not in result["err"]
        if result["code"]:
            assert result["seconds"] < SECONDS
            assert result["err"].endswith(f"    csr-st {shlex.join([*command, '--resume'])}\n")
    heads = [folder / name / "1_SparseCSRHead" for name in ("my csr", "whole")]
    for name in ("config.json", "model.safetensors"):
        assert heads[0].joinpath(name).read_bytes() == heads[1].joinpath(name).read_bytes()
    assert not list((folder / "my csr").rglob("*.part"))
    assert not list((folder / "my csr").glob(".saving-*"))


def test_an_earlier_run_s_checkpoints_are_not_what_is_resumed(folder, monkeypatch):
    checkpoints = folder / "my csr" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-000000020.safetensors").write_bytes(b"of another run")
    (result,) = interrupted(folder, [{"arguments": shlex.split(TRAIN), "stage": EMBED}])
    assert result["err"].endswith(f"    csr-st {TRAIN}\n")


@pytest.mark.parametrize("wait", [0.1, 2.5])
def test_an_interrupt_during_the_imports_is_one_line(tmp_path, wait):
    command = [sys.executable, "-m", "csr_st.cli", "search", "i", "q", "--model", "m"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while maps.exists() and "numpy" not in maps.read_text():  # it imports for seconds yet
            time.sleep(0.02)
        time.sleep(wait)
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
    assert time.perf_counter() - began < SECONDS
    assert process.returncode == 130
    assert err == "\ncsr-st: interrupted before it began; run the same command again\n"


def test_python_gets_the_interrupt_and_the_folder_keeps_its_model(model, tmp_path, monkeypatch):
    """From Python nothing swallows KeyboardInterrupt."""
    csr_st.save(model, tmp_path / "m")
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    for place in ("csr_st.model.files.write_atomically", "csr_st.publishing.hub.updated"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                csr_st.save(model, tmp_path / "m", data="other")
        after = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
        assert after == before
