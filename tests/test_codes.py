"""Codes as arrays: prefixes, slices, joins, conversions and their file."""

from __future__ import annotations

import doctest
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import csr_st.codes
from csr_st import SparseCodes, SparseCSRHead, encode
from csr_st.model.residual_basis import ResidualBasis
from csr_st.residual import ResidualBits


def make_codes(n, k, hidden_dim, seed=0, normalized=True, dtype="float32") -> SparseCodes:
    """Random codes; about every third row has fewer than k active latents, some have none."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(hidden_dim)[:k] for _ in range(n)]).reshape(n, k)
    values = -np.sort(-rng.uniform(0.1, 5, (n, k)), axis=1).astype(np.float32)
    for row in range(0, n, 3):
        values[row, rng.integers(0, k) :] = 0
    codes = SparseCodes(indices, values, hidden_dim)
    return (codes.normalize() if normalized else codes).astype(dtype)


@st.composite
def any_codes(draw, min_n=0, residual_bits=(0, 0.5, 1, 2)) -> SparseCodes:
    hidden_dim = draw(st.sampled_from([1, 7, 256, 257, 70_000]))
    codes = make_codes(
        n=draw(st.integers(min_n, 6)) or 1,
        k=draw(st.integers(1, min(5, hidden_dim))),
        hidden_dim=hidden_dim,
        seed=draw(st.integers(0, 1000)),
        normalized=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float32", "float16"])),
    )
    if bits := draw(st.sampled_from(residual_bits)):
        codes = with_residual(codes, bits)
    return codes[: draw(st.integers(min_n, 6))]


def with_residual(codes, bits, seed=0, input_dim=9) -> SparseCodes:
    rows = np.random.default_rng(len(codes)).normal(size=(len(codes), input_dim))
    return replace(
        codes, residual=ResidualBits.of(rows, bits, ResidualBasis.seeded(input_dim, seed))
    )


def assert_same(left: SparseCodes, right: SparseCodes) -> None:
    assert left.hidden_dim == right.hidden_dim
    assert left.indices.dtype == right.indices.dtype
    assert left.values.dtype == right.values.dtype
    np.testing.assert_array_equal(left.indices, right.indices)
    np.testing.assert_array_equal(left.values, right.values)
    assert left.normalized == right.normalized
    if left.normalized:
        np.testing.assert_array_equal(left.norms, right.norms)
    assert_same_residual(left.residual, right.residual)


def assert_same_residual(left, right) -> None:
    assert (left is None) == (right is None)
    if left is not None:
        assert left.kind == right.kind
        np.testing.assert_array_equal(left.levels, right.levels)
        np.testing.assert_array_equal(left.scales, right.scales)


@pytest.mark.parametrize(
    ("hidden_dim", "dtype"),
    [
        (1, np.uint8),
        (256, np.uint8),
        (257, np.uint16),
        (65_536, np.uint16),
        (65_537, np.uint32),
        (2**24, np.uint32),
    ],
)
def test_indices_take_the_smallest_type(hidden_dim, dtype):
    last = np.array([[hidden_dim - 1]])
    codes = SparseCodes(last, np.ones((1, 1), np.float32), hidden_dim)
    assert codes.indices.dtype == dtype
    assert int(codes.indices[0, 0]) == hidden_dim - 1


def test_bytes_counted_by_hand():
    codes = make_codes(n=3, k=2, hidden_dim=300)
    assert codes.nbytes == 3 * 2 * 2 + 3 * 2 * 4 + 3 * 4
    assert codes.raw().astype("float16").nbytes == 3 * 2 * 2 + 3 * 2 * 2
    assert "48 bytes" in repr(codes)


def test_bytes_and_words_of_a_residual():
    codes = make_codes(n=3, k=2, hidden_dim=300)
    both = with_residual(codes, bits=1)
    assert both.nbytes == codes.nbytes + 3 * 2 + 3 * 2  # 9 signs take 2 bytes
    assert "normalized=True, residual_bits=1, 60 bytes" in repr(both)
    assert "residual" not in repr(codes)


@given(codes=any_codes(), bits=st.sampled_from([1, 2]))
def test_a_residual_is_kept_at_the_same_k_only(codes, bits):
    codes = with_residual(codes, bits)
    for other in (codes.raw(), codes.normalize(), codes.astype("float32"), codes.prefix(codes.k)):
        assert_same_residual(other.residual, codes.residual)
    if codes.k > 1:
        assert codes.prefix(codes.k - 1).residual is None


def test_prefix_worked_out_by_hand():
    codes = SparseCodes(
        np.array([[4, 1, 0]]), np.array([[0.8, 0.6, 0]], np.float32), 5, np.array([10], np.float32)
    )
    one = codes.prefix(1)
    assert one.indices.tolist() == [[4]]
    assert one.values.tolist() == [[1.0]]
    assert one.norms.tolist() == [8.0]  # the raw value, 0.8 * 10, is still known
    two = codes.prefix(2)
    np.testing.assert_allclose(two.values, [[0.8, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(two.norms, [10], rtol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_prefix_equals_encoding_at_the_smaller_k(backbone, texts, normalize):
    torch.manual_seed(3)
    model = csr_st.attach(backbone, SparseCSRHead(16, k=32, normalize=normalize))
    codes = encode(model, texts)
    for k in (1, 5, 31, 32):
        shorter = encode(model, texts, k=k)
        np.testing.assert_allclose(codes.prefix(k).to_dense(), shorter.to_dense(), atol=1e-6)
        np.testing.assert_allclose(
            codes.prefix(k).raw().to_dense(), shorter.raw().to_dense(), rtol=1e-5, atol=1e-6
        )


@given(any_codes())
def test_prefix_of_a_prefix_is_the_prefix(codes):
    middle = max(1, codes.k // 2)
    chained, direct = codes.prefix(middle).prefix(1), codes.prefix(1)
    np.testing.assert_array_equal(chained.indices, direct.indices)
    np.testing.assert_allclose(chained.raw().values, direct.raw().values, rtol=5e-3)


@given(any_codes())
def test_conversions_hold_the_same_matrix(codes):
    expected = np.zeros(codes.shape, np.float32)
    for row in range(len(codes)):
        for index, value in zip(codes.indices[row], codes.values[row], strict=True):
            if value > 0:
                expected[row, index] = value
    matrix, tensor = codes.to_scipy(), codes.to_torch()
    np.testing.assert_array_equal(codes.to_dense(), expected)
    np.testing.assert_array_equal(matrix.toarray(), expected)
    np.testing.assert_array_equal(tensor.to_dense().numpy(), expected)
    assert matrix.nnz == (codes.values > 0).sum()
    assert matrix.has_canonical_format
    assert tensor.is_coalesced()
    torch.sparse_coo_tensor(
        tensor.indices(), tensor.values(), tensor.shape, is_coalesced=True, check_invariants=True
    )


@given(any_codes())
def test_unit_rows_and_raw_magnitudes(codes):
    lengths = np.linalg.norm(codes.normalize().to_dense(), axis=1)
    active = (codes.values > 0).any(axis=1)
    np.testing.assert_allclose(lengths[active], 1, rtol=2e-3)
    assert not lengths[~active].any()
    # There and back again: unit length loses nothing.
    raw = codes.raw()
    np.testing.assert_allclose(raw.normalize().raw().to_dense(), raw.to_dense(), rtol=2e-3)
    assert not raw.normalized


@given(any_codes(), st.slices(6))
def test_slices_are_rows(codes, rows):
    np.testing.assert_array_equal(codes[rows].to_dense(), codes.to_dense()[rows])
    if codes.residual is not None:
        np.testing.assert_array_equal(codes[rows].residual.levels, codes.residual.levels[rows])


@given(any_codes(min_n=1), st.data())
def test_masks_and_row_numbers_are_rows(codes, data):
    dense = codes.to_dense()
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes))))
    np.testing.assert_array_equal(codes[mask].to_dense(), dense[mask])
    rows = data.draw(st.lists(st.integers(-len(codes), len(codes) - 1), min_size=1))
    np.testing.assert_array_equal(codes[rows].to_dense(), dense[rows])
    assert_same(codes[rows[0]], codes[[rows[0]]])
    if codes.residual is not None:
        np.testing.assert_array_equal(codes[mask].residual.scales, codes.residual.scales[mask])
        np.testing.assert_array_equal(codes[rows].residual.levels, codes.residual.levels[rows])


def test_rows_past_the_end_do_not_exist():
    with pytest.raises(IndexError):
        make_codes(3, 2, 9)[3]


@given(any_codes(), st.integers(0, 6), st.integers(0, 6))
def test_slices_joined_again_are_the_whole(codes, first, second):
    low, high = sorted((first, second))
    assert_same(SparseCodes.concatenate([codes[:low], codes[low:high], codes[high:]]), codes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_codes(2, 4, 300), "cannot be concatenated: .*bring them to one k with prefix"),
        (make_codes(2, 3, 301), "cannot be concatenated"),
        (make_codes(2, 3, 300, normalized=False), "cannot be concatenated"),
    ],
)
def test_codes_of_different_kinds_are_not_joined(other, message):
    with pytest.raises(ValueError, match=message):
        SparseCodes.concatenate([make_codes(2, 3, 300), other])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (None, "bits: 1, basis: seed 0, input_dim: 9} and codes with no residual do not fit"),
        ({"bits": 2}, "bits: 1, .* and codes with a residual of {bits: 2"),
        ({"bits": 1, "seed": 4}, "seed 4, input_dim: 9} do not fit; encode all of them"),
        ({"bits": 1, "input_dim": 10}, "input_dim: 10} do not fit"),
    ],
)
def test_codes_of_different_residuals_are_not_joined(kind, message):
    codes = make_codes(2, 3, 300)
    other = codes if kind is None else with_residual(codes, **kind)
    with pytest.raises(ValueError, match=message):
        SparseCodes.concatenate([with_residual(codes, bits=1), other])


def test_nothing_cannot_be_joined():
    with pytest.raises(ValueError, match="no codes to concatenate; pass at least one"):
        SparseCodes.concatenate([])


@given(any_codes())
def test_loads_equal_to_what_was_saved(tmp_path_factory, codes):
    path = tmp_path_factory.mktemp("codes") / "codes.safetensors"
    codes.save(path)
    assert_same(SparseCodes.load(path), codes)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_slice_with_strides_saves_its_own_rows(tmp_path):
    codes = make_codes(7, 3, 300)[::2]
    codes.prefix(2).save(tmp_path / "codes")
    assert_same(SparseCodes.load(tmp_path / "codes"), codes.prefix(2))


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "codes"
    make_codes(7, 3, 300).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not a complete safetensors file of codes"):
        SparseCodes.load(path)


def test_a_residual_that_was_altered_is_refused(tmp_path):
    path = tmp_path / "codes"
    with_residual(make_codes(7, 3, 300), bits=1).save(path)
    with safe_open(path, "numpy") as file:
        metadata, arrays = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["residual"] = metadata["residual"].replace('"seed 0"', '"seed 1"')
    save_file(arrays, path, metadata)
    with pytest.raises(ValueError, match="was altered after it was written"):
        SparseCodes.load(path)
    del metadata["checksum"], arrays["residual_levels"]  # as in a file by another writer
    save_file(arrays, path, metadata)
    with pytest.raises(ValueError, match="no valid codes: there is no 'residual_levels' for"):
        SparseCodes.load(path)


HEADER = {"format": '"csr_st.codes"', "version": "1", "hidden_dim": "9"}
ARRAYS = {"indices": np.array([[0, 2]], np.uint8), "values": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        (ARRAYS, {"format": "pt"}, "is not a complete safetensors file of codes"),
        (ARRAYS, None, "has no codes; write such a file with SparseCodes.save"),
        (ARRAYS, {**HEADER, "version": "2"}, "version 2, this csr_st reads up to 1: pip install"),
        (ARRAYS, {**HEADER, "hidden_dim": "2"}, "index 2 is outside hidden_dim=2"),
        ({"indices": ARRAYS["indices"]}, HEADER, "lacks .*'values'"),
        (ARRAYS, {"format": HEADER["format"]}, "lacks .*'hidden_dim'"),
        (ARRAYS, {**HEADER, "hidden_dim": '"9"'}, "hidden_dim='9'"),
        (ARRAYS, {**HEADER, "version": '"1"'}, "version '1'"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, header, message):
    save_file(arrays, tmp_path / "codes", metadata=header)
    with pytest.raises(ValueError, match=message):
        SparseCodes.load(tmp_path / "codes")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        SparseCodes.load(tmp_path / "none")


def test_the_file_names_its_format(tmp_path):
    make_codes(7, 3, 300).save(tmp_path / "codes")
    content = (tmp_path / "codes").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = {key: json.loads(text) for key, text in header["__metadata__"].items()}
    assert len(found.pop("checksum")) == 32  # since 0.3; earlier versions skip it
    assert found == {
        "format": "csr_st.codes",
        "version": 1,
        "hidden_dim": 300,
    }


ONES = np.ones((2, 3), np.float32)
INDICES = np.array([[0, 1, 2], [3, 4, 5]])
THREE = ResidualBits.of(np.ones((3, 4), np.float32), bits=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((INDICES, ONES[:1], 9), ValueError, r"indices \(2, 3\) and values \(1, 3\) must be two"),
        ((INDICES[0], ONES[0], 9), ValueError, r"must be two arrays of one shape \(n, k\)"),
        ((INDICES, ONES, 2), ValueError, "codes have k=3; k must be in 1..hidden_dim=2"),
        ((INDICES[:, :0], ONES[:, :0], 9), ValueError, "codes have k=0"),
        ((INDICES, ONES.astype(float), 9), TypeError, "values are float64; use float32 or float16"),
        ((INDICES.astype(float), ONES, 9), TypeError, "indices are float64; use an integer type"),
        ((INDICES, ONES, 5), ValueError, "index 5 is outside hidden_dim=5"),
        ((INDICES - 1, ONES, 256), ValueError, "index -1 is outside hidden_dim=256"),
        ((INDICES, ONES, 9, np.ones(3, np.float32)), ValueError, r"norms \(3,\) must have shape"),
        ((INDICES, ONES, 9, None, ONES), TypeError, "residual is ndarray, not ResidualBits"),
        ((INDICES, ONES, 9, None, THREE), ValueError, "residual of 3 items given to 2 codes"),
    ],
)
def test_arrays_that_are_no_codes_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        SparseCodes(*arguments)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_prefix_out_of_bounds_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k} is not within 1..3, .*encode with a larger k"):
        make_codes(2, 3, 300).prefix(k)


def test_codes_cannot_be_edited_in_place_by_name():
    with pytest.raises(AttributeError):
        make_codes(2, 3, 300).values = ONES


def test_operations_leave_their_operand_alone():
    codes = make_codes(4, 3, 300)
    before = make_codes(4, 3, 300)
    for shorter in (codes.prefix(2), codes.raw(), codes[1:], codes.raw().normalize()):
        assert shorter is not codes
    codes.to_scipy().data[:] = 7
    codes.to_torch().values()[:] = 7
    codes.to_dense()[:] = 7
    assert_same(codes, before)


def test_examples_in_the_documentation():
    result = doctest.testmod(sys.modules["csr_st.codes"])
    assert result.attempted
    assert not result.failed


def test_indices_of_zero_values_mean_nothing_in_any_conversion():
    codes = SparseCodes(np.zeros((1, 3), int), np.array([[0.5, 0, 0]], np.float32), 4)
    assert codes.to_dense().tolist() == [[0.5, 0, 0, 0]]
    assert codes.to_scipy().toarray().tolist() == codes.to_torch().to_dense().tolist()


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1, 1e20, 1e30])
def test_unit_norm_of_magnitudes_whose_squares_float32_cannot_hold(size):
    raw = SparseCodes(np.array([[0, 1]]), np.float32([[4 * size, 3 * size]]), 4)
    unit = raw.normalize()
    np.testing.assert_allclose(unit.values, [[0.8, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(unit.norms, [5 * size], rtol=1e-6)
    np.testing.assert_allclose(unit.prefix(1).norms, [4 * size], rtol=1e-6)
    np.testing.assert_allclose(unit.raw().values, raw.values, rtol=1e-6)


@pytest.mark.parametrize("hidden_dim", [5, 2**24 + 1, 2**32])
def test_given_rows_are_sorted_and_checked(hidden_dim):
    last = hidden_dim - 1
    values = np.array([[0.5, 2, 1], [3, 0, 0]], np.float32)
    codes = SparseCodes(np.array([[last, 0, 1], [2, 2, 2]]), values, hidden_dim)
    assert codes.indices[0].tolist() == [0, 1, last]
    assert codes.values.tolist() == [[2, 1, 0.5], [3, 0, 0]]
    assert codes.to_scipy()[0, last] == 0.5
    with pytest.raises(ValueError, match=r"row 1 has the indices \[.*\], one of them twice"):
        SparseCodes(np.array([[0, 1, 2], [1, last, last]]), values + 1, hidden_dim)
    for bad in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"row 1 has the values .* finite and never negative"):
            SparseCodes(np.array([[0, 1, 2]] * 2), np.array([[1, 1, 1], [1, bad, 1]], "f4"), 9)


def test_a_file_altered_by_hand_is_refused(tmp_path):
    path = tmp_path / "codes"
    make_codes(4, 3, 300).save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="was altered after it was written"):
        SparseCodes.load(path)


def test_float16_has_no_room_for_large_magnitudes():
    codes = SparseCodes(np.array([[0]]), np.array([[1e6]], np.float32), 2)
    with pytest.raises(ValueError, match="row 0 has the values"):
        codes.astype("float16")
