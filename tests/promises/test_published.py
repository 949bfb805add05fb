"""Promise: a saved model is the old or the new one at any moment, whatever ends the process."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from killing import in_child
from sentence_transformers import SentenceTransformer

import csr_st
import csr_st.convert
from csr_st import SparseCSRHead

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def die_at(change):
    """End this process before its change of that number to files, or before it opens one."""
    count = 0

    def watch(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int)
        writes = writes and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            count += 1
            if count == change:
                os._exit(77)

    sys.addaudithook(watch)


def dies(work, change):
    """Whether ``work`` in a process of its own was ended before its change of that number."""

    def child():
        die_at(change)
        work()

    return os.waitstatus_to_exitcode(os.waitpid(in_child(child), 0)[1]) == 77


@pytest.fixture(params=["static", "transformer"])
def two_models(request, backbone, transformer_folder):
    """Two models of other weights in backbone and head, and other settings of the head."""
    models = []
    for seed, settings in ((5, {"k": 8}), (6, {"k": 4, "normalize": False})):
        dense = backbone
        if request.param == "transformer":
            dense = SentenceTransformer(transformer_folder, device="cpu")
        else:
            dense = SentenceTransformer(modules=[type(backbone[0])(backbone[0].tokenizer,
                                        embedding_dim=16)], device="cpu")  # fmt: skip
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in dense.parameters():
                parameter.add_(torch.randn(parameter.shape) / 10)
        models.append(csr_st.attach(dense, SparseCSRHead(16, **settings)))
    return models


def codes_of(folder, texts, k=6):
    return SentenceTransformer(str(folder), device="cpu").encode(texts, k=k)


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_change_leaves_the_old_or_the_new_model(two_models, texts, tmp_path, stride):
    old, new = two_models
    expected = [model.encode(texts, k=6) for model in two_models]
    folder = tmp_path / "m"
    change, found, done = 1, [], False
    while not done:
        csr_st.save(old, folder, data="old")
        (folder / "notes.txt").write_text("mine")
        done = not dies(lambda: csr_st.save(new, folder, data="new"), change)
        codes = codes_of(folder, texts)
        found.append(next(i for i in (0, 1) if (codes == expected[i]).all()))
        assert (folder / "notes.txt").read_text() == "mine"
        card = (folder / "README.md").read_text()
        assert ("Data: old." in card) != ("Data: new." in card)
        change += stride
    assert found == sorted(found)  # once new, always new
    assert min(found.count(0), found.count(1)) > 1
    csr_st.save(new, folder)  # what the killed ones left is gone
    hidden = [path.name for path in folder.rglob("*") if path.name.startswith(".")]
    assert not hidden
    np.testing.assert_array_equal(codes_of(folder, texts), expected[1])


def test_a_killed_save_is_finished_before_the_model_is_published(model, texts, tmp_path):
    from csr_st.publishing.files import published_files
    from csr_st.publishing.replacing import finish

    change, folder = 1, tmp_path / "m"
    while dies(lambda: csr_st.save(model, folder), change):
        finish(folder)
        if (folder / "modules.json").is_file():
            assert ".saving-" not in (folder / "modules.json").read_text()
            assert "1_SparseCSRHead/model.safetensors" in published_files(folder)
            np.testing.assert_array_equal(codes_of(folder, texts), model.encode(texts, k=6))
        shutil.rmtree(folder, ignore_errors=True)
        change += 5
    assert change > 20


def test_a_head_saved_over_another_is_one_of_the_two_at_any_change(tmp_path):
    heads = []
    for seed, settings in ((0, {"k": 2}), (1, {"k": 3, "normalize": False, "power": 0.5})):
        torch.manual_seed(seed)
        heads.append(SparseCSRHead(4, **settings))
    states = [(head.get_config_dict(), head.encoder_weight) for head in heads]
    change, found, done = 1, [], False
    while not done:
        heads[0].save(str(tmp_path))
        done = not dies(lambda: heads[1].save(str(tmp_path)), change)
        loaded = SparseCSRHead.load(str(tmp_path))
        state = loaded.get_config_dict(), loaded.encoder_weight
        found.append(
            next(i for i in (0, 1) if states[i][0] == state[0] and states[i][1].equal(state[1]))
        )
        change += 1
    assert found == sorted(found)
    assert set(found) == {0, 1}


def test_settings_edited_by_hand_count(tmp_path):
    for k in (2, 3):
        SparseCSRHead(4, k=k).save(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"k": 3', '"k": 5'))
    assert SparseCSRHead.load(str(tmp_path)).k == 5


def test_weights_in_several_files_are_not_hidden_by_one_of_before(transformer_folder, tmp_path):
    model = csr_st.attach(SentenceTransformer(transformer_folder, device="cpu"), SparseCSRHead(16))
    csr_st.save(model, tmp_path / "m")
    (tmp_path / "m" / "model-00001-of-00002.safetensors").write_bytes(b"of before")
    (tmp_path / "m" / "my-vectors.safetensors").write_bytes(b"mine")
    csr_st.save(model, tmp_path / "m")
    left = {path.name for path in (tmp_path / "m").glob("*.safetensors")}
    assert left == {"model.safetensors", "my-vectors.safetensors"}


def test_a_full_disk_keeps_the_old_model(two_models, texts, tmp_path, monkeypatch):
    old, new = two_models
    expected = old.encode(texts, k=6)
    csr_st.save(old, tmp_path / "m")
    before = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        csr_st.save(new, tmp_path / "m")
    after = {path: path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()}
    assert after == before
    np.testing.assert_array_equal(codes_of(tmp_path / "m", texts), expected)


def test_saving_a_model_over_the_files_that_it_is_mapped_from(transformer_folder, texts, tmp_path):
    folder = tmp_path / "m"
    dense = SentenceTransformer(transformer_folder, device="cpu")
    csr_st.save(csr_st.attach(dense, SparseCSRHead(16, k=4)), folder)
    loaded = SentenceTransformer(str(folder), device="cpu")
    expected = loaded.encode(texts)
    for _ in range(2):
        csr_st.save(loaded, folder)
        np.testing.assert_array_equal(loaded.encode(texts), expected)
        np.testing.assert_array_equal(
            SentenceTransformer(str(folder), device="cpu").encode(texts), expected
        )


def test_a_conversion_that_is_killed_can_be_typed_again(model, texts, tmp_path):
    """At any change its folder is whole or absent, and what was left beside it goes."""
    target = tmp_path / "native"
    expected = model.encode(texts, k=4)
    change = 1
    while dies(lambda: csr_st.convert.to_native(model, target), change):
        if target.exists():
            native = SentenceTransformer(str(target), device="cpu")
            np.testing.assert_allclose(native.encode(texts, max_active_dims=4), expected, atol=1e-6)
            shutil.rmtree(target)
        change += 5
    assert change > 10
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_an_export_that_is_killed_can_be_typed_again(model, texts, tmp_path, monkeypatch):
    """As a conversion; the graph is traced once, which takes seconds and changes no file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    traced = csr_st.export_model(model, tmp_path / "traced").path / "model.onnx"
    expected = csr_st.encode(model, texts, k=4)
    monkeypatch.setattr(
        "csr_st.export.exporting.write_onnx",
        lambda graph, model, inputs, path: shutil.copyfile(traced, path),
    )
    place = tmp_path / "place"
    place.mkdir()
    change = 1
    while dies(lambda: csr_st.export_model(model, place / "out", texts=texts), change):
        if (place / "out").exists():
            found = csr_st.ExportedModel(place / "out").encode(texts, k=4)
            np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
            shutil.rmtree(place / "out")
        change += 3
    assert change > 10
    assert [path.name for path in place.iterdir()] == ["out"]


def test_a_terminated_process_leaves_the_old_model(model, backbone, texts, tmp_path, monkeypatch):
    """SIGTERM ends a process as a kill does: what it staged is removed by the next save."""
    csr_st.save(model, tmp_path / "m")
    expected = model.encode(texts)

    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    def work():
        csr_st.publishing.hub.card_bytes = terminate
        csr_st.save(csr_st.attach(backbone, SparseCSRHead(16, k=2)), tmp_path / "m")

    status = os.waitpid(in_child(work), 0)[1]
    assert os.WTERMSIG(status) == signal.SIGTERM
    np.testing.assert_array_equal(codes_of(tmp_path / "m", texts, k=None), expected)
    csr_st.save(model, tmp_path / "m")
    assert not [path for path in (tmp_path / "m").iterdir() if path.name.startswith(".")]
