"""What makes a model another one for a store, and what does not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_clip
import torch
from embedding_stub import StubModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, WordWeights
from torch import nn

import csr_st
from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.encoder import Encoding
from csr_st.vectors import VectorInput

TEXTS = ["a cat", "the dog ran in the house"]


def bert(folder, pooling="mean", norm=True, **options):
    loading = {name: options.pop(name) for name in list(options) if name.endswith("_kwargs")}
    modules = [Transformer(folder, **loading), Pooling(16, pooling_mode=pooling)]
    return SentenceTransformer(modules=[*modules, *[Normalize()] * norm], device="cpu", **options)


def identity(model):
    found = Encoding(model).identity()
    assert json.loads(json.dumps(found)) == found
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "cls"}, r"modules\.1\.pooling_mode 'mean' there, 'cls' now"),
        ({"norm": False}, r"modules\.2\.class 'Normalize' there, None now"),
        ({"truncate_dim": 4}, r"truncate_dim None there, 4 now"),
        ({"config_kwargs": {"is_decoder": True}}, r"0\.model\.is_decoder False there, True now"),
        (
            {"processing_kwargs": {"text": {"max_length": 3}}},
            r"0\.processing_kwargs\.text\.max_length None there, 3 now",
        ),
    ],
)
def test_another_models_vectors_are_not_reused(transformer_folder, tmp_path, changes, message):
    EmbeddingStore.embed(bert(transformer_folder), TEXTS, tmp_path / "s")
    EmbeddingStore.embed(bert(transformer_folder), TEXTS, tmp_path / "s")
    with pytest.raises(ValueError, match=f"begun with another plan: .*{message}"):
        EmbeddingStore.embed(bert(transformer_folder, **changes), TEXTS, tmp_path / "s")


def test_buffers_and_plain_settings_of_a_module_count(tmp_path):
    class Shift(nn.Module):
        def __init__(self, by, times, loads=0):
            super().__init__()
            self.times = times
            self.register_buffer("by", torch.full((2,), by))
            self.register_buffer("loads", torch.tensor(loads))
            self.register_buffer("computed", torch.rand(2), persistent=False)

        def forward(self, features):
            vectors = features["sentence_embedding"]
            return {**features, "sentence_embedding": (vectors + self.by) * self.times}

    def model(*settings):
        return SentenceTransformer(modules=[VectorInput(2), Shift(*settings)], device="cpu")

    def embed(*settings):
        vectors = np.ones((3, 2), np.float32)
        return EmbeddingStore.embed(model(*settings), vectors, tmp_path / "s").vectors()

    np.testing.assert_array_equal(embed(1.0, 2), np.full((3, 2), 4))
    embed(1.0, 2, 5)
    with pytest.raises(ValueError, match=r"weights .* there"):
        embed(2.0, 2)
    with pytest.raises(ValueError, match=r"modules\.1\.times 2 there, 3 now"):
        embed(1.0, 3)


def test_modules_within_modules_count():
    def model(size):
        within = nn.ModuleDict({"a": nn.Sequential(nn.Dropout(size))})
        return SentenceTransformer(modules=[VectorInput(2), within], device="cpu")

    assert identity(model(0.5)) == identity(model(0.5))
    assert identity(model(0.5)) != identity(model(0.25))
    assert identity(model(0.5))["modules"]["1.a.0"]["settings"] == "p=0.5, inplace=False"


def test_long_settings_are_kept_as_their_digest():
    def model(words):
        weights = WordWeights(words, dict.fromkeys(words, 2.0))
        return SentenceTransformer(modules=[VectorInput(2), weights], device="cpu")

    words = [f"word {i}" for i in range(1000)]
    assert identity(model(words)) == identity(model(list(words)))
    assert identity(model(words)) != identity(model([*words[1:], "other"]))
    assert len(json.dumps(identity(model(words)))) < 1500


def test_two_loads_are_one_model_whatever_folder_path_prompts_and_process(
    transformer_folder, tmp_path
):
    saved, moved = tmp_path / "one" / "m", tmp_path / "two" / "m"
    bert(transformer_folder).save(str(saved), create_model_card=False)
    found = identity(SentenceTransformer(str(saved), device="cpu"))
    shutil.move(saved, moved)
    prompts = {"query": "the red "}
    model = SentenceTransformer(str(moved), device="cpu", prompts=prompts)
    assert identity(model) == found
    assert str(tmp_path) not in json.dumps(found)
    modules = json.dumps(found["modules"])
    assert "version" not in modules
    model.encode(TEXTS)
    model[0].auto_model.set_attn_implementation("eager")
    assert identity(model) == found
    program = (
        "import sys, json; from sentence_transformers import SentenceTransformer as S;"
        "from csr_st.embeddings.encoder import Encoding;"
        "print(json.dumps(Encoding(S(sys.argv[1], device='cpu')).identity()))"
    )
    command = [sys.executable, "-c", program, str(moved)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) == found


def test_a_model_of_images_and_texts_is_the_same_when_saved_and_loaded(tmp_path):
    model = SentenceTransformer(str(tiny_clip.build(tmp_path / "clip")), device="cpu")
    model.save(str(tmp_path / "saved"), create_model_card=False)
    loads = [SentenceTransformer(str(tmp_path / "saved"), device="cpu") for _ in range(2)]
    one, other = map(identity, loads)
    assert one == other
    assert one["modules"] == identity(model)["modules"]


CODE = """
from sentence_transformers.base.modules import Module

