"""The vectors of tokens on disk: those of the model, resumable, and refused where altered."""

from __future__ import annotations

import json
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from killing import in_child
from safetensors.numpy import load_file, save_file
from token_models import MANY, token_head, token_vectors

import csr_st
from csr_st.embeddings import EmbeddingStore, TokenStore
from csr_st.embeddings.writing import LOCK

TEXTS = ["the cat sat on the mat", "", "sea", "a dog ran in the house under a tree in the blue sea"]


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != LOCK}


@pytest.fixture
def store(token_backbone, tmp_path) -> TokenStore:
    """60 texts in six shards."""
    return TokenStore.embed(token_backbone, MANY, tmp_path / "many", shard_rows=10)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_tokens_are_those_of_the_model(token_backbone, tmp_path, dtype, tolerance):
    path = tmp_path / "s"
    store = TokenStore.embed(token_backbone, TEXTS, path, dtype=dtype, shard_rows=3, batch_size=2)
    assert store.lengths.tolist() == [6, 0, 1, 10]  # of 12 at most, two are special
    assert (len(store), store.dim, store.info.dtype) == (4, 16, dtype)
    assert store.skipped_tokens == [0, 1, 2, 3]
    assert repr(store) == f"TokenStore(4 texts, 17 tokens x 16 {dtype})"
    found = store.rows(np.array([3, 0, 1, 2]))
    assert found.lengths.tolist() == [10, 6, 0, 1]
    expected = np.concatenate([token_vectors(token_backbone, TEXTS[row]) for row in (3, 0, 2)])
    np.testing.assert_allclose(found.vectors, expected, atol=tolerance)
    assert store.tokens().vectors().shape == (17, 16)
    dense = token_backbone.encode(TEXTS)
    np.testing.assert_allclose(store.dense.vectors(), dense, atol=tolerance, rtol=tolerance)
    store.verify()


def test_the_tokens_of_a_role_and_a_prompt(token_backbone, tmp_path):
    options = {"dtype": "float32"}
    asked = TokenStore.embed(token_backbone, TEXTS, tmp_path / "q", role="query", **options)
    prompt = TokenStore.embed(token_backbone, TEXTS, tmp_path / "p", prompt="the red ", **options)
    assert asked.info.prompt == "the red "
    assert asked.lengths.tolist() == prompt.lengths.tolist() == [6, 0, 1, 8]
    np.testing.assert_array_equal(asked.tokens().vectors(), prompt.tokens().vectors())
    head = csr_st.attach(token_backbone, token_head())
    tokens = asked.rows(np.arange(4)).on(torch.device("cpu"))
    codes = csr_st.find_head(head).encode_tokens(tokens, 64)
    expected = head.encode_query(TEXTS, k=64)
    unit = torch.nn.functional.normalize(codes.values, dim=1)
    dense = torch.zeros(4, 64).scatter(1, codes.indices, unit)
    np.testing.assert_allclose(dense.detach().numpy(), expected, atol=1e-6)


def test_some_tokens_of_a_text_are_drawn_always_the_same(token_backbone, tmp_path):
    options = {"dtype": "float32", "tokens_per_text": 3}
    whole = TokenStore.embed(token_backbone, MANY, tmp_path / "w", dtype="float32")
    assert set(whole.lengths) == {4}
    some = TokenStore.embed(token_backbone, MANY, tmp_path / "s", **options)
    again = TokenStore.embed(token_backbone, MANY, tmp_path / "a", shard_rows=7, **options)
    np.testing.assert_array_equal(some.tokens().vectors(), again.tokens().vectors())
    assert set(some.lengths) == {3}
    left_out = set()
    for row in range(60):
        every, kept = (s.rows(np.array([row])).vectors for s in (whole, some))
        places = [int(np.flatnonzero((every == vector).all(axis=1))[0]) for vector in kept]
        assert places == sorted(places)
        left_out |= set(range(4)) - set(places)
    assert left_out == {0, 1, 2, 3}
    every = TokenStore.embed(
        token_backbone, MANY, tmp_path / "e", **{**options, "tokens_per_text": None}
    )
    np.testing.assert_array_equal(every.tokens().vectors(), whole.tokens().vectors())


def test_texts_come_in_batches(store):
    parts = list(store.batches())
    assert [len(part.lengths) for part in parts] == [60]
    tokens = parts[0].on(torch.device("cpu"))
    assert tokens.n_texts == 60
    assert tokens.texts.tolist() == np.repeat(np.arange(60), 4).tolist()


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(token_backbone, tmp_path):
    options = {"tokens_per_text": 3, "shard_rows": 10}
    TokenStore.embed(token_backbone, MANY, tmp_path / "whole", **options)

    def killed():
        forward, calls = token_backbone[0].forward, []

        def stopping(*arguments, **keywords):
            calls.append(None)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return forward(*arguments, **keywords)

        token_backbone[0].forward = stopping
        TokenStore.embed(token_backbone, MANY, tmp_path / "s", **options)

    status = os.waitpid(in_child(killed), 0)[1]
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(list((tmp_path / "s").glob("shard-*"))) == 2
    with pytest.raises(ValueError, match=r"not complete: 2 of 6 shards; run the same TokenStore.e"):
        TokenStore.open(tmp_path / "s")
    before = files_of(tmp_path / "s")
    store = TokenStore.embed(token_backbone, MANY, tmp_path / "s", **options)
    store.verify()
    after = files_of(tmp_path / "s")
    assert after == files_of(tmp_path / "whole")
    assert before.items() <= after.items()


