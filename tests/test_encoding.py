"""Encoding with a head: the same codes from every function of sentence-transformers and ours."""

from __future__ import annotations

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from torch.utils._python_dispatch import TorchDispatchMode

import csr_st
from csr_st import Decoder, SparseCSRHead, encode, encode_dense, encoding, find_head
from csr_st.model.residual_basis import ResidualBasis
from csr_st.residual import ResidualBits

# sentence-transformers builds sparse tensors without saying whether torch should check them.
unchecked_by_them = pytest.mark.filterwarnings(
    "ignore:Sparse invariant checks are implicitly disabled:UserWarning"
)


def active(rows) -> list[int]:
    return (np.asarray(rows) != 0).sum(axis=-1).tolist()


@unchecked_by_them
@pytest.mark.parametrize("name", ["k", "max_active_dims"])
@pytest.mark.parametrize("k", [1, 16, 64])
def test_one_saved_folder_gives_equal_codes_everywhere(saved, texts, name, k):
    dense = SentenceTransformer(saved, device="cpu").encode(texts, **{name: k})
    codes = encode(SentenceTransformer(saved, device="cpu"), texts, k=k)
    sparse = SparseEncoder(saved, device="cpu").encode(texts, **{name: k})
    assert dense.shape == (5, 64)
    assert max(active(dense)) <= k
    np.testing.assert_array_equal(codes.to_dense(), dense)
    np.testing.assert_array_equal(sparse.to_dense().numpy(), dense)


@unchecked_by_them
def test_sparse_encoder_ends_in_the_head_alone(saved, texts):
    model = SparseEncoder(saved, device="cpu")
    assert [type(module).__name__ for module in model.children()] == [
        "StaticEmbedding",
        "SparseCSRHead",
    ]
    assert model.get_embedding_dimension() == 64
    plain = SentenceTransformer(saved, device="cpu")
    np.testing.assert_array_equal(model.encode(texts).to_dense().numpy(), plain.encode(texts))


@pytest.mark.parametrize("role", [None, "query", "document"])
def test_a_sparse_encoder_with_the_head_gives_the_codes_of_the_same_folder(saved, texts, role):
    plain, sparse = SentenceTransformer(saved, device="cpu"), SparseEncoder(saved, device="cpu")
    for k in (None, 4):
        found, expected = (encode(one, texts, k, role=role) for one in (sparse, plain))
        np.testing.assert_array_equal(found.to_dense(), expected.to_dense())
        np.testing.assert_array_equal(found.norms, expected.norms)
    dense = [encode_dense(one, texts, role=role) for one in (sparse, plain)]
    np.testing.assert_array_equal(*dense)
    bits = encode(sparse, texts, 4, residual_bits=1).residual
    assert bits.kind == encode(plain, texts, 4, residual_bits=1).residual.kind


@pytest.mark.parametrize("k", [2, 16])
def test_equals_sparse_auto_encoder_in_the_same_pipeline(backbone, texts, k):
    theirs = SparseAutoEncoder(16, 64, k=8, normalize=False)
    head = SparseCSRHead(16, 64, k=8, normalize=False, tied=True)
    with torch.no_grad():
        for ours in head.parameters():
            ours.copy_(torch.randn(ours.shape, generator=torch.Generator().manual_seed(1)))
        theirs.encoder.weight.copy_(head.encoder_weight)
        theirs.pre_bias.copy_(head.pre_bias)
        theirs.latent_bias.copy_(head.latent_bias)
    expected = SentenceTransformer(modules=[backbone[0], theirs], device="cpu")
    np.testing.assert_array_equal(
        csr_st.attach(backbone, head).encode(texts, k=k),
        expected.encode(texts, max_active_dims=k),
    )


def test_the_default_k_is_the_heads(model, texts):
    assert encode(model, texts).k == 8
    find_head(model).k = 3
    assert encode(model, texts).k == 3
    assert max(active(model.encode(texts))) <= 3


def test_roles_take_their_prompt_and_their_k(model, texts):
    head = find_head(model)
    head.query_k = 20
    queries = encode(model, texts, role="query")
    assert queries.k == 20
    by_hand = model.encode(["the red " + text for text in texts], k=20)
    np.testing.assert_array_equal(queries.to_dense(), by_hand)
    np.testing.assert_array_equal(model.encode_query(texts), by_hand)

    documents = encode(model, texts, role="document")
    assert documents.k == 8
    np.testing.assert_array_equal(documents.to_dense(), model.encode(texts, k=8))
    np.testing.assert_array_equal(model.encode_document(texts), model.encode(texts, k=8))
    assert encode(model, texts, k=5, role="query").k == 5