class Halved(Module):
    config_keys = ["by"]

    def __init__(self, by=2):
        super().__init__()
        self.by = by

    def forward(self, features, **kwargs):
        return {**features, "sentence_embedding": features["sentence_embedding"] / self.by}

    def save(self, output_path, *args, **kwargs):
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        found = cls.load_config(model_name_or_path, subfolder=subfolder)
        return cls(**found)
"""


def test_classes_that_a_repository_brings_count_by_name_and_settings(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        SentenceTransformer(modules=[VectorInput(2)]).save(str(folder), create_model_card=False)
        modules = json.loads((folder / "modules.json").read_text())
        own = {"idx": 1, "name": "1", "path": "1_Halved", "type": "halved.Halved"}
        (folder / "modules.json").write_text(json.dumps([*modules, own]))
        (folder / "halved.py").write_text(CODE)
        (folder / "1_Halved").mkdir()
        (folder / "1_Halved" / "config.json").write_text('{"by": 4}')

    def load(folder):
        return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")

    one, other = map(load, folders)
    assert type(one[1]).__module__ != type(other[1]).__module__
    assert identity(one)["modules"]["1"] == {"class": "Halved", "by": 4}
    assert identity(one) == identity(other)


def written_before(path):
    """The store as a csr_st wrote it that noted no modules."""
    for name in ("plan.json", "manifest.json"):
        content = json.loads((path / name).read_text())
        recipe = content.get("plan", content)["recipe"]
        del recipe["modules"], recipe["truncate_dim"]
        (path / name).write_text(json.dumps(content))


@pytest.mark.parametrize("complete", [True, False])
def test_stores_of_an_earlier_version_are_opened_but_neither_reused_nor_resumed(
    backbone, tmp_path, complete
):
    store = EmbeddingStore.embed(backbone, TEXTS, tmp_path / "s")
    written_before(tmp_path / "s")
    np.testing.assert_array_equal(EmbeddingStore.open(tmp_path / "s").vectors(), store.vectors())
    if not complete:
        (tmp_path / "s" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"an earlier csr_st.*Embed again: pass another path, or"):
        EmbeddingStore.embed(backbone, TEXTS, tmp_path / "s")


def test_earlier_stores_of_models_without_modules_are_as_good_as_ever(tmp_path):
    EmbeddingStore.embed(StubModel(), TEXTS, tmp_path / "s")
    written_before(tmp_path / "s")
    again = StubModel()
    EmbeddingStore.embed(again, TEXTS, tmp_path / "s")
    assert again.embedded == 0


def test_models_that_give_codes_are_refused(backbone, model, tmp_path):
    with pytest.raises(ValueError, match=r"has a SparseCSRHead.*csr_st\.detach\(model\)"):
        EmbeddingStore.embed(model, TEXTS, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    store = EmbeddingStore.embed(csr_st.detach(model), TEXTS, tmp_path / "s", dtype="float32")
    np.testing.assert_allclose(store.vectors(), backbone.encode(TEXTS), rtol=1e-6)
