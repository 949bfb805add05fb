"""Token-level heads, saved, published, searched and explained as text-level ones are."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_stand_in import WRITER, HubStandIn
from huggingface_hub import constants, hf_api
from sentence_transformers import SentenceTransformer, SparseEncoder
from token_models import MANY, code_by_hand, token_head, token_vectors
from word_scores import expected as scores_with_words

import csr_st
from csr_st import CodeStore, Decoder, SparseIndex, find_head
from csr_st.convert import losses_of_native, to_native
from csr_st.embeddings import EmbeddingStore
from csr_st.insight import explain, word_shares
from csr_st.search import HybridVectors


@pytest.fixture
def token_saved(token_model, tmp_path) -> str:
    csr_st.save(token_model, tmp_path / "saved")
    return str(tmp_path / "saved")


def assert_equal_codes(one, other, texts, **options):
    for role in (None, "query", "document"):
        found, expected = (csr_st.encode(m, texts, role=role, **options) for m in (one, other))
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.norms, expected.norms)


# Files


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}])
@pytest.mark.parametrize("settings", [{}, {"pooling": "max", "query_k": 3, "tied": True}])
def test_a_saved_model_gives_equal_codes(token_backbone, tmp_path, texts, options, settings):
    model = csr_st.attach(token_backbone, token_head(**settings, saturation=0.6))
    model.save(str(tmp_path / "s"), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path / "s"), device="cpu", **options)
    assert type(loaded[-1]) is csr_st.SparseCSRHead
    assert find_head(loaded).get_config_dict() == find_head(model).get_config_dict()
    assert_equal_codes(loaded, model, [*texts, ""])
    np.testing.assert_array_equal(loaded.encode(texts, k=5), model.encode(texts, k=5))
    assert not find_head(loaded).latent_weights.requires_grad


def test_a_sparse_encoder_gives_equal_codes(token_saved, token_model, texts):
    loaded = SparseEncoder(token_saved, device="cpu")
    rows = loaded.encode(texts, max_active_dims=8, convert_to_sparse_tensor=False)
    np.testing.assert_array_equal(rows.cpu().numpy(), token_model.encode(texts, k=8))
    codes = csr_st.encode(loaded, texts, k=8)
    np.testing.assert_array_equal(codes.to_dense(), token_model.encode(texts, k=8))


def test_the_config_of_a_token_level_head(token_saved):
    config = json.loads(Path(token_saved, "2_SparseCSRHead", "config.json").read_text())
    assert {name: config[name] for name in ("level", "pooling", "k_token", "skipped_tokens")} == {
        "level": "token",
        "pooling": "sum",
        "k_token": 4,
        "skipped_tokens": [0, 1, 2, 3],
    }
    assert config["saturation"] == 1.0
    assert "text_share" not in config  # heads of before had none


def test_a_share_of_the_whole_text_is_kept(token_backbone, tmp_path, texts):
    model = csr_st.attach(token_backbone, token_head(text_share=0.25))
    csr_st.save(model, tmp_path / "model")
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert find_head(loaded).text_share == 0.25
    np.testing.assert_array_equal(loaded.encode(texts, k=8), model.encode(texts, k=8))


def test_the_config_of_a_text_level_head_is_what_it_was(head, tmp_path):
    """Byte for byte what was written before there were token-level heads."""
    head.save(str(tmp_path))
    assert (tmp_path / "config.json").read_text() == CONFIG
    assert sorted(dict(head.named_parameters())) == [
        "decoder_weight",
        "encoder_weight",
        "latent_bias",
        "pre_bias",
    ]


CONFIG = """{
  "format_version": 1,
  "input_dim": 16,
  "hidden_dim": 64,
  "k": 8,
  "query_k": null,
  "normalize": true,
  "tied": false,
  "power": 1.0,
  "dtype": "float32"
}
"""


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"level": "word"}, ValueError, "level='word'"),
        ({"pooling": "mean"}, ValueError, "pooling='mean'"),
        ({"k_token": 1000}, ValueError, "k_token=1000"),
        ({"saturation": -1}, ValueError, "saturation=-1"),
        ({"skipped_tokens": ["a"]}, ValueError, "skipped_tokens"),
        ({"level": "text"}, ValueError, "latent_weights"),
    ],
)
def test_a_damaged_config_is_named(token_saved, change, error, message):
    path = Path(token_saved, "2_SparseCSRHead", "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=message):
        SentenceTransformer(token_saved, device="cpu")


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_and_pickled(token_model, texts, how):
    assert_equal_codes(how(token_model), token_model, texts)


def test_detached_it_is_the_backbone(token_model, token_backbone, texts):
    np.testing.assert_array_equal(
        csr_st.detach(token_model).encode(texts), token_backbone.encode(texts)
    )
    np.testing.assert_array_equal(
        csr_st.encode_dense(token_model, texts), token_backbone.encode(texts)
    )


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_a_model_comes_back_from_the_hub_with_equal_codes(
    token_model, texts, tmp_path, monkeypatch
):
    with HubStandIn() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        csr_st.push_to_hub(token_model, "someone/tokens")
        card = hub.files("someone/tokens")["README.md"].decode()
        loaded = SentenceTransformer("someone/tokens", device="cpu")
        assert_equal_codes(loaded, token_model, texts)
    assert "chooses latents for each token of a text" in card
    assert "Decoder" not in card


# Codes


def test_a_store_of_codes(token_model, tmp_path, texts):
    store = CodeStore.encode(token_model, MANY, tmp_path / "s", k=6, shard_rows=16)
    np.testing.assert_allclose(
        store.codes().to_dense(), csr_st.encode(token_model, MANY, k=6).to_dense(), atol=1e-6
    )
    again = CodeStore.encode(token_model, MANY, tmp_path / "s", k=6, shard_rows=16)
    np.testing.assert_array_equal(again.codes().values, store.codes().values)
    find_head(token_model).saturation = 3.0
    with pytest.raises(ValueError, match="saturation"):
        CodeStore.encode(token_model, MANY, tmp_path / "s", k=6, shard_rows=16)


def test_a_store_of_codes_of_other_weights_is_refused(token_model, tmp_path):
    CodeStore.encode(token_model, MANY, tmp_path / "s", k=6)
    with torch.no_grad():
        find_head(token_model).latent_weights.mul_(2)
    with pytest.raises(ValueError, match="weights"):
        CodeStore.encode(token_model, MANY, tmp_path / "s", k=6)


def test_a_store_of_codes_names_rows_with_nan(token_model, tmp_path):
    with torch.no_grad():
        word = token_model.tokenizer.convert_tokens_to_ids("sea")
        token_model[0].model.embeddings.word_embeddings.weight[word] = torch.nan
    with pytest.raises(ValueError, match="row 2 is NaN or Inf"):
        CodeStore.encode(token_model, ["a", "the dog ran", "the sea"], tmp_path / "s", k=4)


@pytest.mark.parametrize("value_bits", [4, 8])
def test_packed_codes(token_model, texts, value_bits):
    codes = csr_st.encode(token_model, [*texts, ""], k=8)
    packed = codes.pack(value_bits)
    unpacked = packed.unpack()
    assert not unpacked.values[-1].any()
    cosines = np.einsum("nh,nh->n", unpacked.to_dense(), codes.to_dense())
    assert (cosines[:-1] > 0.98).all()
    direct = csr_st.encode(token_model, [*texts, ""], k=8, value_bits=value_bits)
    np.testing.assert_array_equal(direct.to_dense(), unpacked.to_dense())


# Search


def test_search_ranks_by_the_cosine_of_codes(token_model):
    pytest.importorskip("numba")
    codes = csr_st.encode(token_model, [*MANY, ""], k=16, role="document")
    asked = csr_st.encode(token_model, MANY[:7], k=32, role="query")
    index = SparseIndex.build(codes)
    found = index.search(asked, top_k=5)
    scores = asked.to_dense() @ codes.to_dense().T
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], atol=1e-6)
    shorter = SparseIndex.build(codes.prefix(4)).search(asked, top_k=5)
    np.testing.assert_allclose(index.search(asked, top_k=5, k=4).scores, shorter.scores, atol=1e-6)
    boosted = index.search(asked, top_k=5, boost={int(asked.indices[0, 0]): 4.0})
    expected = asked.boost({int(asked.indices[0, 0]): 4.0})
    np.testing.assert_allclose(boosted.scores, index.search(expected, top_k=5).scores, atol=1e-6)


def test_words_beside_codes(token_model, tmp_path):
    for module in ("numba", "bm25s", "Stemmer"):
        pytest.importorskip(module)
    codes = csr_st.encode(token_model, MANY, k=16, role="document")
    queries = ["a red bird", "the fish swam", "sea"]
    asked = csr_st.encode(token_model, queries, k=32, role="query")
    index = SparseIndex.build(codes, words=MANY)
    index.save(tmp_path / "i.csr")
    index = SparseIndex.load(tmp_path / "i.csr")
    found = index.search(asked, top_k=5, words=queries)
    expected = scores_with_words(codes, asked, MANY, queries, index.weight)
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1)[:, :5], atol=2e-6)
    vectors = HybridVectors.of(index)
    product = vectors.queries(asked, queries) @ vectors.documents(codes, MANY).T
    np.testing.assert_allclose(product.toarray(), expected, atol=2e-6)

    row = int(found.ids[0, 0])
    why = explain(
        asked[:1], row, index=index, words=queries[0], model=token_model,
        query_text=queries[0], document_text=MANY[row],
    )  # fmt: skip
    assert why.score == pytest.approx(float(found.scores[0, 0]), abs=2e-6)


def test_explanations_say_which_words_carry_a_latent(token_model):
    """A word's share is what the latent loses without it, by the codes of the changed text."""
    head = find_head(token_model)
    text = "the cat sat"
    latent = int(csr_st.encode(token_model, text, k=1).indices[0, 0])
    raw = {}
    for words in (text, "cat sat", "the  sat", "the cat"):
        vectors = token_vectors(token_model, words)
        of = code_by_hand(head, vectors, 64)
        norm = csr_st.encode(token_model, words, k=64).norms[0]
        raw[words] = of[latent] * norm
    without = zip(("the", "cat", "sat"), list(raw)[1:], strict=True)
    falls = {word: 1 - raw[words] / raw[text] for word, words in without}
    expected = {word: fall for word, fall in falls.items() if fall > 0}
    found = word_shares(token_model, text, [latent])[latent]
    assert found == pytest.approx(expected, abs=1e-5)


