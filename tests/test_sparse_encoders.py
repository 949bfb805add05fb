"""SPLADE and other models of sentence-transformers' own: the codes are their own sparse vectors."""

import warnings

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router
from sentence_transformers.sparse_encoder.modules import (
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)

import csr_st
from csr_st import CodeStore, PackedCodes, SparseIndex, encode, sparse_encoders
from csr_st.search.documents import MAX_K
from csr_st.sparse_encoders import MOST_ACTIVE

ROLES = [None, "query", "document"]


def theirs(model, texts, role=None, **options) -> np.ndarray:
    """(n, width) output of the model's own method."""
    method = getattr(model, "encode" if role is None else f"encode_{role}")
    return method(texts, convert_to_sparse_tensor=False, **options).float().numpy()


def assert_close(found, expected):
    """Equal but for what batches of other sizes round otherwise."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture
def autoencoder(backbone) -> SparseEncoder:
    """A CSR model in sentence-transformers' own layout: 16 dimensions, 64 latents, k=8."""
    torch.manual_seed(4)
    return SparseEncoder(modules=[backbone[0], SparseAutoEncoder(16, 64, k=8)], device="cpu")


@pytest.fixture
def inference_free(splade, masked_lm_folder) -> SparseEncoder:
    """Queries are weights of their tokens, documents go through SPLADE."""
    weights = torch.linspace(0, 2, 24)
    static = SparseStaticEmbedding(splade.tokenizer, weights)
    router = Router.for_query_document([static], [splade[0], SpladePooling()])
    return SparseEncoder(modules=[router], device="cpu")


@pytest.mark.parametrize("role", ROLES)
def test_codes_are_the_models_own_vectors(splade, texts, role):
    codes = encode(splade, texts, role=role)
    expected = theirs(splade, texts, role)
    assert codes.hidden_dim == 24
    assert not codes.normalized
    assert_close(codes.to_dense(), expected)
    assert codes.k == (expected > 0).sum(axis=1).max() < 24
    assert (np.diff(codes.values, axis=1) <= 0).all()


@pytest.mark.parametrize("k", [1, 5, 24])
@pytest.mark.parametrize("role", ROLES)
def test_the_k_largest_dimensions(splade, texts, k, role):
    codes = encode(splade, texts, k=k, role=role)
    assert codes.k == k
    expected = theirs(splade, texts, role, max_active_dims=k)
    assert_close(codes.to_dense(), expected)


def test_a_role_has_its_prompt(splade, texts):
    found = encode(splade, texts, role="query").to_dense()
    by_hand = encode(splade, [f"the red {text}" for text in texts]).to_dense()
    assert_close(found, by_hand)
    assert (found != encode(splade, texts, role="document").to_dense()).any()


def test_the_dot_product_is_the_models_similarity(splade, texts):
    query, document = (encode(splade, texts, role=role) for role in ("query", "document"))
    vectors = [theirs(splade, texts, role) for role in ("query", "document")]
    expected = splade.similarity(*vectors).numpy()
    found = (query.to_scipy() @ document.to_scipy().T).toarray()
    assert_close(found, expected)


@pytest.mark.parametrize("k", [None, 1, 8, 20, 64])
def test_an_autoencoder_gives_as_many_latents_as_are_asked_for(autoencoder, texts, k):
    codes = encode(autoencoder, texts, k=k)
    assert (codes.k, codes.hidden_dim) == (8 if k is None else k, 64)
    assert_close(codes.to_dense(), theirs(autoencoder, texts, max_active_dims=k))


def test_max_active_dims_of_the_model_is_its_default_k(masked_lm_folder, saved, texts):
    model = SparseEncoder(masked_lm_folder, device="cpu", max_active_dims=3)
    codes = encode(model, texts)
    assert codes.k == 3
    assert_close(codes.to_dense(), theirs(model, texts))
    assert encode(model, texts, k=6).k == 6
    assert encode(SparseEncoder(saved, device="cpu", max_active_dims=3), texts).k == 3


@pytest.mark.parametrize("role", ["query", "document"])
def test_queries_by_weights_of_their_tokens(inference_free, texts, role):
    codes = encode(inference_free, texts, role=role)
    assert_close(codes.to_dense(), theirs(inference_free, texts, role))
    assert codes.hidden_dim == 24


