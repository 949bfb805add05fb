"""Options of ``model.encode`` that would damage codes are refused, however the model was made."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import csr_st

TRUNCATED = r"truncate_dim=16 would keep the first 16 of 64 latents, .*pass encode\(\.\.\., k=\)"


def appended(backbone, head):
    """As users add modules by hand; sentence-transformers then calls no hook."""
    backbone.append(head)
    return backbone


MODELS = {
    "attached": csr_st.attach,
    "appended": appended,
    "constructed": lambda backbone, head: SentenceTransformer(modules=[backbone[0], head]),
    "before another module": lambda backbone, head: SentenceTransformer(
        modules=[backbone[0], head, Normalize()]
    ),
}


@pytest.fixture(params=MODELS)
def any_model(request, backbone, head):
    return MODELS[request.param](backbone, head)


def test_a_call_with_truncate_dim_is_refused(any_model, texts):
    expected = any_model.encode(texts, k=8)
    for call in (any_model.encode, any_model.encode_query, any_model.encode_document):
        with pytest.raises(ValueError, match=TRUNCATED):
            call(texts, k=8, truncate_dim=16)
    any_model.truncate_dim = 16
    with pytest.raises(ValueError, match=TRUNCATED):
        any_model.encode(texts[0])
    any_model.truncate_dim = None
    with any_model.truncate_embeddings(16), pytest.raises(ValueError, match=TRUNCATED):
        any_model.encode(texts, convert_to_tensor=True)
    np.testing.assert_array_equal(any_model.encode(texts, k=8), expected)
    # What keeps every latent, as any model's truncate_dim above its width does, is harmless.
    np.testing.assert_array_equal(any_model.encode(texts, k=8, truncate_dim=64), expected)


def test_truncate_dim_is_refused_after_compiling(model, texts):
    expected = model.encode(texts, k=8)
    model.compile(backend="eager")
    np.testing.assert_array_equal(model.encode(texts, k=8), expected)
    with pytest.raises(ValueError, match=TRUNCATED):
        model.encode(texts, k=8, truncate_dim=16)
    torch.compiler.reset()


def test_dense_vectors_take_no_option_that_changes_them(model, texts):
    for option in ({"truncate_dim": 4}, {"precision": "int8"}, {"output_value": None}):
        with pytest.raises(TypeError, match=f"csr_st.encode_dense takes no {next(iter(option))}"):
            csr_st.encode_dense(model, texts, **option)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_precision_that_makes_zeros_non_zero_is_refused(saved, model, texts, precision):
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)]
    for each in (model, SentenceTransformer(saved, device="cpu"), *copies):
        for call in (each.encode, each.encode_query, each.encode_document):
            with pytest.raises(ValueError, match=f"precision='{precision}' would make zeros non-z"):
                call(texts, k=8, precision=precision)
        with pytest.raises(ValueError, match=r"dtype='float16'"):
            each.encode(texts, None, None, 32, False, "sentence_embedding", precision)
        assert each.encode(texts, precision="float32").shape == (5, 64)


def test_binary_precision_keeps_which_latents_are_active(model, texts):
    bits = np.unpackbits(model.encode(texts, k=8, precision="ubinary"), axis=1)
    np.testing.assert_array_equal(bits, model.encode(texts, k=8) > 0)


def test_binary_precision_needs_whole_bytes(backbone, texts):
    model = csr_st.attach(backbone, csr_st.SparseCSRHead(16, 60))
    with pytest.raises(ValueError, match=r"precision='binary' packs 8 .*hidden_dim=60 is not a mu"):
        model.encode(texts, precision="binary")


def test_a_detached_model_takes_every_option_again(model, texts):
    dense = csr_st.detach(model)
    assert type(dense) is sentence_transformers.SentenceTransformer
    assert dense.encode(texts, truncate_dim=4).shape == (5, 4)
    assert dense.encode(texts, precision="ubinary").shape == (5, 2)
