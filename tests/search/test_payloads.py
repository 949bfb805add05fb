"""What is a payload: JSON values, checked before anything is written."""

import datetime
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr_st.search.engines.payloads import checked_payloads

circle: list = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (float("nan"), ValueError, "row 1, 'a' is nan, which JSON does not have; pass None"),
        (np.float32("inf"), ValueError, "row 1, 'a' is inf"),
        (np.array([1, np.nan]), ValueError, r"row 1, 'a'\[1\] is nan"),
        ({"b": [float("-inf")]}, ValueError, r"row 1, 'a', 'b'\[0\] is -inf"),
        (2**63, ValueError, "9223372036854775808, beyond 64 bits"),
        (np.uint64(2**64 - 1), ValueError, "18446744073709551615, beyond 64 bits"),
        (datetime.date(2020, 1, 1), TypeError, "row 1, 'a' is a date"),
        (np.datetime64("2020-01-01"), TypeError, "row 1, 'a' is a datetime64"),
        (np.array(["2020-01-01"], "M8[ns]"), TypeError, "row 1, 'a' is a ndarray"),
        ({1, 2}, TypeError, "row 1, 'a' is a set"),
        (b"x", TypeError, "row 1, 'a' is a bytes"),
        (1j, TypeError, "row 1, 'a' is a complex"),
        (np.array([None]), TypeError, "row 1, 'a' is a ndarray"),
        ({2: 1}, TypeError, "row 1, 'a' has the key 2 of type int; keys must be strings"),
        ("\ud800", ValueError, "row 1, 'a' has a lone surrogate"),
        ("a\0", ValueError, "row 1, 'a' has a NUL"),
        ({"\ud800": 1}, ValueError, "row 1, 'a' has a lone surrogate"),
        (circle, ValueError, "nested more than 64 deep"),
    ],
)
def test_values_that_no_engine_keeps_are_named(value, error, message):
    with pytest.raises(error, match=message):
        checked_payloads([{}, {"a": value}], 2)


@pytest.mark.parametrize(
    ("payloads", "error", "message"),
    [
        ({"a": 1}, TypeError, "payloads are one dict; pass a list"),
        ("ab", TypeError, "payloads are one str"),
        ([{}], ValueError, "1 payloads for 2 documents"),
        ([{}, None], TypeError, "payload of row 1 is a NoneType; pass a mapping"),
        ([{}, [("a", 1)]], TypeError, "payload of row 1 is a list"),
    ],
)
def test_what_is_no_list_of_mappings_is_refused(payloads, error, message):
    with pytest.raises(error, match=message):
        checked_payloads(payloads, 2)


def test_a_generator_of_payloads_is_taken():
    assert checked_payloads(({"n": n} for n in range(2)), 2) == [{"n": 0}, {"n": 1}]


words = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | words
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.lists(st.dictionaries(words, values, max_size=3), max_size=3))
def test_json_values_are_kept_as_they_are(payloads):
    checked = checked_payloads(payloads, len(payloads))
    assert checked == payloads
    assert json.loads(json.dumps(checked, allow_nan=False)) == payloads
