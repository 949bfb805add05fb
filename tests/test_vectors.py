"""Models that encode vectors: made from a file, saved, loaded, used, put on a backbone later."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.model import BaseModel

import csr_st
from csr_st.attaching import VECTOR_REFERENCE
from csr_st.vectors import VectorInput

QUICK = {"steps": 20, "hidden_dim": 48, "k": 8, "batch_size": 64}


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(7, 16)).astype(np.float32)


@pytest.fixture
def vector_model(head):
    return csr_st.attach(SentenceTransformer(modules=[VectorInput(16)], device="cpu"), head)


@pytest.fixture
def expected(head, vectors):
    """Codes straight from the head, dense and at unit norm."""
    code = head.encode(torch.from_numpy(vectors), 4)
    rows = np.zeros((7, 64), np.float32)
    np.put_along_axis(rows, code.indices.numpy(), code.values.detach().numpy(), axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.astype(np.float64),
        lambda x: x.tolist(),
        list,
        lambda x: tuple(map(tuple, x.tolist())),
        torch.from_numpy,
        lambda x: list(torch.from_numpy(x)),
    ],
    ids=["array", "float64", "lists", "arrays", "tuples", "tensor", "tensors"],
)
def test_many_vectors_in_any_form(vector_model, vectors, expected, given):
    rows = vector_model.encode(given(vectors), k=4, batch_size=3)
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    codes = csr_st.encode(vector_model, given(vectors), k=4, batch_size=3)
    np.testing.assert_allclose(codes.to_dense(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "given", [np.asarray, list, torch.from_numpy], ids=["array", "list", "tensor"]
)
def test_one_vector(vector_model, vectors, expected, given):
    one = given(vectors[0].tolist() if given is list else vectors[0])
    assert vector_model.encode(one, k=4).shape == (64,)
    np.testing.assert_allclose(vector_model.encode(one, k=4), expected[0], atol=1e-6)
    assert len(csr_st.encode(vector_model, one, k=4)) == 1


def test_half_precision_and_generators(vector_model, vectors, expected):
    halves = torch.from_numpy(vectors).bfloat16()
    assert vector_model.encode(halves, k=4).shape == (7, 64)
    codes = csr_st.encode(vector_model, (row for row in vectors), k=4)
    np.testing.assert_allclose(codes.to_dense(), expected, atol=1e-6)


def test_what_is_not_a_vector_is_refused(vector_model, vectors):
    with pytest.raises(TypeError, match=r"input 1 is 'a text' \(str\), not a vector"):
        vector_model.encode([vectors[0], "a text"])
    with pytest.raises(ValueError, match=r"input 0 has shape \(15,\); vectors of 16 numbers"):
        vector_model.encode(vectors[:, :15])
    with pytest.raises(ValueError, match="NaN or Inf"):
        vector_model.encode(np.where(vectors > 2, np.inf, vectors) * np.inf)
    with pytest.raises(ValueError, match="prompt='query: ' cannot be put before a vector"):
        vector_model.encode(vectors, prompt="query: ")


def test_saved_and_loaded(vector_model, vectors, expected, tmp_path):
    csr_st.save(vector_model, tmp_path / "m")
    modules = json.loads((tmp_path / "m/modules.json").read_text())
    assert modules[0]["type"] == VECTOR_REFERENCE == "csr_st.vectors.VectorInput"
    loaded = SentenceTransformer(str(tmp_path / "m"), device="cpu")
    np.testing.assert_allclose(loaded.encode(vectors, k=4), expected, atol=1e-6)
    copied = copy.deepcopy(loaded)
    np.testing.assert_allclose(copied.encode(vectors, k=4), expected, atol=1e-6)
    card = (tmp_path / "m/README.md").read_text()
    assert "np.random" in card
    assert "duplicate a directory" not in card


def test_the_card_s_example_runs(vector_model, tmp_path, monkeypatch, capsys):
    csr_st.save(vector_model, tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "m/README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    assert re.search(r"^\d\.\d{3} \d$", capsys.readouterr().out, re.MULTILINE)


def test_without_the_hooks_of_sentence_transformers(vectors, monkeypatch):
    """A version without these methods: they are not added, and loading works."""
    monkeypatch.delattr(SentenceTransformer, "is_singular_input")
    monkeypatch.delattr(BaseModel, "is_singular_input")
    model = SentenceTransformer(modules=[VectorInput(16)], device="cpu")
    assert "is_singular_input" not in vars(model)


def test_damaged_config(vector_model, tmp_path):
    csr_st.save(vector_model, tmp_path / "m")
    config = tmp_path / "m/0_VectorInput/config.json"
    config.write_text('{"input_dim": 16, "later": 1}')
    with pytest.warns(UserWarning, match="later"):
        SentenceTransformer(str(tmp_path / "m"), device="cpu")
    config.write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json lacks \['input_dim'\]"):
        SentenceTransformer(str(tmp_path / "m"), device="cpu")
    for width in (0, True, "16"):
        with pytest.raises((TypeError, ValueError), match=f"input_dim={width!r} is"):
            VectorInput(width)


def test_head_moves_to_a_backbone(backbone, vector_model, texts):
    dense = backbone.encode(texts)
    sparse = csr_st.attach(backbone, csr_st.find_head(vector_model))
    np.testing.assert_allclose(
        sparse.encode(texts, k=4), vector_model.encode(dense, k=4), atol=1e-6
    )
    assert csr_st.detach(vector_model).encode(dense).shape == dense.shape


def write(name, array):
    import pyarrow as pa
    from pyarrow import parquet
    from safetensors.numpy import save_file

    table = pa.table({"id": list(range(len(array))), "v": list(array), "w": list(array[:, :4])})
    if name.endswith(".npy"):
        np.save(name, array)
    elif name.endswith(".npz"):
        np.savez(name, v=array, w=array[:, :4])
    elif name.endswith(".safetensors"):
        save_file({"v": array, "w": np.ascontiguousarray(array[:, :4])}, name)
    elif name.endswith(".parquet"):
        parquet.write_table(table, name)
    else:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors", "parquet", "arrow"])
@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_command_line_from_a_file(run, rng, ending):
    array = rng.normal(size=(90, 16)).astype(np.float32)
    write(f"x.{ending}", array)
    column = [] if ending == "npy" else ["--column", "v"]
    options = ["--steps", 5, "--hidden-dim", 32, "--k", 4]
    code, out, err = run("train", f"x.{ending}", "--output", "m", *column, *options)
    assert code == 0, err
    assert "SentenceTransformer('m')" in out
    model = SentenceTransformer("m", device="cpu")
    assert np.count_nonzero(model.encode(array, k=4), axis=1).max() <= 4
    if ending == "npz":
        assert run("train", "x.npz", "--output", "n", *options)[0] == 1
    if ending == "npy":
        assert run("encode", "m", "x.npy", "--output", "codes.safetensors", "--k", 2)[0] == 0
        whole = csr_st.SparseCodes.load("codes.safetensors")
        np.testing.assert_allclose(whole.to_dense(), model.encode(array, k=2), atol=1e-6)
        assert run("encode", "m", "x.npy", "--output", "codes", "--k", 2)[0] == 0
        assert len(csr_st.CodeStore.open("codes").codes()) == 90
        code, out, err = run("evaluate", "m", "x.npy")
        assert code == 0, err
        assert "Recall@5" in out


def test_command_line_without_data(run, vector_model):
    csr_st.save(vector_model, "m")
    for source in ("m", "not-there"):
        code, _, err = run("train", source, "--output", "o")
        assert code == 1
        assert "is not a file of vectors: add the DATASET" in err


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_labels_of_a_file_are_used(rng, tmp_path):
    labels = np.arange(200) % 4
    array = (3 * rng.normal(size=(4, 16))[labels] + rng.normal(size=(200, 16))).astype(np.float32)
    np.savez(tmp_path / "x.npz", v=array, y=labels)
    done = csr_st.train_vectors(
        tmp_path / "x.npz",
        tmp_path / "m",
        csr_st.recipe(**QUICK),
        column="v",
        label_column="y",
    )
    assert "supervised" in done.result.history[-1]["terms"]
    assert done.evaluation.main_metric == "accuracy"
