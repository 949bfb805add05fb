"""Look-up of static queries: the codes of ``encode_query``."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import WORDS
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

import csr_st
from csr_st import static_queries
from csr_st.static_queries import StaticQueries, static_route

pytest.importorskip("numba")

TEXTS = ["the cat sat on the mat", "", "a dog", "zebra unknown", "sea " * 50, "the the the"]


def same(found, model, k):
    """Codes equal to those of the model, up to rounding and the order of equal values."""
    wanted = csr_st.encode(model, TEXTS, k=k, role="query")
    np.testing.assert_allclose(found.to_dense(), wanted.to_dense(), atol=1e-5)
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-5)
    assert found.indices.dtype == wanted.indices.dtype
    assert found.normalized == wanted.normalized
    if wanted.normalized:
        np.testing.assert_allclose(found.norms, wanted.norms, rtol=1e-4, atol=1e-6)
    plain = model.encode_query(TEXTS, k=k)
    np.testing.assert_allclose(found.to_dense(), plain, atol=1e-5)


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize(
    "settings",
    [{}, {"power": 0.5}, {"power": 0.7}, {"normalize": False}, {"tied": True}],
    ids=str,
)
@pytest.mark.parametrize("unit", [False, True])
def test_codes_are_those_of_encode_query(backbone, settings, k, unit):
    torch.manual_seed(1)
    head = csr_st.SparseCSRHead(16, k=8, **settings)
    with torch.no_grad():
        head.pre_bias.normal_(0, 0.1)
        head.latent_bias.normal_(0, 0.1)
    if unit:
        backbone.append(Normalize())
    model = csr_st.attach(backbone, head)
    look_up = StaticQueries(model)
    same(look_up.codes(TEXTS, k), model, k)
    dense = csr_st.encode_dense(model, TEXTS, role="query")
    np.testing.assert_allclose(look_up.vectors(TEXTS), dense, atol=1e-5)


def test_memory_for_tokens_is_bounded(model, monkeypatch):
    """With room for three tokens at a time, codes are the same."""
    monkeypatch.setattr(static_queries, "PROJECTED_BYTES", 3 * 64 * 4)
    look_up = StaticQueries(model)
    for _ in range(2):
        same(look_up.codes(TEXTS, 8), model, 8)


def test_threads_copies_and_pickles_give_the_same_codes(model):
    look_up = StaticQueries(model)
    queries = [" ".join(np.random.default_rng(seed).choice(WORDS, 4)) for seed in range(64)]
    wanted = csr_st.encode(model, queries, k=8, role="query").to_dense()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda query: look_up.codes([query], 8).to_dense(), queries))
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=1e-5)
    for other in (copy.deepcopy(look_up), pickle.loads(pickle.dumps(look_up))):
        np.testing.assert_allclose(other.codes(queries, 8).to_dense(), wanted, atol=1e-5)


def test_models_of_other_kinds_have_no_static_route(backbone, masked_lm_folder):
    assert static_route(backbone) is None
    other = SentenceTransformer(masked_lm_folder, device="cpu")
    transformer = csr_st.attach(other, csr_st.SparseCSRHead(16))
    assert static_route(transformer) is None
    modal = csr_st.attach(backbone, csr_st.SparseCSRHead(16, modalities=["text", "image"]))
    assert static_route(modal) is None
    with pytest.raises(ValueError, match=r"csr_st\.distill_queries gives it one"):
        StaticQueries(transformer)
