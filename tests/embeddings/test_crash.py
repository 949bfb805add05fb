"""Runs that are killed, run beside one another, or run together end with one and the same store."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from embedding_runs import embed
from embedding_stub import StubModel, vector_of

from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.writing import LOCK

RUNS = str(Path(__file__).parents[1].joinpath("embedding_runs.py"))
TEXTS = [f"text {i}" for i in range(400)]


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != LOCK}


def assert_complete(path):
    store = EmbeddingStore.open(path)
    expected = np.stack([vector_of(text) for text in TEXTS]).astype(np.float16)
    np.testing.assert_array_equal(store.vectors(), expected.astype(np.float32))
    assert store.label_names == [f"class {i}" for i in range(7)]
    np.testing.assert_array_equal(store.labels, np.arange(400) % 7)
    store.verify()


def test_a_run_killed_before_its_plan_had_its_name_leaves_nothing_behind(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".plan.json.0123456789ab.part").write_text('{"format": "csr_st')
    embed(str(tmp_path / "s"))
    assert_complete(tmp_path / "s")
    assert not list((tmp_path / "s").glob("*.part"))


@pytest.mark.slow
def test_two_processes_write_the_store_of_one(tmp_path):
    launch(tmp_path / "two")
    assert_complete(tmp_path / "two")
    embed(str(tmp_path / "one"))
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    plans = [json.loads(files.pop("plan.json")) for files in (one, two)]
    manifests = [json.loads(files.pop("manifest.json")) for files in (one, two)]
    assert one == two  # every shard and label, byte for byte
    # The model's module has another name when its file is the program.
    for plan in (*plans, *(manifest.pop("plan") for manifest in manifests)):
        assert plan["recipe"].pop("model").endswith("SlowModel")
    assert plans[0] == plans[1]
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_failure_of_one_process_ends_both_and_can_be_resumed(tmp_path):
    run = launch(tmp_path / "s", "1", check=False)
    assert run.returncode != 0
    assert "the model broke" in run.stderr
    done = len(list((tmp_path / "s").glob("shard-*")))
    assert 0 < done < 40
    launch(tmp_path / "s")
    assert_complete(tmp_path / "s")


def launch(path, *arguments, check=True):
    # On a machine without accelerators `accelerate launch` needs MPI for a second process;
    # torchrun is what it runs elsewhere.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [RUNS, "once", str(path), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0 or not check, run.stderr
    return run


def test_second_writer_is_refused_while_the_first_writes(tmp_path):
    path = tmp_path / "s"

    def write_too(_):
        with pytest.raises(BlockingIOError, match=r"another process is writing to .*s; wait"):
            EmbeddingStore.embed(StubModel(), TEXTS, path)

    EmbeddingStore.embed(StubModel(before=write_too), TEXTS, path)


def test_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "s"
    path.mkdir()
    program = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire();"
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError, match="another process is writing"):
            embed(str(path))
        writer.kill()
    embed(str(path))
    assert_complete(path)


def test_lock_file_of_an_earlier_version_does_not_block(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / LOCK).write_text(json.dumps({"pid": 1, "host": "another-host"}))
    embed(str(tmp_path / "s"))
    assert_complete(tmp_path / "s")