def test_prompts_by_name_and_by_text(model, texts):
    by_name = encode(model, texts, prompt_name="query")
    by_text = encode(model, texts, prompt="the red ")
    np.testing.assert_array_equal(by_name.to_dense(), by_text.to_dense())
    assert (by_name.to_dense() != encode(model, texts).to_dense()).any()


def test_one_text_is_a_row(model, texts):
    row = model.encode(texts[0], k=4)
    assert row.shape == (64,)
    codes = encode(model, texts[0], k=4)
    assert len(codes) == 1
    np.testing.assert_array_equal(codes.to_dense()[0], row)


def test_tensors_and_lists(model, texts):
    array = model.encode(texts, k=4)
    assert torch.equal(model.encode(texts, k=4, convert_to_tensor=True), torch.from_numpy(array))
    rows = model.encode(texts, k=4, convert_to_numpy=False)
    assert torch.equal(torch.stack(rows), torch.from_numpy(array))


@pytest.mark.parametrize(
    "kind",
    [list, tuple, iter, np.array, lambda texts: (t for t in texts)],
    ids=["list", "tuple", "iterator", "array", "generator"],
)
def test_any_collection_of_texts(model, texts, kind):
    np.testing.assert_array_equal(
        encode(model, kind(texts)).to_dense(), encode(model, texts).to_dense()
    )


def test_a_column_of_a_dataset(model, texts):
    column = Dataset.from_dict({"text": texts})["text"]
    np.testing.assert_array_equal(encode(model, column).to_dense(), encode(model, texts).to_dense())


@pytest.mark.parametrize("normalize", [True, False])
def test_no_texts_give_no_codes(backbone, normalize):
    model = csr_st.attach(backbone, SparseCSRHead(16, k=8, normalize=normalize))
    codes = encode(model, [])
    assert codes.shape == (0, 64)
    assert codes.normalized == normalize
    assert encode_dense(model, []).shape == (0, 16)


def test_order_holds_over_chunks_and_batches(model, texts, monkeypatch):
    expected = encode(model, texts * 3).to_dense()
    monkeypatch.setattr(encoding, "BATCHES_PER_CHUNK", 2)
    chunked = encode(model, (text for text in texts * 3), batch_size=2, show_progress=False)
    np.testing.assert_allclose(chunked.to_dense(), expected, atol=1e-6)


def test_half_precision_values(model, texts):
    codes = encode(model, texts, dtype="float16")
    assert codes.values.dtype == np.float16
    np.testing.assert_allclose(codes.to_dense(), encode(model, texts).to_dense(), atol=1e-3)


def test_raw_codes_decode_to_what_the_head_reconstructs(model, texts):
    head = find_head(model)
    dense = torch.from_numpy(encode_dense(model, texts))
    raw = encode(model, texts).raw()
    decoded = head.decode(torch.from_numpy(raw.values), torch.from_numpy(raw.indices.astype(int)))
    torch.testing.assert_close(decoded, head.decode(*head.encode(dense)), rtol=1e-5, atol=1e-5)


def test_dense_vectors_are_the_backbones(backbone, model, texts):
    np.testing.assert_array_equal(encode_dense(model, texts), backbone.encode(texts))
    np.testing.assert_array_equal(
        encode_dense(model, texts, role="query"), backbone.encode_query(texts)
    )


def test_magnitudes_that_were_not_normalised(backbone, texts):
    model = csr_st.attach(backbone, SparseCSRHead(16, k=8, normalize=False))
    codes = encode(model, texts)
    assert not codes.normalized
    np.testing.assert_array_equal(codes.to_dense(), model.encode(texts))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_residual_is_what_the_decoder_does_not_rebuild(backbone, texts, bits, dtype, normalize):
    head = SparseCSRHead(16, k=8, normalize=normalize, power=0.5, short_ks=[4], residual_seed=3)
    with torch.no_grad():
        head.short_maps.add_(0.1)
        head.pre_bias.add_(0.2)
    model = csr_st.attach(backbone, head)
    for k in (4, 8):
        codes = encode(model, texts, k=k, residual_bits=bits, dtype=dtype)
        plain = encode(model, texts, k=k, dtype=dtype)
        np.testing.assert_array_equal(codes.values, plain.values)
        np.testing.assert_array_equal(codes.indices, plain.indices)
        dense, decoded = backbone.encode(texts), Decoder.from_head(head).decode(plain)
        expected = ResidualBits.of(dense - decoded, bits, ResidualBasis.seeded(16, 3))
        assert codes.residual.kind == expected.kind
        np.testing.assert_array_equal(codes.residual.levels, expected.levels)
        np.testing.assert_allclose(codes.residual.decode(), expected.decode(), atol=1e-2)
        left = np.linalg.norm(dense - Decoder.from_head(head).decode(codes), axis=1)
        assert (left < 0.95 * np.linalg.norm(dense - decoded, axis=1)).all()


