"""Residual bits: the rotation, what is kept of a residual in 1 or 2 bits, and what is refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import csr_st.residual
from csr_st.residual import ResidualBits, rotation

ROUNDING = 2**-8  # of a bfloat16, relative


def gaussian(n, input_dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, input_dim)).astype(np.float32)


def lengths(rows):
    return np.linalg.norm(rows.astype(float), axis=1)


def cosines(left, right):
    products = np.einsum("nd,nd->n", left.astype(float), right.astype(float))
    return products / (lengths(left) * lengths(right))


def test_the_rotation_worked_out_by_hand():
    """Published codes rely on it. RandomState(0) gives 1.764052 0.400157 0.978738 2.240893."""
    cosine, sine = np.array([1.764052, 0.978738]) / np.hypot(1.764052, 0.978738)
    np.testing.assert_allclose(rotation(2, 0), [[cosine, -sine], [sine, cosine]], atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_rotation_is_orthogonal_and_depends_on_the_seed(seed):
    np.testing.assert_allclose(rotation(48, seed) @ rotation(48, seed).T, np.eye(48), atol=1e-6)
    assert np.abs(rotation(48, seed) - rotation(48, 5)).max() > 0.1


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


@pytest.mark.parametrize("rows", [gaussian(2000, 384), np.eye(384, dtype=np.float32)])
@pytest.mark.parametrize(("bits", "left"), [(1, 1 - 2 / np.pi), (2, 0.1175)])
def test_the_direction_leaves_the_energy_that_max_1960_states(rows, bits, left):
    """Table I of Max, for a Gaussian; single dimensions too, which the rotation mixes."""
    cosine = cosines(rows, ResidualBits.of(rows, bits).decode())
    assert np.mean(1 - cosine**2) == pytest.approx(left, rel=0.02)


@given(
    n=st.integers(0, 4),
    input_dim=st.integers(1, 21),
    bits=st.sampled_from([1, 2]),
    seed=st.integers(0, 3),
    exponent=st.integers(-36, 36),
)
def test_what_is_decoded_is_as_long_and_not_turned_away(n, input_dim, bits, seed, exponent):
    rows = gaussian(n, input_dim, seed) * np.float32(10.0**exponent)
    rows[::3] *= np.arange(input_dim) == seed
    decoded = ResidualBits.of(rows, bits, seed).decode()
    assert decoded.shape == rows.shape
    np.testing.assert_allclose(lengths(decoded), lengths(rows), rtol=2 * ROUNDING)
    assert (np.einsum("nd,nd->n", decoded.astype(float), rows.astype(float)) >= 0).all()


@given(
    input_dim=st.integers(1, 21),
    bits=st.sampled_from([1, 2]),
    rows=st.lists(st.integers(0, 8), max_size=5),
    cut=st.integers(0, 9),
)
def test_rows_are_those_of_all(input_dim, bits, rows, cut):
    kept = ResidualBits.of(gaussian(9, input_dim), bits, seed=2)
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


@pytest.mark.parametrize(("bits", "bytes_"), [(1, 2 + 2), (2, 3 + 2)])
def test_bytes_counted_by_hand(bits, bytes_):
    assert ResidualBits.of(gaussian(7, 12), bits).nbytes == 7 * bytes_


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((gaussian(2, 4), 3), ValueError, "bits=3 exceeds 2; pass 1 <= bits <= 2"),
        ((gaussian(2, 4), 0), ValueError, "bits=0 is below 1"),
        ((gaussian(2, 4), 1.0), TypeError, "bits=1.0 is not an integer"),
        ((gaussian(2, 4), 1, -1), ValueError, "seed=-1 is below 0"),
        ((gaussian(2, 4), 1, 2**32), ValueError, "seed=4294967296 exceeds 4294967295"),
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
    ],
)
def test_arrays_that_are_no_residuals_are_refused(changed, error, message):
    kept = ResidualBits.of(gaussian(3, 12), bits=1)
    with pytest.raises(error, match=message):
        ResidualBits(**{**vars(kept), **changed})


def test_residuals_of_different_kinds_are_not_joined():
    one, other = (ResidualBits.of(gaussian(3, 12), 1, seed) for seed in (0, 1))
    with pytest.raises(ValueError, match=r"seed: 0.* and codes with .*seed: 1.* do not fit"):
        ResidualBits.concatenate([one, other])
    with pytest.raises(ValueError, match="at least one"):
        ResidualBits.concatenate([])


def test_examples_in_the_documentation():
    assert doctest.testmod(csr_st.residual).failed == 0