def test_the_order_holds_over_batches_and_chunks(splade, texts, monkeypatch):
    monkeypatch.setattr("csr_st.encoding.BATCHES_PER_CHUNK", 2)
    many = [f"{word} {text}" for word in ("cat", "sea", "") for text in texts]
    for k in (None, 4):
        codes = encode(splade, many, k=k, batch_size=3)
        expected = theirs(splade, many, max_active_dims=k)
        assert_close(codes.to_dense(), expected)


def test_no_more_than_one_batch_of_whole_vectors(splade, texts, monkeypatch):
    """What leaves a forward pass are packed rows, 2k + 1 wide."""
    shapes = []
    forward = sparse_encoders.SparseOutput.forward

    def recorded(self, features, **options):
        found = forward(self, features, **options)
        shapes.append((features["sentence_embedding"].shape, found["sentence_embedding"].shape))
        return found

    monkeypatch.setattr(sparse_encoders.SparseOutput, "forward", recorded)
    encode(splade, texts * 5, k=2, batch_size=5)
    assert shapes == [((5, 24), (5, 5))] * 5


def test_all_active_dimensions_up_to_a_bound(splade, texts, monkeypatch):
    assert MOST_ACTIVE == MAX_K
    whole = encode(splade, texts)
    monkeypatch.setattr(sparse_encoders, "MOST_ACTIVE", 4)
    with pytest.warns(
        UserWarning, match="5 of 5 inputs have 4 active dimensions or more; the larg"
    ):
        codes = encode(splade, texts)
    np.testing.assert_array_equal(codes.to_dense(), whole.prefix(4).to_dense())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encode(splade, texts, k=6).k == 6


def test_no_text_an_empty_one_and_one(splade):
    assert encode(splade, []).shape == (0, 24)
    assert encode(splade, [], k=3).indices.shape == (0, 3)
    empty = encode(splade, ["sea", ""])
    assert_close(empty.to_dense(), theirs(splade, ["sea", ""]))
    assert not empty[1].to_dense().any()
    assert_close(encode(splade, "sea").to_dense(), empty[0].to_dense())


def test_types_and_bits_of_values(splade, texts):
    whole = encode(splade, texts)
    half = encode(splade, texts, dtype="float16")
    np.testing.assert_array_equal(half.values, whole.values.astype(np.float16))
    rounded, packed = encode(splade, texts, value_bits=4), whole.pack(4)
    np.testing.assert_array_equal(rounded.to_dense(), packed.unpack().to_dense())
    np.testing.assert_allclose(rounded.to_dense(), whole.to_dense(), atol=whole.values.max() / 14)


def test_bad_input_is_refused(splade, autoencoder, texts):
    for options in ({"pursuit": True}, {"residual_bits": 1}):
        with pytest.raises(ValueError, match="needs the decoder of a SparseCSRHead, which this Sp"):
            encode(splade, texts, **options)
        with pytest.raises(ValueError, match="needs the decoder of a SparseCSRHead, which this Sp"):
            CodeStore.encode(splade, texts, "unused", **options)
    with pytest.raises(ValueError, match="k=25 exceeds hidden_dim=24; pass 1 <= k <= 24"):
        encode(splade, texts, k=25)
    with pytest.raises(TypeError, match=r"k=2\.5 is not an integer"):
        encode(splade, texts, k=2.5)
    with pytest.raises(TypeError, match="takes no max_active_dims: it has the name k here"):
        encode(splade, texts, max_active_dims=3)
    with pytest.raises(ValueError, match="role='doc' must be"):
        encode(splade, texts, role="doc")
    with pytest.raises(ValueError, match="0 SparseCSRHead modules where one is needed"):
        csr_st.encode_dense(splade, texts)
    with torch.no_grad():
        autoencoder[1].pre_bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or Inf in the sparse vectors"):
        encode(autoencoder, texts)
    dense = SparseEncoder(modules=[autoencoder[0]], device="cpu")
    with pytest.raises(ValueError, match="the sparse vectors have negative numbers, such as -"):
        encode(dense, texts)