@pytest.mark.parametrize("bits", [0.5, 1, 2])
def test_vectors_and_texts_have_one_residual(backbone, head, texts, bits):
    expected = encode(csr_st.attach(backbone, head), texts * 2, k=4, residual_bits=bits)
    vectors = backbone.encode(texts * 2)
    found = csr_st.encode_vectors(head, vectors, 4, batch_size=3, residual_bits=bits)
    np.testing.assert_array_equal(found.residual.levels, expected.residual.levels)
    doubles = csr_st.encode_vectors(head, vectors.astype(float), 4, residual_bits=bits)
    np.testing.assert_array_equal(doubles.residual.levels, expected.residual.levels)
    assert csr_st.encode_vectors(head, vectors, 4).residual is None


def test_a_residual_is_of_the_vector_without_its_modality_s_shift():
    head = SparseCSRHead(4, k=2, modalities=["text", "image"])
    with torch.no_grad():
        head.modality_bias[1] = 5
    x = torch.arange(8.0).reshape(2, 4)
    given = {"sentence_embedding": x, "modality": "image"}
    rows = head(given, packed=True, with_dense=True)["sentence_embedding"]
    assert rows.shape == (2, 2 * 2 + 1 + 4)
    torch.testing.assert_close(rows[:, 5:], x - 5)


def test_no_inputs_have_a_residual_of_the_same_kind(model, head, texts):
    some = encode(model, texts, k=4, residual_bits=2)
    for none in (
        encode(model, [], k=4, residual_bits=2),
        csr_st.encode_vectors(head, np.empty((0, 16)), 4, residual_bits=2),
    ):
        assert len(none.residual) == 0
        joined = csr_st.SparseCodes.concatenate([none, some])
        np.testing.assert_array_equal(joined.residual.levels, some.residual.levels)


@pytest.mark.parametrize(
    ("bits", "error", "message"),
    [
        (4.5, ValueError, r"residual_bits=4\.5 must be within 0\.\.4"),
        (-1, ValueError, r"residual_bits=-1 must be within 0\.\.4"),
        (0.6, ValueError, r"residual_bits=0\.6 is not a multiple of 0\.25"),
        (True, TypeError, "residual_bits=True must be a number"),
    ],
)
def test_other_residual_bits_are_refused(model, head, texts, bits, error, message):
    with pytest.raises(error, match=message):
        encode(model, texts, residual_bits=bits)
    with pytest.raises(error, match=message):
        csr_st.encode_vectors(head, np.zeros((1, 16)), 4, residual_bits=bits)


def test_the_seed_is_published_with_the_model(backbone, texts, tmp_path):
    for seed in (0, 7):
        model = csr_st.attach(backbone, SparseCSRHead(16, k=4, residual_seed=seed))
        model.save(str(tmp_path / f"{seed}"), create_model_card=False)
        loaded = SentenceTransformer(str(tmp_path / f"{seed}"), device="cpu")
        codes = encode(loaded, texts, residual_bits=1)
        assert codes.residual.basis == f"seed {seed}"
        config = (tmp_path / f"{seed}" / "1_SparseCSRHead" / "config.json").read_text()
        assert ("residual_seed" in config) == bool(seed)  # as before for the usual one
        expected = encode(model, texts, residual_bits=1)
        np.testing.assert_array_equal(codes.residual.levels, expected.residual.levels)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch_size", [2, 1024])
def test_vectors_give_the_codes_of_the_model_that_embeds_to_them(
    backbone, texts, normalize, batch_size
):
    head = SparseCSRHead(16, k=8, normalize=normalize)
    vectors = backbone.encode(texts)
    found = csr_st.encode_vectors(head, vectors, 4, batch_size=batch_size)
    expected = encode(csr_st.attach(backbone, head), texts, k=4)
    assert found.shape == (5, 64)
    assert found.k == 4
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.raw().values, expected.raw().values, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.to_dense(), axis=1), 1, atol=1e-6)
    doubles = csr_st.encode_vectors(head, vectors.astype(np.float64), 4)
    np.testing.assert_allclose(doubles.to_dense(), found.to_dense(), atol=1e-6)


def test_no_vectors_give_no_codes(head):
    codes = csr_st.encode_vectors(head, np.empty((0, 16), np.float32), 4)
    assert codes.shape == (0, 64)
    assert codes.k == 4
    assert codes.normalized


