"""Packed codes: what they keep, what they lose at most, their size and their file."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import json
import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_codes import any_codes, assert_same, make_codes
from test_random_codes import or_refused

import csr_st.packed_codes
from csr_st import PackedCodes, SparseCodes

ROWS_AT_ONCE = 2048  # about so many rows of k=32 are packed at once


def falling(rng, n, k, hidden_dim, largest=1.0):
    """Raw codes without equal or zero values."""
    latents = np.stack([rng.choice(hidden_dim, k, replace=False) for _ in range(n)])
    values = -np.sort(-rng.uniform(1, 9, (n, k)), axis=1)
    return SparseCodes(latents, (values / 9 * largest).astype(np.float32), hidden_dim)


def assert_equal_packed(left, right):
    assert left._about() == right._about()
    np.testing.assert_array_equal(left.bits, right.bits)


def assert_within_bounds(found, codes, value_bits):
    """A value is off by at most half a step and the rounding of the row's largest, 1/256 of it."""
    assert found.normalized == codes.normalized
    left, right = found.raw().to_dense().astype(float), codes.raw().to_dense().astype(float)
    np.testing.assert_array_equal(left > 0, right > 0)  # latents are exact
    largest = right.max(axis=1, keepdims=True)
    step = largest / (2**value_bits - 1)
    bound = np.where(right < step / 2, step, step / 2) + largest / 256 + 1e-6 * largest
    assert (np.abs(left - right) <= bound).all()


def test_a_row_worked_out_by_hand():
    """Latents 1, 4, 6 of 8 with values 0.5, 3, 1.25: in 15ths of 3, that is 2.5, 15 and 6.25."""
    codes = SparseCodes(np.array([[4, 6, 1]]), np.array([[3, 1.25, 0.5]], np.float32), 8)
    packed = codes.pack(value_bits=4)
    # With 1 low bit a latent, a row has 3 + 3 + 3 bits for latents, the fewest.
    scale = "100000001000000"  # 3.0 is 0x4040 as bfloat16
    levels = "110111011010"  # bit 0 of the levels 3, 15, 6 of the latents 1, 4, 6; bit 1, 2, 3
    low = "100"  # bit 0 of 1, 4, 6
    high = "100101"  # places 0 + 0, 1 + 2, 2 + 3 for the halves 0, 2, 3 of the latents
    bits = scale[::-1] + levels + low + high
    expected = [int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8)]
    assert packed.bits.tolist() == expected
    found = packed.unpack()
    assert found.indices.tolist() == [[4, 6, 1]]
    np.testing.assert_allclose(found.values, [[3, 6 * 0.2, 3 * 0.2]], rtol=1e-6)


@given(any_codes(), st.sampled_from([4, 8]))
def test_latents_are_kept_and_values_within_the_stated_bound(codes, value_bits):
    packed = codes.pack(value_bits=value_bits)
    assert (len(packed), packed.k, packed.shape) == (len(codes), codes.k, codes.shape)
    found = packed.unpack()
    assert found.indices.dtype == codes.indices.dtype
    assert found.values.dtype == np.float32
    assert_within_bounds(found, codes, value_bits)
    SparseCodes(found.indices, found.values, found.hidden_dim, found.norms)  # valid


@given(any_codes(), st.sampled_from([4, 8]))
def test_packing_again_gives_the_same_bits_and_values(codes, value_bits):
    packed = codes.pack(value_bits=value_bits)
    again = packed.unpack().pack(value_bits=value_bits)
    assert_equal_packed(packed, again)
    assert_same(packed.unpack(), again.unpack())


@pytest.mark.parametrize("value_bits", [4, 8])
def test_rows_have_unit_norm_if_they_had(value_bits):
    found = make_codes(50, 6, 100).pack(value_bits).unpack()
    length = np.linalg.norm(found.values, axis=1)
    np.testing.assert_allclose(length[found.norms > 0], 1, rtol=1e-6)
    assert (found.values[found.norms == 0] == 0).all()


def test_values_that_are_steps_are_kept():
    values = np.array([[255, 250, 100, 99, 98, 1]], np.float32)  # 255 has 8 significant bits
    codes = SparseCodes(np.array([[9, 3, 8, 2, 7, 1]]), values, 10)
    assert_same(codes.pack(8).unpack(), codes)


def test_equal_values_are_unpacked_by_rising_latent():
    codes = SparseCodes(np.array([[5, 9, 2]]), np.array([[1, 0.99, 0.98]], np.float32), 10)
    assert codes.pack(4).unpack().indices.tolist() == [[2, 5, 9]]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 65, 1000, 3 * ROWS_AT_ONCE + 5])
