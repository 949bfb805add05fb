"""Residual bits: what is kept of a residual in a few bits a dimension, and what is refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import csr_st.residual
from csr_st.model.residual_basis import ResidualBasis, name_of, rotation
from csr_st.residual import ResidualBits

ROUNDING = 2**-8  # of a bfloat16, relative


def gaussian(n, input_dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, input_dim)).astype(np.float32)


def lengths(rows):
    return np.linalg.norm(rows.astype(float), axis=1)


def cosines(left, right):
    products = np.einsum("nd,nd->n", left.astype(float), right.astype(float))
    return products / (lengths(left) * lengths(right))


def learnt(deviations, axes=None):
    """A basis with these axes, or those of the vectors themselves."""
    deviations = np.asarray(deviations, np.float32)
    axes = np.eye(len(deviations), dtype=np.float32) if axes is None else axes
    return ResidualBasis(name_of(axes, deviations), len(deviations), axes, deviations)


def test_one_bit_worked_out_by_hand():
    kept = ResidualBits.of(np.array([[3, -1]], np.float32) @ rotation(2, 0).T, bits=1)
    assert kept.levels.tolist() == [[0b01]]
    side = np.sqrt(5)  # as long as (3, -1)
    np.testing.assert_allclose(kept.decode() @ rotation(2, 0), [[side, -side]], rtol=ROUNDING)


def test_two_bits_worked_out_by_hand():
    kept = ResidualBits.of(np.array([[3, -1]], np.float32) @ rotation(2, 0).T, bits=2)
    assert kept.levels.tolist() == [[0b1101]]  # + and -, then an outer + and an inner -
    scale = np.sqrt(10 / (1.5104**2 + 0.4528**2))
    expected = [[1.5104 * scale, -0.4528 * scale]]
    np.testing.assert_allclose(kept.decode() @ rotation(2, 0), expected, rtol=ROUNDING)


def test_axes_of_unequal_deviations_worked_out_by_hand():
    """Three bits for two axes: two for the one that residuals extend along, one for the other.

    A single axis is not rotated.
    """
    rows = np.array([[4, 1], [-0.5, 1], [-4, -1]], np.float32)
    kept = ResidualBits.of(rows, 1.5, learnt([2, 1]))
    # Row 0 divided by the deviations is (2, 1), of the mean square 2.5: both are beyond a bound
    # only with the first, 1.26 against 0.98. Row 1 is (-0.25, 1), row 2 the opposite of row 0.
    levels = np.array([[2 * 1.5104, 0.7979], [-2 * 0.4528, 0.7979], [-2 * 1.5104, -0.7979]])
    levels *= (lengths(rows) / lengths(levels))[:, None]
    found = kept.decode(learnt([2, 1]))
    np.testing.assert_allclose(found, levels, rtol=2 * ROUNDING)
    # The larger parts of both axes, then the smaller one of the first.
    assert kept.levels.tolist() == [[0b111], [0b110], [0b000]]


@pytest.mark.parametrize("bits", [0.25, 0.5, 1, 1.5, 2, 3])
def test_bits_go_where_residuals_extend(bits):
    """No code leaves less than reverse water-filling; scalar levels come within 2.72 of it."""
    deviations, turned = (0.99 ** np.arange(200)).astype(np.float32), rotation(200, 7)
    rows = (gaussian(1000, 200) * deviations) @ turned
    both = learnt(deviations, turned), None
    decoded = [ResidualBits.of(rows, bits, basis).decode(basis) for basis in both]
    left, by_chance = [1 - np.mean(cosines(rows, each) ** 2) for each in decoded]
    bound = _least_error(deviations.astype(float) ** 2, bits * 200)
    assert bound < left < min(0.85 * by_chance, 2.72 * bound)


def _least_error(variances, bits):
    """Of a Gaussian in this many bits, relative (Cover and Thomas, theorem 10.3.3)."""
    low, high = 0.0, variances.max()
    for _ in range(100):
        level = (low + high) / 2
        spent = np.log2(np.maximum(variances / level, 1)).sum() / 2
        low, high = (level, high) if spent > bits else (low, level)
    return np.minimum(variances, level).sum() / variances.sum()


def test_axes_of_zero_bits_are_left_out():
    rows = gaussian(20, 8) * np.array([9, 1, 1, 1, 1, 1, 1, 9], np.float32)
    basis = learnt([9, 9, 1, 1, 1, 1, 1, 1], np.roll(np.eye(8, dtype=np.float32), 1, axis=0))
    decoded = ResidualBits.of(rows, 0.25, basis).decode(basis)
    assert not decoded[:, 1:7].any()
    np.testing.assert_allclose(lengths(decoded), lengths(rows[:, [0, 7]]), rtol=2 * ROUNDING)


def test_bits_of_a_learnt_basis_mean_nothing_in_another():
    basis, other = learnt([2, 1, 1]), learnt([1, 1, 1])
    kept = ResidualBits.of(gaussian(3, 3), 1, basis)
    assert kept.kind == {"bits": 1, "basis": basis.name, "input_dim": 3}
    for wrong in (other, None, ResidualBasis.seeded(3)):
        with pytest.raises(ValueError, match=rf"basis {basis.name} given to a decoder of "):
            kept.decode(wrong)
    # Those of a rotation do not need theirs.
    rotated = ResidualBits.of(gaussian(3, 3), 1)
    np.testing.assert_array_equal(rotated.decode(basis), rotated.decode())
    with pytest.raises(ValueError, match="basis of width 3 given to residuals of 4"):
        ResidualBits.of(gaussian(3, 4), 1, basis)


@given(
    input_dim=st.integers(1, 21),
    bits=st.sampled_from([0.25, 0.5, 1, 1.75, 4]),
    seed=st.integers(0, 5),
)
def test_query_weights_give_the_products_of_what_is_decoded(input_dim, bits, seed):
    rng = np.random.default_rng(seed)
    basis = learnt(np.sort(rng.random(input_dim) + 0.01)[::-1], rotation(input_dim, seed))
    for each in (basis, None):
        kept = ResidualBits.of(gaussian(6, input_dim), bits, each)
        queries = gaussian(4, input_dim, seed=9)
        signs = 2.0 * np.unpackbits(kept.levels, axis=1, bitorder="little") - 1
        scales = (kept.scales.astype(np.uint32) << 16).view(np.float32)
        found = kept.query_weights(queries, each) @ (scales[:, None] * signs).T
        np.testing.assert_allclose(found, queries @ kept.decode(each).T, atol=1e-4)


@pytest.mark.parametrize("rows", [gaussian(2000, 384), np.eye(384, dtype=np.float32)])
@pytest.mark.parametrize(
    ("bits", "left"),
    [(0.5, 1 - 1 / np.pi), (1, 1 - 2 / np.pi), (2, 0.1175), (3, 0.037), (4, 0.0114)],
)
def test_the_direction_leaves_the_energy_that_max_1960_states(rows, bits, left):
    """Table I of Max, for a Gaussian; single dimensions too, which the rotation mixes.

    With 3 and 4 bits it states 0.0345 and 0.0095, for levels that are no sums of signed weights.
    """
    cosine = cosines(rows, ResidualBits.of(rows, bits).decode())
    assert np.mean(1 - cosine**2) == pytest.approx(left, rel=0.02)


@given(
    n=st.integers(0, 4),
    input_dim=st.integers(1, 21),
    bits=st.sampled_from([1, 2, 3.5]),
    seed=st.integers(0, 3),
    exponent=st.integers(-36, 36),
)
def test_what_is_decoded_is_as_long_and_not_turned_away(n, input_dim, bits, seed, exponent):
    rows = gaussian(n, input_dim, seed) * np.float32(10.0**exponent)
    rows[::3] *= np.arange(input_dim) == seed
    decoded = ResidualBits.of(rows, bits, ResidualBasis.seeded(input_dim, seed)).decode()
    assert decoded.shape == rows.shape
    np.testing.assert_allclose(lengths(decoded), lengths(rows), rtol=2 * ROUNDING)
    assert (np.einsum("nd,nd->n", decoded.astype(float), rows.astype(float)) >= 0).all()


@given(
    input_dim=st.integers(1, 21),
    bits=st.sampled_from([0.5, 1, 2]),
    rows=st.lists(st.integers(0, 8), max_size=5),
    cut=st.integers(0, 9),
)
def test_rows_are_those_of_all(input_dim, bits, rows, cut):
    kept = ResidualBits.of(gaussian(9, input_dim), bits, ResidualBasis.seeded(input_dim, 2))
    decoded = kept.decode()
    chosen = np.array(rows, int)
    np.testing.assert_array_equal(kept[chosen].levels, kept.levels[chosen])
    np.testing.assert_allclose(kept[chosen].decode(), decoded[chosen], atol=1e-6)
    joined = ResidualBits.concatenate([kept[:cut], kept[cut:]])
    np.testing.assert_array_equal(joined.levels, kept.levels)
    np.testing.assert_array_equal(joined.scales, kept.scales)
    assert joined.kind == kept.kind


def test_a_residual_of_zero_is_zero():
    assert not ResidualBits.of(np.zeros((2, 5), np.float32), bits=2).decode().any()


def test_more_rows_than_are_decoded_at_once():
    rows = gaussian(5000, 9)
    kept, last = ResidualBits.of(rows, bits=1), ResidualBits.of(rows[-1:], bits=1)
    np.testing.assert_array_equal(kept.levels[-1:], last.levels)
    np.testing.assert_allclose(kept.decode()[-1:], last.decode(), atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "bytes_"), [(0.25, 1 + 2), (0.75, 2 + 2), (1, 2 + 2), (2, 3 + 2), (4, 6 + 2)]
)
def test_bytes_counted_by_hand(bits, bytes_):
    assert ResidualBits.of(gaussian(7, 12), bits).nbytes == 7 * bytes_


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((gaussian(2, 4), 5), ValueError, r"bits=5 must be within 0\.\.4"),
        ((gaussian(2, 4), 0), ValueError, "bits=0 must be above 0"),
        ((gaussian(2, 4), 0.3), ValueError, r"bits=0\.3 is not a multiple of 0\.25"),
        ((gaussian(2, 4), "1"), TypeError, "bits='1' must be a number"),
        ((np.ones(4, np.float32), 1), ValueError, r"shape \(4,\) must be \(n, input_dim\)"),
        ((np.ones((2, 4), int), 1), TypeError, "residuals are int64"),
        ((np.array([[1.0], [np.nan]]), 1), ValueError, r"NaN or Inf .* rows \[1\]"),
    ],
)
def test_what_cannot_be_kept_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ResidualBits.of(*arguments)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"levels": np.zeros((3, 1), np.uint8)}, ValueError, r"must be \(n, 2\) and \(n,\)"),
        ({"levels": np.zeros((2, 2), np.uint8)}, ValueError, r"\(2, 2\) and scales \(3,\)"),
        ({"scales": np.zeros(3, np.float32)}, TypeError, "scales float32; not uint8, uint16"),
        ({"scales": np.full(3, 0x7F80, np.uint16)}, ValueError, "scales must be finite"),
        ({"scales": np.full(3, 0xBF80, np.uint16)}, ValueError, "never negative"),
        ({"input_dim": 0}, ValueError, "input_dim=0 is below 1"),
        ({"basis": "seed -1"}, ValueError, "basis='seed -1' is neither 'seed N' nor a checksum"),
        ({"basis": None}, ValueError, "basis=None is neither"),
    ],
)
def test_arrays_that_are_no_residuals_are_refused(changed, error, message):
    kept = ResidualBits.of(gaussian(3, 12), bits=1)
    with pytest.raises(error, match=message):
        ResidualBits(**{**vars(kept), **changed})


def test_residuals_of_different_kinds_are_not_joined():
    one, other = (
        ResidualBits.of(gaussian(3, 12), 1, ResidualBasis.seeded(12, seed)) for seed in (0, 1)
    )
    with pytest.raises(ValueError, match=r"basis: seed 0.* and codes with .*seed 1.* do not fit"):
        ResidualBits.concatenate([one, other])
    with pytest.raises(ValueError, match="at least one"):
        ResidualBits.concatenate([])


def test_examples_in_the_documentation():
    assert doctest.testmod(csr_st.residual).failed == 0