@pytest.mark.parametrize(
    ("vectors", "arguments", "error", "message"),
    [
        (np.zeros((3, 15)), {}, ValueError, "vectors of width 15 given to a head with input_dim=1"),
        (np.zeros(16), {}, ValueError, r"vectors of shape \(16,\) must be \(n, 16\)"),
        (np.zeros((1, 2, 16)), {}, ValueError, r"shape \(1, 2, 16\) must be \(n, 16\)"),
        (np.full((3, 16), np.nan), {}, ValueError, "NaN or Inf in the input vectors"),
        (np.full((3, 16), np.inf), {}, ValueError, "NaN or Inf in the input vectors"),
        (np.zeros((3, 16)), {"k": 0}, ValueError, "k=0 is below 1; pass 1 <= k <= 64"),
        (np.zeros((0, 16)), {"k": 65}, ValueError, "k=65 exceeds hidden_dim=64"),
        (np.zeros((3, 16)), {"k": 1.5}, TypeError, "k=1.5 is not an integer"),
        (np.zeros((3, 16)), {"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
    ],
)
def test_what_cannot_be_encoded_as_vectors_is_refused(head, vectors, arguments, error, message):
    with pytest.raises(error, match=message):
        csr_st.encode_vectors(head, vectors, **{"k": 4, **arguments})


class LargestTensor(TorchDispatchMode):
    """Entries of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.entries = max(self.entries, out.numel())
        return out


def test_never_builds_the_dense_matrix(backbone):
    model = csr_st.attach(backbone, SparseCSRHead(16, 1024, k=8))
    texts = ["cat dog", "fish"] * 1000
    with LargestTensor() as largest:
        tracemalloc.start()
        codes = encode(model, texts, batch_size=16, show_progress=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert codes.shape == (2000, 1024)
    assert largest.entries < 2 * max(16 * 1024, 2000 * (2 * 8 + 1))
    assert peak < 2000 * 1024 * 4 / 2
    assert codes.nbytes == 2000 * (8 * 2 + 8 * 4 + 4)


def test_progress_is_shown_for_long_work_only(model, texts, capfd, monkeypatch):
    encode(model, texts)
    assert capfd.readouterr() == ("", "")
    encode(model, texts, show_progress=True)
    assert "Encoding" in capfd.readouterr().err
    monkeypatch.setattr(encoding, "BATCHES_PER_CHUNK", 1)
    encode(model, texts, batch_size=2)
    out, err = capfd.readouterr()
    assert "5/5 [" in err
    assert out == ""
    encode(model, texts, batch_size=2, show_progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_pool_of_processes_gives_the_same_codes(model, texts):
    expected = model.encode(texts, k=5)
    np.testing.assert_allclose(
        encode(model, texts, k=5, device=["cpu", "cpu"]).to_dense(), expected, atol=1e-6
    )
    rows = model.encode(texts, k=5, device=["cpu"], chunk_size=2)
    np.testing.assert_allclose(rows, expected, atol=1e-6)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_a_model_encode_the_same(model, texts, clone):
    copied = clone(model)
    np.testing.assert_array_equal(copied.encode(texts), model.encode(texts))
    np.testing.assert_array_equal(encode(copied, texts).to_dense(), model.encode(texts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_backbone_of_half_precision_keeps_the_head_in_float32(
    transformer_folder, tmp_path, texts, dtype
):
    head = SparseCSRHead(16, k=8)
    whole = csr_st.attach(SentenceTransformer(transformer_folder, device="cpu"), head)
    whole.save(str(tmp_path), create_model_card=False)
    loaded = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs={"dtype": dtype})
    assert next(loaded[0].parameters()).dtype == dtype
    for name, tensor in find_head(loaded).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, head.state_dict()[name])

    rows = loaded.encode(texts)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(encode(loaded, texts).to_dense(), rows)
    dense = torch.from_numpy(encode_dense(loaded, texts))
    assert torch.equal(dense, dense.to(dtype).float())  # the backbone's own few bits
    expected = head({"sentence_embedding": dense})["sentence_embedding"]
    np.testing.assert_allclose(rows, expected.detach().numpy(), atol=1e-6)


def test_casting_the_model_to_half_keeps_the_head(model):
    before = {name: tensor.clone() for name, tensor in find_head(model).state_dict().items()}
    model.half()
    assert next(model[0].parameters()).dtype == torch.float16
    for name, tensor in find_head(model).state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, "k=0 is below 1; pass 1 <= k <= 64"),
        ({"k": 65}, ValueError, "k=65 exceeds hidden_dim=64; pass 1 <= k <= 64"),
        ({"k": 1.5}, TypeError, "k=1.5 is not an integer; pass 1 <= k <= 64"),
        ({"k": True}, TypeError, "k=True is not an integer; pass 1 <= k <= 64"),
    ],
)
def test_bad_k_is_refused_by_every_function(model, saved, texts, arguments, error, message):
    calls = [
        lambda: encode(model, texts, **arguments),
        lambda: model.encode(texts, **arguments),
        lambda: model.encode_query(texts[0], **arguments),
        lambda: SparseEncoder(saved, device="cpu").encode(texts, **arguments),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"role": "passage"}, ValueError, "role='passage' must be 'query', 'document' or None"),
        ({"dtype": "int8"}, ValueError, "dtype='int8' must be 'float32' or 'float16'"),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
        ({"normalize_embeddings": True}, TypeError, "takes no normalize_embeddings: it returns Sp"),
        ({"truncate_dim": 8}, TypeError, "takes no truncate_dim: it returns SparseCodes; use"),
        ({"precision": "int8"}, TypeError, "takes no precision: it returns SparseCodes; use"),
        ({"convert_to_tensor": True}, TypeError, "takes no convert_to_tensor: .* to_torch"),
        ({"with_dense": True}, TypeError, "takes no with_dense"),
        ({"top_k": 8}, ValueError, "top_k"),
    ],
)
def test_bad_arguments_are_refused(model, texts, arguments, error, message):
    with pytest.raises(error, match=message):
        encode(model, texts, **arguments)


def test_a_model_without_a_head_is_refused(backbone, texts):
    with pytest.raises(ValueError, match=r"has 0 SparseCSRHead modules .* csr_st\.attach"):
        encode(backbone, texts)
    with pytest.raises(ValueError, match="has 0 SparseCSRHead modules"):
        encode_dense(backbone, texts)


def test_inputs_that_embed_to_nan_are_refused(model, texts):
    with torch.no_grad():
        model[0].embedding.weight[1] = float("nan")  # the word "the"
    with pytest.raises(ValueError, match=r"NaN or Inf in the input vectors, first in batch rows"):
        encode(model, texts)
    assert len(encode(model, ["blue fish"])) == 1


def test_truncate_dim_is_refused_at_loading_and_at_encoding(saved, model, texts):
    with pytest.raises(ValueError, match=r"truncate_dim=8 would keep the first 8 of 64 latents"):
        SentenceTransformer(saved, device="cpu", truncate_dim=8)
    model.truncate_dim = 8
    with pytest.raises(ValueError, match=r"truncate_dim=8.* set model.truncate_dim = None and pas"):
        encode(model, texts)


def test_saving_again_keeps_everything(saved, texts, tmp_path):
    first = SentenceTransformer(saved, device="cpu")
    again = str(tmp_path / "again")
    first.save(again, create_model_card=False)
    second = SentenceTransformer(again, device="cpu")
    for name in (
        "modules.json",
        "config_sentence_transformers.json",
        "1_SparseCSRHead/config.json",
        "1_SparseCSRHead/model.safetensors",
    ):
        with open(f"{saved}/{name}", "rb") as old, open(f"{again}/{name}", "rb") as new:
            assert old.read() == new.read(), name
    np.testing.assert_array_equal(second.encode_query(texts), first.encode_query(texts))
    assert second.similarity_fn_name == first.similarity_fn_name == "dot"


def test_magnitudes_beyond_half_precision(saved, texts):
    """Unit codes are as in float32; raw ones are refused, as they would be infinite."""
    model = SentenceTransformer(saved, device="cpu")
    head = find_head(model)
    with torch.no_grad():
        head.encoder_weight.mul_(1e6)
    expected = encode(model, texts)
    np.testing.assert_allclose(
        encode(model, texts, dtype="float16").values, expected.values, atol=1e-3
    )
    head.normalize = False
    with pytest.raises(ValueError, match=r"beyond float16.*dtype='float32' or a head with normal"):
        encode(model, texts, dtype="float16")
    assert np.isfinite(encode(model, texts).values).all()


def test_a_head_in_half_precision_takes_norms_in_float32():
    head = SparseCSRHead(4, 8, k=2, dtype="float16")
    with torch.no_grad():
        head.encoder_weight.zero_()
        head.encoder_weight[:4] = torch.eye(4)
    found = head({"sentence_embedding": torch.tensor([[0, 400.0, 300.0, 0]])})
    expected = torch.tensor([[0, 0.8, 0.6, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(found["sentence_embedding"].float(), expected, atol=1e-3, rtol=0)