def test_any_number_of_rows_is_as_one_after_another(n, rng):
    few = make_codes(53, 32, 1536)
    rows = rng.integers(0, 53, n)
    one_by_one = SparseCodes.concatenate([few[row].pack().unpack() for row in range(53)])
    assert_same(few[rows].pack().unpack(), one_by_one[rows])


@pytest.mark.parametrize(
    ("k", "hidden_dim"), [(1, 1), (1, 2**32), (3, 2**24 + 1), (9, 9), (5, 257)]
)
@pytest.mark.parametrize("value_bits", [4, 8])
def test_any_width(k, hidden_dim, value_bits, rng):
    latents = np.stack([rng.choice(min(hidden_dim, 1000), k, replace=False) for _ in range(20)])
    latents = hidden_dim - 1 - latents
    values = -np.sort(-rng.uniform(1, 9, (20, k)).astype(np.float32), axis=1)
    codes = SparseCodes(latents, values, hidden_dim)
    found = codes.pack(value_bits).unpack()
    np.testing.assert_array_equal(np.sort(found.indices, axis=1), np.sort(codes.indices, axis=1))


@pytest.mark.parametrize("hidden_dim", [1536, 3072, 4096])
@pytest.mark.parametrize("value_bits", [4, 8])
def test_bytes_are_within_6_percent_of_the_bound(hidden_dim, value_bits):
    n = 4000  # of which the end of the last byte is no matter
    for k in range(2, 65):
        latents = np.tile(np.arange(k), (n, 1))
        packed = SparseCodes(latents, np.ones((n, k), np.float32), hidden_dim).pack(value_bits)
        bound = (math.log2(math.comb(hidden_dim, k)) + k * value_bits + 16) / 8
        assert packed.nbytes <= 1.06 * bound * n, k


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 1e-25, 1e20, 3.4e38])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("value_bits", [4, 8])
def test_very_large_and_very_small_values(largest, normalized, value_bits, rng):
    codes = falling(rng, 20, 4, 40)
    if normalized:
        norms = np.full(20, largest, np.float32)
        codes = dataclasses.replace(codes.normalize(), norms=norms)
    else:
        codes = falling(rng, 20, 4, 40, largest)
    packed = codes.pack(value_bits)
    found = packed.unpack()
    SparseCodes(found.indices, found.values, found.hidden_dim, found.norms)  # valid
    if normalized:
        assert np.abs(found.to_dense() - codes.to_dense()).max() < 1 / (2**value_bits - 1)
    if normalized and largest > 1e38:  # a norm cannot exceed float32
        return
    assert_equal_packed(packed, found.pack(value_bits))
    if largest >= 1e-37:
        expected = codes.raw().values.max(axis=1).astype(float)
        np.testing.assert_allclose(found.raw().values.max(axis=1), expected, rtol=1 / 256)


def test_unit_rows_whose_norm_is_zero_keep_their_values():
    codes = SparseCodes(
        np.array([[1, 2]]), np.array([[0.8, 0.6]], np.float32), 5, np.zeros(1, np.float32)
    )
    np.testing.assert_allclose(codes.pack(8).unpack().values, codes.values, atol=1 / 255)


def test_rows_without_values_stay_so():
    codes = SparseCodes(np.array([[1, 2], [3, 3]]), np.zeros((2, 2), np.float32), 5)
    assert (codes.pack().unpack().values == 0).all()
    unit = codes.normalize().pack().unpack()
    assert (unit.values == 0).all()
    assert unit.norms.tolist() == [0, 0]


@given(any_codes(), st.slices(6), st.sampled_from([4, 8]))
def test_slices_are_rows(codes, rows, value_bits):
    packed = codes.pack(value_bits)
    assert_equal_packed(packed[rows], codes[rows].pack(value_bits))


@given(any_codes(min_n=1), st.data())
def test_masks_and_row_numbers_are_rows(codes, data):
    n = len(codes)
    mask = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    numbers = data.draw(st.lists(st.integers(-n, n - 1), max_size=20))
    for rows in (mask, numbers, np.array(numbers, int), n - 1, np.int64(-1)):
        assert_equal_packed(codes.pack()[rows], codes[rows].pack())


@pytest.mark.parametrize("n", [100, 2 * ROWS_AT_ONCE])
def test_many_rows_in_any_order(n, rng):
    codes = make_codes(50, 7, 300)[rng.integers(0, 50, n)]
    order = rng.permutation(n)
    assert_equal_packed(codes.pack()[order], codes[order].pack())
    assert_equal_packed(codes.pack()[3:], codes[3:].pack())


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.sampled_from([4, 8]))
def test_parts_joined_are_the_whole_packed(sizes, value_bits):
    parts = [make_codes(30, 5, 100, seed)[:size] for seed, size in enumerate(sizes)]
    joined = PackedCodes.concatenate(part.pack(value_bits) for part in parts)
    assert_equal_packed(joined, SparseCodes.concatenate(parts).pack(value_bits))


