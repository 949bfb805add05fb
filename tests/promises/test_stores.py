"""Promises of `EmbeddingStore`: durable, and the same for threads, processes and copies."""

import copy
import multiprocessing
import operator
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from embedding_runs import TEXTS as MANY
from embedding_stub import StubModel, vector_of

from csr_st.embeddings import EmbeddingStore, matrix
from csr_st.embeddings.joining import joined
from csr_st.embeddings.writing import LOCK

RUNS = str(Path(__file__).parents[1] / "embedding_runs.py")
TEXTS = [f"text {i}" for i in range(50)]
VECTORS = np.stack([vector_of(text) for text in TEXTS])
ROWS = [{"text": text, "label": f"class {i % 7}"} for i, text in enumerate(TEXTS)]


def embed(path, texts=TEXTS, **options):
    options = {"dtype": "float32", "shard_rows": 8, **options}
    return EmbeddingStore.embed(StubModel(), texts, path, **options)


def run(*arguments):
    done = subprocess.run([sys.executable, RUNS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != LOCK}


@pytest.mark.parametrize("kind", ["counted", "stream"])
def test_a_store_survives_a_kill_at_any_moment(tmp_path, kind):
    path = tmp_path / f"killed-{kind}"
    assert int(run("kill", str(path), "8", "0")) >= 4  # the rest ended before they were killed
    store = EmbeddingStore.open(path)
    expected = np.stack([vector_of(text) for text in MANY]).astype(np.float16)
    np.testing.assert_array_equal(store.vectors(), expected.astype(np.float32))
    np.testing.assert_array_equal(store.labels, np.arange(400) % 7)
    store.verify()
    whole = next(entry for entry in tmp_path.iterdir() if ".whole" in entry.name)
    assert files_of(path) == files_of(whole)  # byte for byte, and no other files


def test_a_full_disk_loses_no_complete_shard(tmp_path):
    said = run("full", str(tmp_path / "small disk"))
    if said == "no mount":
        pytest.skip("this user may not mount a small file system")
    assert "No space left on device" in said
    assert "make room and run the same call again" in said
    assert said.endswith("as one that was never interrupted")


def test_a_store_opens_in_a_read_only_folder():
    said = run("read-only")
    assert re.fullmatch(r"read; embed: .*Permission denied: '.*/t'", said)


KINDS = ["embedded", "npy", "parquet", "arrow", "shards", "view", "array", "joined"]


@pytest.fixture(params=KINDS)
def store(request, tmp_path):
    kind = request.param
    lists = {"vectors": VECTORS.tolist(), "label": [row["label"] for row in ROWS]}
    if kind in ("embedded", "view"):
        store = embed(tmp_path / "s", ROWS, text_column="text", label_column="label")
        return store.subset([3, 1, 40]) if kind == "view" else store
    if kind == "array":
        return EmbeddingStore.from_array(VECTORS, labels=lists["label"])
    if kind == "joined":
        return joined([embed(tmp_path / name) for name in "ab"])[0]
    if kind == "npy":
        np.save(tmp_path / "v.npy", VECTORS)
    elif kind == "parquet":
        pd.DataFrame(lists).to_parquet(tmp_path / "v.parquet")
    elif kind == "arrow":
        datasets.Dataset.from_dict(lists).save_to_disk(tmp_path / "v.arrow")
    else:
        (tmp_path / "v.shards").mkdir()
        for number in range(5):
            np.save(tmp_path / "v.shards" / f"{number}.npy", VECTORS[number * 10 :][:10])
    label = "label" if kind in ("parquet", "arrow") else None
    return EmbeddingStore.open(tmp_path / f"v.{kind}", label_column=label)


def test_sixteen_threads_read_what_one_reads(store, monkeypatch):
    monkeypatch.setattr(matrix, "MAPPED_BUDGET_BYTES", 256)  # pages are released all the time
    asked = [np.random.default_rng(i).integers(0, len(store), 30) for i in range(200)]
    expected = [store.rows(rows) for rows in asked]
    fresh = copy.deepcopy(store)  # of which no part is open yet
    with ThreadPoolExecutor(16) as threads:
        for one, other in zip(expected, threads.map(fresh.rows, asked), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copied_or_pickled_store_is_the_same_store(store, copied, read_before):
    if read_before:
        store.vectors()
    other = copied(store)
    np.testing.assert_array_equal(other.vectors(), store.vectors())
    np.testing.assert_array_equal(np.asarray(other.labels), np.asarray(store.labels))
    assert other.fingerprint() == store.fingerprint()
    assert (other.info, other.label_names) == (store.info, store.label_names)
    np.testing.assert_array_equal(copied(other).vectors(), store.vectors())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # where other threads run
@pytest.mark.parametrize("read_before", [False, True])
def test_processes_read_what_their_parent_reads_after_a_fork(store, read_before):
    expected = copy.deepcopy(store).vectors()
    if read_before:
        store.vectors()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(operator.methodcaller("vectors"), [store] * 4):
            np.testing.assert_array_equal(found, expected)


def test_a_spawned_process_reads_what_its_parent_reads(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    stores = [embed(tmp_path / "s"), EmbeddingStore.open(tmp_path / "v.npy")]
    stores.append(stores[0].split(0.2)[0])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for store, found in zip(
            stores, pool.map(operator.methodcaller("vectors"), stores), strict=True
        ):
            np.testing.assert_array_equal(found, store.vectors())


def test_a_pickled_store_whose_files_changed_is_refused(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    file = pickle.dumps(EmbeddingStore.open(tmp_path / "v.npy"))
    np.save(tmp_path / "v.npy", VECTORS[::-1])
    with pytest.raises(ValueError, match=r"v\.npy was changed after the store was pickled"):
        pickle.loads(file)
    own = pickle.dumps(embed(tmp_path / "s"))
    shutil.rmtree(tmp_path / "s")
    embed(tmp_path / "s", TEXTS[::-1])
    with pytest.raises(ValueError, match="s was replaced after the store was pickled"):
        pickle.loads(own)


def test_a_mapped_file_that_is_replaced_by_a_rename_keeps_its_rows(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    store = EmbeddingStore.open(tmp_path / "v.npy")
    np.save(tmp_path / "new.npy", np.zeros((2, 2), np.float32))
    (tmp_path / "new.npy").replace(tmp_path / "v.npy")
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    (tmp_path / "v.npy").unlink()
    np.testing.assert_array_equal(store.vectors(), VECTORS)


@pytest.mark.parametrize("rows", [0, 10, 50, 90])
def test_a_mapped_file_that_is_written_to_is_refused(tmp_path, rows):
    np.save(tmp_path / "v.npy", VECTORS)
    store = EmbeddingStore.open(tmp_path / "v.npy")
    store.rows(np.arange(5))
    np.save(tmp_path / "v.npy", np.ones((rows, 8), np.float32))  # in place: shorter, equal, longer
    os.utime(tmp_path / "v.npy", ns=(1, 1))  # whatever the clock of the file system shows
    with pytest.raises(ValueError, match=r"v\.npy was written to after it was opened; open it"):
        store.rows(np.arange(5))
    with pytest.raises(ValueError, match=r"v\.npy was changed after it was opened"):
        store.fingerprint()


def test_a_store_that_is_replaced_gives_its_own_rows_or_none(tmp_path):
    read, unread = embed(tmp_path / "s"), EmbeddingStore.open(tmp_path / "s")
    read.vectors()
    shutil.rmtree(tmp_path / "s")
    embed(tmp_path / "s", TEXTS[::-1])
    np.testing.assert_array_equal(read.vectors(), VECTORS)
    with pytest.raises(ValueError, match="the store was replaced after it was opened"):
        unread.vectors()


def test_a_file_replaced_within_a_second_by_one_of_equal_size_is_read_anew(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, VECTORS)
    first = EmbeddingStore.open(path).fingerprint()
    status = path.stat()
    np.save(path, 2 * VECTORS)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store = EmbeddingStore.open(path)
    np.testing.assert_array_equal(store.vectors(), 2 * VECTORS)
    assert store.fingerprint() != first


@pytest.mark.parametrize("name", ["with spaces", "Bücher 本", "v[1]*?", "C:\\vectors", "é" * 120])
def test_any_name_of_a_folder_is_a_name(tmp_path, name):
    store = embed(tmp_path / name)
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    assert embed(tmp_path / name).fingerprint() == store.fingerprint()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_one_row_is_a_store_and_none_is_refused(tmp_path):
    store = embed(tmp_path / "one", TEXTS[:1])
    np.testing.assert_array_equal(store.vectors(), VECTORS[:1])
    assert [batch.tolist() for batch in store.batches(8, seed=0, epoch=0)] == [[0]]
    with pytest.raises(ValueError, match="held_out=1 of 1 rows leaves one side empty"):
        store.split(1)
    assert store.subset([]).vectors().shape == (0, 8)
    with pytest.raises(ValueError, match="the data is empty"):
        embed(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()