def test_the_model_is_left_as_it_was(splade, texts):
    expected = theirs(splade, texts)
    before = list(splade.named_children())
    encode(splade, texts, k=2)
    assert list(splade.named_children()) == before
    assert splade.max_active_dims is None
    np.testing.assert_array_equal(theirs(splade, texts), expected)


@pytest.mark.slow
def test_several_processes_give_the_codes_of_one(splade, texts):
    found = encode(splade, texts, device=["cpu", "cpu"], role="query")
    assert_close(found.to_dense(), encode(splade, texts, role="query").to_dense())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("value_bits", [None, 8])
def test_a_store_has_the_codes_of_encoding_at_once(splade, texts, tmp_path, role, value_bits):
    options = {"k": 6, "role": role, "value_bits": value_bits}
    store = CodeStore.encode(splade, texts, tmp_path / "c", shard_rows=2, **options)
    assert (store.k, store.hidden_dim, store.value_bits) == (6, 24, value_bits)
    expected = encode(splade, texts, **options)
    tolerance = 1e-6 if value_bits is None else 0.01
    np.testing.assert_allclose(store.codes().to_dense(), expected.to_dense(), atol=tolerance)
    store.verify()
    assert CodeStore.encode(splade, texts, tmp_path / "c", shard_rows=2, **options).k == 6
    with pytest.raises(ValueError, match="another plan"):
        CodeStore.encode(splade, texts, tmp_path / "c", shard_rows=2, **{**options, "k": 5})


def test_a_store_resumes_with_the_model_loaded_again(masked_lm_folder, texts, tmp_path):
    """The pooling learns its width in its first forward pass, which must not make it another."""
    for _ in range(2):
        model = SparseEncoder(masked_lm_folder, device="cpu")
        store = CodeStore.encode(model, texts, tmp_path / "c")
        assert store.k == 24
    assert_close(store.codes().to_dense(), theirs(model, texts))


def test_a_store_takes_either_class_of_one_folder(saved, texts, tmp_path):
    for model in (SentenceTransformer(saved, device="cpu"), SparseEncoder(saved, device="cpu")):
        store = CodeStore.encode(model, texts, tmp_path / "c", k=4)
    assert len(store) == 5


@pytest.mark.parametrize("value_bits", [None, 4, 8])
def test_search_ranks_by_the_cosine_of_codes(splade, texts, tmp_path, value_bits):
    documents = encode(splade, texts, role="document")
    stored = documents if value_bits is None else documents.pack(value_bits)
    stored.save(tmp_path / "codes")
    loaded = type(stored).load(tmp_path / "codes")
    unpacked = loaded.unpack() if isinstance(loaded, PackedCodes) else loaded
    queries = encode(splade, ["cat", "blue sea"], role="query")
    found = SparseIndex.build(loaded).search(queries, top_k=5)
    one, two = (codes.normalize().to_dense() for codes in (queries, unpacked))
    expected = one @ two.T
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1), atol=1e-5)


def test_search_ranks_by_the_models_own_similarity(splade, texts):
    documents = encode(splade, texts, role="document")
    queries = encode(splade, ["cat", "blue sea"], role="query")
    index = SparseIndex.build(documents, similarity=splade.similarity_fn_name)
    assert index.similarity == "dot"
    vectors = theirs(splade, ["cat", "blue sea"], "query"), theirs(splade, texts, "document")
    expected = splade.similarity(*vectors).numpy()
    found = index.search(queries, top_k=5)
    np.testing.assert_array_equal(found.ids, np.argsort(-expected, axis=1, kind="stable"))
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1), rtol=1e-4)


def test_longer_codes_are_searched_and_packed(rng):
    """As many dimensions as SPLADE has, over a vocabulary of its size."""
    indices = np.stack([rng.choice(30522, 300, replace=False) for _ in range(50)])
    values = np.sort(rng.exponential(size=(50, 300)).astype(np.float32))[:, ::-1].copy()
    values[::2, 120:] = 0
    codes = csr_st.SparseCodes(indices, values, 30522)
    packed = codes.pack(8)
    assert packed.nbytes < 0.75 * codes.nbytes
    found = SparseIndex.build(packed).search(codes[:3], top_k=1)
    np.testing.assert_array_equal(found.ids[:, 0], [0, 1, 2])
