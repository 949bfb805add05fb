"""Promises of token stores and of models with token-level heads; each test names its promise."""

import copy
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import in_child
from token_models import MANY, save_transformer, transformer_of

import csr_st
from csr_st.embeddings import TokenStore, matrix
from csr_st.embeddings.writing import LOCK

TEXTS = [*MANY[:20], "", *MANY[20:40]]
OPTIONS = {"shard_rows": 8, "tokens_per_text": 3}


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != LOCK}


@pytest.fixture
def store(token_backbone, tmp_path):
    return TokenStore.embed(token_backbone, TEXTS, tmp_path / "s", **OPTIONS)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.lengths, expected.lengths)


def test_a_store_survives_a_kill_at_any_change(token_backbone, store, tmp_path, monkeypatch):
    """Killed before each renaming of a file, and after; the next run ends with the same bytes."""
    expected, replace = files_of(store.path), os.replace
    for place in range(len(expected) + 1):
        path = tmp_path / f"killed-{place}"

        def killed(path=path, place=place):
            calls = []

            def stopping(*arguments, **keywords):
                if len(calls) == place:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls.append(None)
                return replace(*arguments, **keywords)

            os.replace = stopping
            TokenStore.embed(token_backbone, TEXTS, path, **OPTIONS)

        status = os.waitpid(in_child(killed), 0)[1]
        assert os.WIFSIGNALED(status) == (place < len(expected))
        again = TokenStore.embed(token_backbone, TEXTS, path, **OPTIONS)
        again.verify()
        assert files_of(path) == expected


def test_sixteen_threads_read_what_one_reads(store, monkeypatch):
    monkeypatch.setattr(matrix, "MAPPED_BUDGET_BYTES", 256)  # pages are released all the time
    asked = [np.random.default_rng(i).integers(0, len(store), 9) for i in range(100)]
    expected = [store.rows(rows) for rows in asked]
    fresh = copy.deepcopy(store)
    with ThreadPoolExecutor(16) as threads:
        for one, other in zip(threads.map(fresh.rows, asked), expected, strict=True):
            assert_same(one, other)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("read_before", [False, True])
def test_processes_read_what_their_parent_reads_after_a_fork(store, read_before):
    if read_before:
        store.rows(np.arange(3))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for row, found in enumerate(pool.map(store.rows, [np.array([i]) for i in range(9)])):
            assert_same(found, store.rows(np.array([row])))


@pytest.mark.parametrize("name", ["with spaces", "Bücher 本", "v[1]*?", "C:\\tokens"])
def test_any_name_of_a_folder_is_a_name(token_backbone, store, tmp_path, name):
    found = TokenStore.embed(token_backbone, TEXTS, tmp_path / name, **OPTIONS)
    assert found.fingerprint() == store.fingerprint()
    assert_same(TokenStore.open(tmp_path / name).rows(np.arange(9)), store.rows(np.arange(9)))


def test_a_store_that_is_replaced_gives_its_own_rows_or_none(token_backbone, store):
    opened = TokenStore.open(store.path)
    for file in store.path.iterdir():
        file.unlink()
    TokenStore.embed(token_backbone, TEXTS[::-1], store.path, **OPTIONS)
    with pytest.raises(ValueError, match="is not the shard that"):
        opened.rows(np.arange(9))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a store whose files tests may damage, and what it has."""
    folder = save_transformer(str(tmp_path_factory.mktemp("transformer")))
    path = tmp_path_factory.mktemp("damaged") / "s"
    store = TokenStore.embed(transformer_of(folder), TEXTS, path, **OPTIONS)
    return path, (store.rows(np.arange(len(store))), store.dense.vectors())


@settings(max_examples=200)
@given(st.data())
def test_any_damage_is_named_or_does_no_harm(written, data):
    path, expected = written
    name = data.draw(st.sampled_from(sorted(files_of(path))))
    whole = (path / name).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["cut", "byte", "digits", "type"]))
    if how == "cut":
        damaged = whole[:place]
    elif how == "byte":
        damaged = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    elif how == "digits":
        damaged = whole.replace(b"8", data.draw(st.sampled_from([b"7", b"9", b"80", b"-8"])))
    else:
        kinds = [b"F16", b"F32", b"I32", b"BF16", b"I16", b"float16", b"float32", b"null", b"[]"]
        one, other = data.draw(st.sampled_from(kinds)), data.draw(st.sampled_from(kinds))
        damaged = whole.replace(one, other)
    (path / name).write_bytes(damaged)
    try:
        found = TokenStore.open(path)
        found.verify()
        rows = found.rows(np.arange(len(found)))
        dense = found.dense.vectors()
    except ValueError:
        return
    finally:
        (path / name).write_bytes(whole)
    assert_same(rows, expected[0])
    np.testing.assert_array_equal(dense, expected[1])


def test_one_model_in_16_threads_gives_the_results_of_one(token_model):
    inputs = [TEXTS[i : i + 1 + i % 7] for i in range(32)]
    expected = [csr_st.encode(token_model, texts, k=8).to_dense() for texts in inputs]
    with ThreadPoolExecutor(16) as pool:
        codes = pool.map(lambda texts: csr_st.encode(token_model, texts, k=8), inputs)
        for found, alone in zip(codes, expected, strict=True):
            np.testing.assert_allclose(found.to_dense(), alone, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_no_or_one_document_and_no_query(token_model, tmp_path, n):
    pytest.importorskip("numba")
    codes = csr_st.encode(token_model, TEXTS[:n], k=8)
    assert codes.shape == (n, 64)
    codes.save(tmp_path / "codes")
    assert len(csr_st.SparseCodes.load(tmp_path / "codes")) == n
    if n:
        index = csr_st.SparseIndex.build(codes)
        assert index.search(csr_st.encode(token_model, [], k=8), top_k=1).ids.shape == (0, 1)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("of", ["store", "view"])
def test_a_copied_or_pickled_store_is_the_same_store(store, how, of):
    one = store if of == "store" else store.subset(np.array([3, 20, 1]))
    copied = how(one)
    assert repr(copied) == repr(one)
    assert copied.fingerprint() == one.fingerprint()
    assert_same(copied.rows(np.arange(3)), one.rows(np.arange(3)))
    np.testing.assert_array_equal(copied.dense.vectors(), one.dense.vectors())
