"""Codes by pursuit through encoding, files, stores, packing, the index and the command line."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import csr_st
from csr_st import CodeStore, Decoder, PackedCodes, SparseCodes, SparseIndex, encode, find_head
from csr_st.encoding import encode_dense, encode_vectors
from csr_st.head import SparseCSRHead


@pytest.fixture
def head() -> SparseCSRHead:
    torch.manual_seed(0)
    head = SparseCSRHead(16, 64, k=8, power=0.5, short_ks=[4], debias=True)
    with torch.no_grad():
        head.decoder_weight += 0.3 * torch.randn_like(head.decoder_weight)
        head.pre_bias.normal_(0, 0.1)
        head.latent_bias.uniform_(-0.1, 0)
        head.short_maps += 0.3 * torch.randn_like(head.short_maps)
    return head.eval()


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(60, 16)).astype(np.float32)


def error(head, codes, vectors):
    return ((Decoder.from_head(head).decode(codes) - vectors) ** 2).sum()


@pytest.mark.parametrize("k", [3, 8, 16])
def test_decoded_codes_are_those_of_the_head_without_map_or_debiasing(head, vectors, k):
    codes = encode_vectors(head, vectors, k, pursuit=True)
    raw = codes.raw()
    expected = raw.to_dense() ** 2 @ head.decoder_weight.detach().numpy()
    expected += head.pre_bias.detach().numpy()
    np.testing.assert_allclose(Decoder.from_head(head).decode(codes), expected, atol=1e-5)
    assert codes.fitted
    assert not encode_vectors(head, vectors, k).fitted
    assert error(head, codes, vectors) < error(head, encode_vectors(head, vectors, k), vectors)


def test_a_model_and_its_head_give_equal_codes(model, texts):
    codes = encode(model, texts, k=6, pursuit=True)
    dense = encode_dense(model, texts)
    expected = encode_vectors(find_head(model), dense, 6, pursuit=True)
    np.testing.assert_array_equal(codes.indices, expected.indices)
    np.testing.assert_allclose(codes.values, expected.values, atol=1e-5)
    np.testing.assert_allclose(model.encode(texts, k=6, pursuit=True), codes.to_dense(), atol=1e-6)


@pytest.mark.parametrize("residual_bits", [0, 1])
@pytest.mark.parametrize("value_bits", [None, 4, 8])
def test_files_keep_how_codes_were_made(head, vectors, tmp_path, value_bits, residual_bits):
    bits = {"residual_bits": residual_bits, "value_bits": value_bits}
    codes = encode_vectors(head, vectors, 8, pursuit=True, **bits)
    kept = codes if value_bits is None else codes.pack(value_bits)
    kept.save(tmp_path / "codes")
    loaded = (SparseCodes if value_bits is None else PackedCodes).load(tmp_path / "codes")
    back = loaded if value_bits is None else loaded.unpack()
    for other in (back, back[3:50], SparseCodes.concatenate([back[:9], back[9:]])):
        assert other.fitted
    assert back.prefix(2).fitted
    expected = Decoder.from_head(head).decode(codes)
    np.testing.assert_allclose(Decoder.from_head(head).decode(back), expected, atol=1e-4)
    if residual_bits:
        np.testing.assert_array_equal(back.residual.decode(), codes.residual.decode())


@pytest.mark.parametrize("value_bits", [4, 8])
@pytest.mark.parametrize("pursuit", [False, True])
def test_the_residual_is_that_of_what_packing_keeps(head, vectors, value_bits, pursuit):
    options = {"pursuit": pursuit, "residual_bits": 2, "value_bits": value_bits}
    codes = encode_vectors(head, vectors, 8, **options)
    unpacked = codes.pack(value_bits).unpack()
    np.testing.assert_allclose(unpacked.values, codes.values, rtol=1e-6)
    missing = vectors - Decoder.from_head(head).decode(replace(unpacked, residual=None))
    left = vectors - Decoder.from_head(head).decode(unpacked)
    assert (left**2).sum() < 0.2 * (missing**2).sum()  # two bits leave 12% of a Gaussian


@pytest.mark.parametrize("residual_bits", [0, 2])
@pytest.mark.parametrize("value_bits", [None, 8])
@pytest.mark.parametrize("k", [4, 8])
def test_an_index_rescores_as_the_decoder_decodes(
    head, vectors, tmp_path, k, value_bits, residual_bits
):
    bits = {"residual_bits": residual_bits, "value_bits": value_bits}
    codes = encode_vectors(head, vectors, k, pursuit=True, **bits)
    kept = codes if value_bits is None else codes.pack(value_bits)
    SparseIndex.build(kept, decoder=Decoder.from_head(head)).save(tmp_path / "index")
    index = SparseIndex.load(tmp_path / "index")
    made = Decoder.from_head(head).decode(codes)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    asked = vectors[:5] / np.linalg.norm(vectors[:5], axis=1, keepdims=True)
    query_codes = encode_vectors(head, vectors[:5], 16)
    found = index.search(query_codes, 60, rescore=60, queries_dense=vectors[:5])
    expected = np.take_along_axis(asked @ made.T, found.ids, axis=1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4 if value_bits else 1e-5)
    assert (np.diff(found.scores) <= 0).all()


def test_codes_of_both_kinds_do_not_mix(head, vectors):
    plain = encode_vectors(head, vectors, 8)
    fitted = encode_vectors(head, vectors, 8, pursuit=True)
    with pytest.raises(ValueError, match="cannot be concatenated"):
        SparseCodes.concatenate([plain, fitted])
    with pytest.raises(ValueError, match="cannot be concatenated"):
        PackedCodes.concatenate([plain.pack(), fitted.pack()])
    index = SparseIndex.build(plain)
    with pytest.raises(ValueError, match="made with pursuit=True, those of this index with"):
        index.add(fitted)
    assert len(index) == 60


@pytest.mark.parametrize("value_bits", [None, 4])
def test_a_store_gives_the_codes_of_encode(model, texts, tmp_path, value_bits):
    options = {"pursuit": True, "residual_bits": 1, "value_bits": value_bits}
    store = CodeStore.encode(model, texts * 4, tmp_path / "store", 5, shard_rows=7, **options)
    expected = encode(model, texts * 4, 5, **options)
    opened = CodeStore.open(tmp_path / "store")
    assert opened.pursuit
    codes = opened.codes()
    assert codes.fitted
    np.testing.assert_array_equal(codes.indices, expected.indices)
    np.testing.assert_allclose(codes.values, expected.values, atol=1e-6)
    np.testing.assert_array_equal(codes.residual.levels, expected.residual.levels)
    with pytest.raises(ValueError, match="pursuit"):
        CodeStore.encode(model, texts * 4, tmp_path / "store", 5, residual_bits=1)
    assert store.residual_bits == 1


def test_the_command_line_goes_all_the_way(run, model, texts, tmp_path):
    csr_st.save(model, "sparse")
    (tmp_path / "texts.txt").write_text("\n".join(texts * 3))
    for output in ("codes.safetensors", "codes"):
        made = ("encode", "sparse", "texts.txt", "--output", output, "--k", 6, "--pursuit")
        code, _, err = run(*made, "--residual-bits", 1, "--value-bits", 4)
        assert code == 0, err
        code, out, err = run("index", output, "--output", "i.csr", "--model", "sparse")
        assert code == 0, err
        assert "value_bits=4" in out
        code, out, err = run("search", "i.csr", texts[1], "--model", "sparse", "--rescore", 15)
        assert code == 0, err
        assert int(out.split("\n")[0].split("\t")[2]) % 5 == 1


def test_a_wrong_option_is_named(model, texts):
    with pytest.raises(TypeError, match="pursuit='yes'"):
        encode(model, texts, pursuit="yes")
    with pytest.raises(ValueError, match="value_bits=5 is neither 4 nor 8"):
        encode(model, texts, value_bits=5)