@pytest.mark.parametrize(
    ("rows", "error"),
    [(5, IndexError), (-6, IndexError), ([5], IndexError), ([True], IndexError), ("1", TypeError),
     (1.5, TypeError), ((1, 2), TypeError), (None, TypeError), (True, TypeError)],
)  # fmt: skip
def test_rows_that_do_not_exist(rows, error):
    with pytest.raises(error):
        make_codes(5, 3, 30).pack()[rows]


def test_codes_of_different_kinds_are_not_joined():
    codes = make_codes(5, 3, 30)
    others = [
        codes.pack(8),
        codes.prefix(2).pack(),
        codes.raw().pack(),
        make_codes(5, 3, 31).pack(),
    ]
    for other in others:
        with pytest.raises(ValueError, match=r"cannot be concatenated.*value_bits.*unpack them"):
            PackedCodes.concatenate([codes.pack(), other])
    with pytest.raises(TypeError, match="part 1 is SparseCodes, not PackedCodes"):
        PackedCodes.concatenate([codes.pack(), codes])
    with pytest.raises(ValueError, match="at least one PackedCodes"):
        PackedCodes.concatenate([])


@pytest.mark.parametrize(
    ("value_bits", "error", "message"),
    [
        (5, ValueError, "value_bits=5 is neither 4 nor 8; pass one of them"),
        (2, ValueError, "value_bits=2 is below 4; pass 4 <= value_bits <= 8"),
        (16, ValueError, "value_bits=16 exceeds 8"),
        ("4", TypeError, "value_bits='4' is not an integer"),
        (4.0, TypeError, r"value_bits=4\.0 is not an integer"),
        (None, TypeError, "value_bits=None is not an integer"),
        (True, TypeError, "value_bits=True is not an integer"),
    ],
)
def test_another_number_of_bits_is_refused(value_bits, error, message):
    with pytest.raises(error, match=message):
        make_codes(2, 3, 30).pack(value_bits)


def test_what_is_no_codes_is_refused():
    with pytest.raises(TypeError, match=r"codes are ndarray; pass csr_st\.SparseCodes"):
        PackedCodes.from_codes(np.ones((2, 2)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 6}, ValueError, r"6 rows of 42 bits take \(32,\) uint8"),
        ({"n": -1}, ValueError, "n=-1 is below 0"),
        ({"k": 31}, ValueError, "k=31 exceeds hidden_dim=30"),
        ({"k": 0}, ValueError, "k=0 is below 1"),
        ({"hidden_dim": 2**32 + 1}, ValueError, "hidden_dim=4294967297 exceeds"),
        ({"hidden_dim": 30.0}, TypeError, r"hidden_dim=30\.0 is not an integer"),
        ({"value_bits": 8}, ValueError, "bits are uint8"),
        ({"normalized": 1}, TypeError, "normalized=1 must be True or False"),
        ({"bits": np.zeros(27, np.int8)}, ValueError, "bits are int8"),
        ({"bits": np.zeros((5, 5), np.uint8)}, ValueError, r"shape \(5, 5\)"),
    ],
)
def test_attributes_that_do_not_fit_are_refused(change, error, message):
    packed = make_codes(5, 3, 30).pack()
    with pytest.raises(error, match=message):
        dataclasses.replace(packed, **change)


