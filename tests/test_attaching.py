"""Attaching a head: what is kept, what is not, and that the original model is unchanged."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseCSRHead, attach, detach, find_head

PROMPTS = {"query": "the cat ", "document": "", "cluster": "a "}
README = """---
license: mit
language: [de, fr]
tags: [somebody-elses]
---
# The base model's own words
"""


@pytest.fixture
def base(transformer_folder, tmp_path) -> SentenceTransformer:
    """A saved transformer with everything that a published model may carry."""
    model = SentenceTransformer(
        transformer_folder, device="cpu", prompts=PROMPTS, default_prompt_name="cluster"
    )
    model.max_seq_length = 7
    folder = tmp_path / "base"
    model.save(str(folder), create_model_card=False)
    (folder / "README.md").write_text(README)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["kwargs"] = ["task"]
    (folder / "modules.json").write_text(json.dumps(modules))
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture
def kept(base, head, tmp_path) -> SentenceTransformer:
    """`base` with a head, saved and loaded again."""
    attach(base, head).save(str(tmp_path / "kept"))
    return SentenceTransformer(str(tmp_path / "kept"), device="cpu")


def test_prompts_and_their_default_stay(base, kept):
    assert kept.prompts == base.prompts
    assert kept.prompts.items() >= PROMPTS.items()
    assert kept.default_prompt_name == "cluster"
    np.testing.assert_array_equal(kept.encode("fish"), kept.encode("fish", prompt="a "))
    assert (kept.encode("fish") != kept.encode("fish", prompt="")).any()


def test_maximum_length_stays(kept):
    assert kept.max_seq_length == 7
    np.testing.assert_array_equal(
        kept.encode("cat " * 9, prompt=""), kept.encode("cat " * 7, prompt="")
    )


def test_module_kwargs_stay(base, head, kept):
    assert attach(base, head).module_kwargs == base.module_kwargs
    assert kept.module_kwargs["0"] == ["task"]


def test_the_base_models_card_is_not_published_again(base, head, tmp_path):
    attach(base, head).save(str(tmp_path / "mine"))
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "own words" not in card
    assert "somebody-elses" not in card
    # The base's own card is still the base's.
    base.save(str(tmp_path / "theirs"))
    assert "own words" in (tmp_path / "theirs" / "README.md").read_text()


def test_terms_of_the_base_are_remembered(base, head):
    data = attach(base, head).model_card_data
    assert data.license == "mit"
    assert list(data.language) == ["de", "fr"]


def test_the_base_is_named(base, head):
    assert attach(base, head).model_card_data.base_model == "base"
    named = attach(base, head, base_model="org/base")
    assert named.model_card_data.base_model == "org/base"
    assert base.model_card_data.base_model != "org/base"


def test_the_original_is_not_altered(backbone, head, texts):
    before, similarity = backbone.encode(texts), backbone.similarity_fn_name
    attached = attach(backbone, head)
    attached.prompts["query"] = "changed "
    assert len(backbone) == 1
    assert len(attached) == 2
    assert backbone.prompts == {"query": "the red ", "document": ""}
    assert backbone.similarity_fn_name == similarity
    assert backbone.get_embedding_dimension() == 16
    np.testing.assert_array_equal(backbone.encode(texts), before)


def test_modules_are_shared(backbone, head):
    attached = attach(backbone, head)
    assert attached[0] is backbone[0]
    assert attached[1] is head
    assert attached.get_embedding_dimension() == 64


@pytest.mark.parametrize(("normalize", "expected"), [(True, "dot"), (False, "cosine")])
def test_similarity_fits_the_codes_and_is_saved(backbone, texts, tmp_path, normalize, expected):
    head = SparseCSRHead(16, k=8, normalize=normalize)
    attach(backbone, head).save(str(tmp_path), create_model_card=False)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    assert model.similarity_fn_name == expected
    rows = model.encode(texts)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(model.similarity(rows, rows), unit @ unit.T, atol=1e-5)


def test_detaching_gives_the_backbone_again(backbone, model, texts):
    bare = detach(model)
    np.testing.assert_array_equal(bare.encode(texts), backbone.encode(texts))
    assert find_head(model) is model[1]
    assert bare.prompts == backbone.prompts
    with pytest.raises(
        ValueError, match="does not end in a SparseCSRHead; there is none to detach"
    ):
        detach(backbone)


def test_a_second_head_is_refused(model, head):
    with pytest.raises(ValueError, match=r"has a SparseCSRHead already; csr_st.detach\(model\)"):
        attach(model, head)


def test_a_head_of_another_width_is_refused(backbone):
    with pytest.raises(ValueError, match=r"width 16, the head takes input_dim=8; train a head on"):
        attach(backbone, SparseCSRHead(8))


def test_a_truncating_model_is_refused(backbone):
    backbone.truncate_dim = 8
    with pytest.raises(ValueError, match=r"has truncate_dim=8; .*load the model without"):
        attach(backbone, SparseCSRHead(8))


def test_a_head_follows_the_model_to_its_device(backbone, head):
    assert attach(backbone.to("meta"), head)[1].encoder_weight.device == torch.device("meta")


def test_public_names_are_there():
    for name in csr_st.__all__:
        assert hasattr(csr_st, name), name
    assert sorted(csr_st.__all__) == csr_st.__all__


def test_modules_whose_names_are_not_consecutive_are_all_kept(base, head):
    base._modules = {"0": base[0], "2": base[1]}
    attached = attach(base, head)
    assert [*attached.children()] == [base[0], base[1], head]
