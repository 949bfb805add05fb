"""The axes of residual bits: the rotation, what a basis accepts, and heads that have one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import csr_st
from csr_st import Decoder, SparseCSRHead, SparseIndex, encode_vectors
from csr_st.model.residual_basis import ResidualBasis, name_of, rotation
from csr_st.training.refit import fit_residual_basis


def test_the_rotation_worked_out_by_hand():
    """Published codes rely on it. RandomState(0) gives 1.764052 0.400157 0.978738 2.240893."""
    cosine, sine = np.array([1.764052, 0.978738]) / np.hypot(1.764052, 0.978738)
    np.testing.assert_allclose(rotation(2, 0), [[cosine, -sine], [sine, cosine]], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_rotation_is_orthogonal_and_depends_on_the_seed(seed):
    np.testing.assert_allclose(rotation(48, seed) @ rotation(48, seed).T, np.eye(48), atol=1e-6)
    assert np.abs(rotation(48, seed) - rotation(48, 5)).max() > 0.1


EYE, ONES = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
NAME = name_of(EYE, ONES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NAME, 3), r"has arrays of shape \[\], not \[\(3, 3\), \(3,\)\]"),
        ((NAME, 4, EYE, ONES), r"not \[\(4, 4\), \(4,\)\]"),
        (("seed 0", 3, EYE, ONES), r"\(3,\)\], not \[\]"),
        ((NAME, 3, EYE, 0 * ONES), "deviations of the residual basis must be above 0"),
        ((NAME, 3, EYE * np.nan, ONES), "axes of the residual basis must be finite"),
        ((NAME[:-1], 3, EYE, ONES), "is neither 'seed N' nor a checksum|16 hexadecimal"),
        (("seed 01", 3), "is neither 'seed N' nor a checksum"),
        (("seed 4294967296", 3), "is neither 'seed N' nor a checksum"),
    ],
)
def test_what_is_no_basis_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualBasis(*arguments)


def test_seeds_out_of_bounds_are_refused():
    with pytest.raises(ValueError, match="seed=-1 is below 0"):
        ResidualBasis.seeded(3, -1)
    with pytest.raises(ValueError, match="seed=4294967296 exceeds 4294967295"):
        ResidualBasis.seeded(3, 2**32)


@pytest.fixture
def head():
    torch.manual_seed(0)
    vectors = torch.randn(400, 16) * 0.8 ** torch.arange(16)
    found = SparseCSRHead(16, 64, k=8, debias=True)
    return fit_residual_basis(found, vectors)


@pytest.fixture
def vectors():
    rng = np.random.default_rng(1)
    return (rng.normal(size=(60, 16)) * 0.8 ** np.arange(16)).astype(np.float32)


def test_a_head_keeps_its_basis_in_its_files(head, vectors, tmp_path):
    head.save(str(tmp_path))
    loaded = SparseCSRHead.load(str(tmp_path))
    codes, again = (encode_vectors(one, vectors, 4, residual_bits=1) for one in (head, loaded))
    assert codes.residual.basis == head.residual_basis
    assert codes.residual.kind == again.residual.kind
    np.testing.assert_array_equal(codes.residual.levels, again.residual.levels)
    assert not {"residual_axes", "residual_deviations"} & {
        name for name, weight in loaded.named_parameters() if weight.requires_grad
    }


@pytest.mark.parametrize("bits", [0.5, 1, 2])
@pytest.mark.parametrize("value_bits", [None, 4])
def test_an_index_scores_in_the_basis_of_its_decoder(head, vectors, tmp_path, bits, value_bits):
    pytest.importorskip("numba")
    codes = encode_vectors(head, vectors, 4, residual_bits=bits, value_bits=value_bits)
    decoder = Decoder.from_head(head)
    kept = codes if value_bits is None else codes.pack(value_bits)
    SparseIndex.build(kept, decoder=decoder).save(tmp_path / "index.csr")
    index = SparseIndex.load(tmp_path / "index.csr")
    decoded = decoder.decode(codes)
    assert np.linalg.norm(vectors - decoded) < np.linalg.norm(
        vectors - decoder.decode(encode_vectors(head, vectors, 4))
    )
    query_codes = encode_vectors(head, vectors[:5], 8)
    request = {"rescore": 60, "queries_dense": vectors[:5], "metric": "dot"}
    found = index.search(query_codes, 60, **request)
    expected = np.take_along_axis(vectors[:5] @ decoded.T, found.ids, axis=1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    other = Decoder.from_head(SparseCSRHead(16, 64, k=8))
    with pytest.raises(ValueError, match="given to a decoder of none; pass the decoder of the"):
        SparseIndex.build(codes, decoder=other)
    with pytest.raises(ValueError, match="given to a decoder of none; pass the decoder of the"):
        other.decode(codes)


def test_codes_of_heads_with_other_axes_do_not_mix(head, vectors):
    other = fit_residual_basis(head, torch.from_numpy(vectors))
    both = [encode_vectors(one, vectors, 4, residual_bits=1) for one in (head, other)]
    with pytest.raises(ValueError, match="do not fit"):
        csr_st.SparseCodes.concatenate(both)


def test_a_name_that_is_no_checksum_is_refused():
    with pytest.raises(ValueError, match="residual_basis='seed 0' must be 16 hexadecimal digits"):
        SparseCSRHead(4, k=2, residual_basis="seed 0")