@given(st.data(), st.sampled_from([4, 8]), st.booleans())
def test_any_bits_are_those_of_valid_codes_or_refused(data, value_bits, random):
    """What is not refused is packed to the same bits: nothing damaged passes for codes."""
    k, hidden_dim = data.draw(st.sampled_from([(1, 2**24), (1, 3), (2, 5), (3, 30), (3, 2**31)]))
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    codes = falling(rng, 9, k, min(hidden_dim, 40))
    packed = SparseCodes(codes.indices, codes.values, hidden_dim).pack(value_bits)
    bits = packed.bits.copy()
    if random:
        bits[:] = rng.integers(0, 256, len(bits))
    place = data.draw(st.integers(0, len(bits) * 8 - 1))
    bits[place // 8] ^= 1 << place % 8
    altered = dataclasses.replace(packed, bits=bits)
    found = or_refused(altered.unpack, "of the packed codes is damaged; pack the codes again")
    if found is not None:
        SparseCodes(found.indices, found.values, found.hidden_dim)  # valid
        # After the last row there may be some bits that mean nothing.
        np.testing.assert_array_equal(found.pack(value_bits).bits[:-1], bits[:-1])


def test_the_damaged_row_is_named():
    packed = make_codes(5000, 8, 200).pack()
    bits = packed.bits.copy()
    row_bits = packed.nbytes * 8 // 5000
    bits[4567 * row_bits // 8 + 1 :][: row_bits // 8] = 0
    with pytest.raises(ValueError, match=r"row 456[67] of the packed codes is damaged"):
        dataclasses.replace(packed, bits=bits).unpack()


def test_packed_codes_cannot_be_edited_by_name():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_codes(2, 3, 30).pack().k = 2


def test_copies_and_pickles_are_equal():
    packed = make_codes(20, 3, 30).pack()
    for same in (copy.copy(packed), copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert_equal_packed(same, packed)
        assert_same(same.unpack(), packed.unpack())


def test_packing_leaves_the_codes_alone():
    codes = make_codes(20, 3, 30)
    before = copy.deepcopy(codes)
    codes.pack().unpack()
    assert_same(codes, before)


def test_repr_says_what_it_is():
    packed = make_codes(5, 3, 30).pack()
    assert repr(packed) == "PackedCodes(n=5, k=3, hidden_dim=30, value_bits=4, 27 bytes)"


def test_examples_in_the_documentation():
    found = doctest.testmod(csr_st.packed_codes)
    assert found.attempted > 0
    assert found.failed == 0


# ---- files


@given(codes=any_codes(), value_bits=st.sampled_from([4, 8]))
def test_loads_equal_to_what_was_saved(tmp_path_factory, codes, value_bits):
    path = tmp_path_factory.mktemp("packed") / "codes.safetensors"
    packed = codes.pack(value_bits)
    packed.save(path)
    assert_equal_packed(PackedCodes.load(path), packed)
    np.testing.assert_array_equal(load_file(path)["bits"], packed.bits)


def test_a_file_cut_short_or_altered_is_refused(tmp_path):
    path = tmp_path / "codes"
    packed = make_codes(20, 4, 50).pack()
    packed.save(path)
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match="codes is not a complete safetensors file of codes"):
            PackedCodes.load(path)
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 4
        path.write_bytes(altered)
        found = or_refused(lambda: PackedCodes.load(path), str(path))
        if found is not None:  # the header is padded, and may say the same in other words
            assert_equal_packed(found, packed)
            assert place < len(content) - packed.nbytes


def rewrite(path, **changes):
    """The file with other metadata; a value of None removes it."""
    header = {
        "format": "csr_st.packed_codes", "version": 1, "n": 2, "k": 1, "hidden_dim": 4,
        "value_bits": 4, "normalized": False, **changes,
    }  # fmt: skip
    metadata = {name: json.dumps(value) for name, value in header.items() if value is not None}
    save_file({"bits": np.zeros(6, np.uint8)}, path, metadata)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, r"format version 2, this csr_st reads up to 1: pip install -U csr-st"),
        ({"format": "other"}, "has no codes; write such a file with PackedCodes.save"),
        ({"format": None}, "has no codes"),
        ({"n": None}, r"lacks \['n'\]"),
        ({"normalized": None, "k": None}, r"lacks \['k', 'normalized'\]"),
        ({"n": 3}, "has no valid codes: bits are uint8"),
        ({"n": "2"}, "has no valid codes: n='2' is not an integer"),
        ({"value_bits": 5}, "has no valid codes: value_bits=5"),
        ({"normalized": "yes"}, "has no valid codes: normalized='yes'"),
        ({"checksum": "0"}, "was altered after it was written"),
    ],
)
def test_other_files_are_refused(tmp_path, changes, message):
    rewrite(tmp_path / "codes", **changes)
    with pytest.raises(ValueError, match=f"codes.*{message}"):
        PackedCodes.load(tmp_path / "codes")


def test_a_file_of_the_other_class_names_it(tmp_path):
    codes = make_codes(5, 3, 30)
    codes.save(tmp_path / "plain")
    codes.pack().save(tmp_path / "packed")
    with pytest.raises(ValueError, match=r"plain has SparseCodes.*open it with SparseCodes\.load"):
        PackedCodes.load(tmp_path / "plain")
    with pytest.raises(ValueError, match=r"packed has PackedCodes.*with PackedCodes\.load"):
        SparseCodes.load(tmp_path / "packed")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        PackedCodes.load(tmp_path / "none")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "codes"
    make_codes(5, 3, 30).pack().save(path)
    content = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("csr_st._io.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        make_codes(50, 3, 30).pack().save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes"]
    assert path.read_bytes() == content


def test_numba_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert len(make_codes(5, 3, 30).pack().unpack()) == 5