def test_a_complete_store_is_opened_without_the_model(token_backbone, store, monkeypatch):
    monkeypatch.setattr(token_backbone, "encode", None)
    again = TokenStore.embed(token_backbone, MANY, store.path, shard_rows=10)
    assert again.fingerprint() == store.fingerprint()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens_per_text": 2}, "tokens_per_text"),
        ({"dtype": "float32"}, "dtype"),
        ({"role": "query"}, "role"),
        ({"prompt": "a "}, "prompt"),
    ],
)
def test_another_option_is_refused(token_backbone, store, change, named):
    with pytest.raises(ValueError, match=named):
        TokenStore.embed(token_backbone, MANY, store.path, **{"shard_rows": 10, **change})


def test_another_model_or_other_texts_are_refused(token_backbone, store):
    with pytest.raises(ValueError, match=r"rows 10\.\.19 there are not those of the data now"):
        TokenStore.embed(token_backbone, [*MANY[:15], "sea", *MANY[16:]], store.path, shard_rows=10)
    token_backbone.max_seq_length = 5
    with pytest.raises(ValueError, match="max_seq_length"):
        TokenStore.embed(token_backbone, MANY, store.path, shard_rows=10)
    token_backbone.max_seq_length = 12
    with torch.no_grad():
        token_backbone[0].model.embeddings.word_embeddings.weight[5] += 1
    with pytest.raises(ValueError, match="weights"):
        TokenStore.embed(token_backbone, MANY, store.path, shard_rows=10)


def test_a_store_of_another_type_is_refused(token_backbone, store, tmp_path):
    with pytest.raises(ValueError, match=r"is of 'csr_st.tokens', not of 'csr_st.embeddings'"):
        EmbeddingStore.open(store.path)
    EmbeddingStore.embed(token_backbone, MANY, tmp_path / "e")
    with pytest.raises(ValueError, match=r"is of 'csr_st.embeddings', not of 'csr_st.tokens'"):
        TokenStore.open(tmp_path / "e")
    with pytest.raises(FileNotFoundError, match="there is no token store at"):
        TokenStore.open(tmp_path / "absent")


def test_a_shard_that_was_cut_short_is_refused(store):
    shard = store.path / "shard-000002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(ValueError, match="shard-000002"):
        TokenStore.open(store.path)