def test_latents_are_named(token_model):
    rng = np.random.default_rng(0)
    texts = [
        " ".join(
            rng.permutation(["cat", "mat", "the", "red"] if i % 2 else ["fish", "sea", "blue", "a"])
        )
        for i in range(120)
    ]
    names = csr_st.name_latents(csr_st.encode(token_model, texts, k=8), texts)
    named = [name for name in names if name.words]
    assert named
    sides = {"cat", "mat", "the", "red"}, {"fish", "sea", "blue", "a"}
    assert all(set(name.words) <= sides[0] or set(name.words) <= sides[1] for name in named)


# What only text-level heads can do


def test_what_needs_the_dense_vector_is_refused(token_model, tmp_path, texts, rng):
    head = find_head(token_model)
    vectors = rng.normal(size=(20, 16)).astype(np.float32)
    store = EmbeddingStore.from_array(vectors)
    message = "level='token'"
    calls = [
        lambda: Decoder.from_head(head),
        lambda: csr_st.encode_vectors(head, vectors, 4),
        lambda: csr_st.encode(token_model, texts, k=4, pursuit=True),
        lambda: csr_st.encode(token_model, texts, k=4, residual_bits=1),
        lambda: token_model.encode(texts, k=4, pursuit=True),
        lambda: CodeStore.encode(token_model, texts, tmp_path / "a", k=4, residual_bits=1),
        lambda: CodeStore.encode(token_model, texts, tmp_path / "b", k=4, pursuit=True),
        lambda: csr_st.calibrate(head, store),
        lambda: csr_st.adapt(head, store),
        lambda: csr_st.evaluate(head, vectors),
        lambda: losses_of_native(head),
        lambda: to_native(token_model, tmp_path / "native"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
    assert not list(tmp_path.iterdir())


def test_a_search_cannot_be_rescored(token_model, texts):
    pytest.importorskip("numba")
    codes = csr_st.encode(token_model, texts, k=8)
    dense = csr_st.encode_dense(token_model, texts)
    with pytest.raises(ValueError, match="decoder"):
        SparseIndex.build(codes).search(codes, top_k=2, rescore=3, queries_dense=dense)


def test_image_models_say_that_they_have_no_tokens(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image
    from tiny_clip import build

    clip = SentenceTransformer(build(tmp_path / "clip"), device="cpu")
    width = clip.get_embedding_dimension()
    head = csr_st.SparseCSRHead(width, 4 * width, k=4, level="token")
    model = csr_st.attach(clip, head)
    for given in (["a red square"], [Image.new("RGB", (32, 32), "red")]):
        with pytest.raises(ValueError, match="needs token_embeddings"):
            model.encode(given)