def test_a_missing_shard_is_refused(store):
    (store.path / "shard-000002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard-000002\.safetensors is missing"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("at", [-1, -600])
def test_an_altered_byte_is_found_by_verify(store, at):
    shard = store.path / "shard-000002.safetensors"
    content = bytearray(shard.read_bytes())
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-000002\.safetensors was altered after it was wr"):
        TokenStore.open(store.path).verify()


def test_a_shard_of_another_store_is_refused(token_backbone, store, tmp_path):
    other = TokenStore.embed(token_backbone, MANY[::-1], tmp_path / "o", shard_rows=10)
    name = "shard-000002.safetensors"
    (store.path / name).write_bytes((other.path / name).read_bytes())
    with pytest.raises(ValueError, match=r"is not the shard that manifest\.json names"):
        store.rows(np.array([20]))


@pytest.mark.parametrize("lengths", [None, [3] * 9, [-4] + [4] * 8 + [8], [40] + [0] * 8 + [1]])
def test_lengths_that_do_not_fit_are_refused(store, lengths):
    from safetensors import safe_open

    path = store.path / "shard-000000.safetensors"
    with safe_open(path, "np") as file:
        about = file.metadata()
    arrays = load_file(path)
    del arrays["lengths"]
    if lengths is not None:
        arrays["lengths"] = np.array(lengths, np.int32)
    save_file(arrays, path, about)
    with pytest.raises(ValueError, match=r"no valid lengths|shapes"):
        TokenStore.open(store.path).tokens().vectors()


def test_views_share_the_files(store, token_backbone):
    view = store.subset(np.array([7, 3, 59]))
    assert len(view) == 3
    assert view.lengths.tolist() == [4, 4, 4]
    expected = np.concatenate([store.rows(np.array([row])).vectors for row in (7, 3, 59)])
    np.testing.assert_array_equal(view.rows(np.arange(3)).vectors, expected)
    np.testing.assert_array_equal(view.tokens().vectors(), expected)
    np.testing.assert_array_equal(view.dense.vectors(), store.dense.vectors()[[7, 3, 59]])
    np.testing.assert_array_equal(next(iter(view.batches())).vectors, expected)
    inner = view.subset(np.array([2]))
    np.testing.assert_array_equal(inner.tokens().vectors(), expected[8:])
    assert len({view.fingerprint(), inner.fingerprint(), store.fingerprint()}) == 3
    with pytest.raises(IndexError):
        view.rows(np.array([3]))


def test_a_view_of_all_texts_in_another_order_has_that_order(store):
    view = store.subset(np.arange(60)[::-1])
    np.testing.assert_array_equal(view.tokens().vectors()[:4], store.rows(np.array([59])).vectors)


def test_a_split_has_no_text_twice(store):
    training, held_out = store.split(13)
    assert (len(training), len(held_out)) == (47, 13)
    assert sorted([*training.texts, *held_out.texts]) == list(range(60))
    again = store.split(13)[1]
    np.testing.assert_array_equal(again.texts, held_out.texts)
    assert list(store.split(13, seed=1)[1].texts) != list(held_out.texts)
    inner = training.split(7)
    assert sorted([*inner[0].texts, *inner[1].texts]) == sorted(training.texts)
    for number in (0, 60):
        with pytest.raises(ValueError, match=f"held_out={number}"):
            store.split(number)


def test_a_pickled_store_is_the_same_store(store, monkeypatch, tmp_path, token_backbone):
    view = store.subset(np.array([5, 2]))
    for one in (store, view):
        copied = pickle.loads(pickle.dumps(one))
        assert copied.fingerprint() == one.fingerprint()
        np.testing.assert_array_equal(copied.tokens().vectors(), one.tokens().vectors())
        np.testing.assert_array_equal(copied.dense.vectors(), one.dense.vectors())
    assert len(pickle.dumps(store)) < 4_000  # how to open its files, not their content
    monkeypatch.chdir(store.path.parent)
    content = pickle.dumps(TokenStore.open(store.path.name))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(
        pickle.loads(content).rows(np.array([1])).vectors, store.rows(np.array([1])).vectors
    )
    for file in store.path.iterdir():
        file.unlink()
    TokenStore.embed(token_backbone, MANY[::-1], store.path, shard_rows=10)
    with pytest.raises(ValueError, match="was replaced after the store was pickled"):
        pickle.loads(content).rows(np.array([1]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tokens_per_text": 0}, ValueError, "tokens_per_text=0 is below 1"),
        ({"tokens_per_text": 2.5}, TypeError, "tokens_per_text=2.5 is not an integer"),
        ({"dtype": "int8"}, ValueError, "dtype='int8'; pass one of float16, float32"),
        ({"role": "title"}, ValueError, "role='title'; pass None, 'query' or 'document'"),
        ({"batch_size": 0}, ValueError, "batch_size=0; pass 1 or more"),
        ({"shard_rows": -1}, ValueError, "shard_rows=-1; pass 1 or more"),
        ({"shard_rows": 0}, ValueError, "shard_rows=0; pass 1 or more"),
        ({"prompt_name": "title"}, ValueError, "prompt_name='title' is not a prompt"),
        ({"label_column": "label"}, TypeError, "label_column"),
        ({"pair_columns": ("a", "b")}, TypeError, "pair_columns"),
    ],
)
def test_options_that_do_not_fit_are_refused(token_backbone, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        TokenStore.embed(token_backbone, MANY, tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_models_that_give_no_tokens_are_refused(token_model, backbone, tmp_path):
    with pytest.raises(ValueError, match="the model has a SparseCSRHead"):
        TokenStore.embed(token_model, MANY, tmp_path / "head")
    with pytest.raises(ValueError, match="needs token_embeddings"):
        TokenStore.embed(backbone, MANY, tmp_path / "static")


def test_texts_without_tokens_are_refused(token_backbone, tmp_path):
    with pytest.raises(ValueError, match="no text has a token besides special ones"):
        TokenStore.embed(token_backbone, ["", "[SEP]"], tmp_path / "s")


def test_nan_is_named_by_its_row(token_backbone, tmp_path):
    with torch.no_grad():
        token_backbone[0].model.embeddings.word_embeddings.weight[
            token_backbone.tokenizer.convert_tokens_to_ids("sea")
        ] = torch.nan
    texts = ["the cat", "a dog", "a bird", "the sea is blue", "a fish"]
    with pytest.raises(
        ValueError, match=r"row 3 is NaN or Inf; look at these items.*stay"
    ) as error:
        TokenStore.embed(token_backbone, texts, tmp_path / "s", shard_rows=2, batch_size=1)
    assert "3: 'the sea is blue'" in str(error.value)
    assert len(list((tmp_path / "s").glob("shard-*"))) == 1


def test_a_damaged_manifest_is_named(store):
    manifest = store.path / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["plan"]["recipe"]["skipped_tokens"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"manifest\.json"):
        TokenStore.open(store.path)


def test_a_model_that_would_put_a_batch_in_one_row_pads_it(token_backbone, store, tmp_path):
    """As with flash attention: tokens are told apart by text only in padded batches."""
    token_backbone[0].can_flatten_inputs = True
    found = TokenStore.embed(token_backbone, MANY, tmp_path / "s")
    np.testing.assert_array_equal(found.tokens().vectors(), store.tokens().vectors())
    assert token_backbone[0].unpad_inputs is None
