"""What people bring to `csr_st.encode`: columns of any library are read, the rest is refused."""

from __future__ import annotations

from collections import deque

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import csr_st

KINDS = {
    "pandas Series": pd.Series,
    "pandas Series of another index": lambda texts: pd.Series(texts, index=range(9, 4, -1)),
    "pandas Series of objects": lambda texts: pd.Series(texts, dtype=object),
    "pandas Series of Arrow": lambda texts: pd.Series(texts, dtype="string[pyarrow]"),
    "pandas Index": pd.Index,
    "polars Series": pl.Series,
    "Arrow array": pa.array,
    "Arrow array of views": lambda texts: pa.array(texts, pa.string_view()),
    "Arrow chunks": lambda texts: pa.chunked_array([texts[:2], texts[2:]]),
    "datasets Column": lambda texts: datasets.Dataset.from_dict({"text": texts})["text"],
    "values of a dict": lambda texts: dict(enumerate(texts)).values(),
    "keys of a dict": lambda texts: dict.fromkeys(texts).keys(),
    "generator": lambda texts: (text for text in texts),
    "map": lambda texts: map(str, texts),
    "NumPy strings": np.array,
    "NumPy objects": lambda texts: np.array(texts, object),
    "NumPy strings of any width": lambda texts: np.array(texts, np.dtypes.StringDType()),
    "list of NumPy strings": lambda texts: list(np.array(texts)),
    "tuple": tuple,
    "deque": deque,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_gives_the_codes_of_a_list(model, texts, kind):
    expected = csr_st.encode(model, list(texts), k=4)
    found = csr_st.encode(model, KINDS[kind](texts), k=4)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.values, expected.values)
    dense = csr_st.encode_dense(model, KINDS[kind](texts))
    np.testing.assert_array_equal(dense, csr_st.encode_dense(model, texts))


@pytest.mark.parametrize(
    "empty",
    [
        [],
        (),
        np.array([]),
        np.array([], str),
        pd.Series([], dtype=object),
        pl.Series([], dtype=str),
    ],
)
def test_no_inputs_give_no_codes(model, empty):
    codes = csr_st.encode(model, empty, k=4)
    assert (len(codes), codes.k) == (0, 4)
    assert csr_st.encode_dense(model, empty).shape == (0, 16)


def test_one_text_gives_one_code(model):
    for one in ("blue fish", np.str_("blue fish"), np.array("blue fish")):
        assert len(csr_st.encode(model, one)) == 1


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"sea", "fish"}, TypeError, r"a set, which has no order .*sorted\(inputs\)"),
        (frozenset(["sea"]), TypeError, "a frozenset, which has no order"),
        (["sea", None], ValueError, "input 1 is None; drop or fill missing inputs first"),
        (["sea", float("nan")], ValueError, "input 1 is nan"),
        (pd.Series(["sea", None, "fish"]), ValueError, "input 1 is nan"),
        (pd.Series(["sea", pd.NA], dtype="string"), ValueError, "input 1 is <NA>"),
        (pl.Series(["sea", None]), ValueError, "input 1 is None"),
        (pa.array(["sea", None]), ValueError, "input 1 is None"),
        (np.array(["sea", None], object), ValueError, "input 1 is None"),
        ((text for text in ["sea", None]), ValueError, "input 1 is None"),
        (None, ValueError, "input 0 is None"),
        (
            ["sea", 7],
            TypeError,
            r"input 1 is 7 \(int\); pass what the model embeds, such as one st",
        ),
        ([True], TypeError, r"input 0 is True \(bool\)"),
        (7, TypeError, r"input 0 is 7 \(int\)"),
        ([np.float32(2)], TypeError, r"input 0 is .*\(float32\)"),
        (pd.Series([1, 2]), TypeError, r"input 0 is 1 \(int\)"),
        ([b"sea"], TypeError, r"input 0 is b'sea' \(bytes\)"),
        (np.array(["sea"], "S"), TypeError, r"input 0 is .*\(bytes\)"),
        (["sea", ["fish"]], TypeError, r"input 1 is \['fish'\] \(list\)"),
        ([["a", "b", "c"]], TypeError, r"input 0 is \['a', 'b', 'c'\] \(list\)"),
        (pd.DataFrame({"text": ["sea"]}), TypeError, r"a table \(pandas\..*one of its columns"),
        (pl.DataFrame({"text": ["sea"]}), TypeError, r"a table \(polars\..*one of its columns"),
        (pa.table({"text": ["sea"]}), TypeError, r"a table \(pyarrow\..*one of its columns"),
        (datasets.Dataset.from_dict({"text": ["sea"]}), TypeError, r"a table \(datasets\."),
    ],
)
def test_what_is_not_inputs_is_refused_by_its_row(model, inputs, error, message):
    with pytest.raises(error, match=message):
        csr_st.encode(model, inputs)


def test_the_row_is_counted_over_all_batches(model):
    with pytest.raises(ValueError, match="input 300 is None"):
        csr_st.encode(model, ["sea"] * 300 + [None], batch_size=1)


VECTOR_KINDS = {
    "lists": lambda rows: rows.tolist(),
    "tuple of arrays": tuple,
    "list of tensors": lambda rows: [torch.tensor(row, requires_grad=True) for row in rows],
    "tensor": torch.tensor,
    "float64": lambda rows: rows.astype(np.float64),
    "long double": lambda rows: rows.astype(np.longdouble),
    "big-endian": lambda rows: rows.astype(">f4"),
    "transposed": lambda rows: np.asfortranarray(rows),
    "pandas DataFrame": pd.DataFrame,
    "polars DataFrame": lambda rows: pl.DataFrame(rows),
    "pandas Series": lambda rows: pd.Series(list(rows)),
    "polars Series": lambda rows: pl.Series(rows.tolist()),
    "Arrow lists": lambda rows: pa.array(rows.tolist()),
    "Arrow lists of one size": lambda rows: pa.FixedSizeListArray.from_arrays(rows.ravel(), 16),
    "datasets Column": lambda rows: datasets.Dataset.from_dict({"v": rows.tolist()})["v"],
    "objects": lambda rows: np.array([*rows, None], object)[:-1],
}


@pytest.mark.parametrize("kind", VECTOR_KINDS)
def test_vectors_of_every_kind(head, rng, kind):
    rows = rng.normal(size=(5, 16)).astype(np.float32)
    expected = csr_st.encode_vectors(head, rows, 4)
    found = csr_st.encode_vectors(head, VECTOR_KINDS[kind](rows), 4)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "uint32", "int64", "bool", "float16"])
def test_vectors_of_every_real_type(head, rng, dtype):
    rows = rng.integers(0, 2, (5, 16)).astype(dtype)
    expected = csr_st.encode_vectors(head, rows.astype(np.float32), 4)
    np.testing.assert_array_equal(csr_st.encode_vectors(head, rows, 4).values, expected.values)


@pytest.mark.parametrize(
    ("vectors", "error", "message"),
    [
        ([[0.0] * 16, [0.0] * 15], ValueError, "different widths; each needs 16 numbers"),
        ([[0.0] * 16, None], ValueError, "different widths; each needs 16 numbers"),
        ([["a"] * 16], TypeError, "vectors are <U1; each must be 16 real numbers"),
        ([[None] * 16], TypeError, "vectors are object; each must be 16 real numbers"),
        (np.zeros((2, 16), complex), TypeError, "vectors are complex128"),
        (np.zeros(16), ValueError, r"vectors of shape \(16,\) must be \(n, 16\)"),
        (np.zeros((2, 15)), ValueError, "width 15 given to a head with input_dim=16"),
        (np.full((2, 16), np.nan), ValueError, r"NaN or Inf in the input vectors"),
        (np.full((2, 16), 1e300), ValueError, r"NaN or Inf in the input vectors"),
        ({(0.0,) * 16}, TypeError, "a set, which has no order"),
    ],
)
def test_what_is_not_vectors_is_refused(head, vectors, error, message):
    with pytest.raises(error, match=message):
        csr_st.encode_vectors(head, vectors, 4)


def test_no_vectors_give_no_codes(head):
    for empty in ([], np.empty((0, 16)), torch.empty(0, 16)):
        codes = csr_st.encode_vectors(head, empty, 4)
        assert codes.shape == (0, 64)
        assert codes.normalized


def test_vector_models_take_columns(head, rng):
    from sentence_transformers import SentenceTransformer

    from csr_st.vectors import VectorInput

    rows = rng.normal(size=(5, 16)).astype(np.float32)
    model = SentenceTransformer(modules=[VectorInput(16), head], device="cpu")
    expected = csr_st.encode(model, rows)
    for kind in ("lists", "pandas Series", "polars Series", "Arrow lists", "datasets Column"):
        found = csr_st.encode(model, VECTOR_KINDS[kind](rows))
        np.testing.assert_array_equal(found.values, expected.values)
    with pytest.raises(ValueError, match="input 5 is None"):
        csr_st.encode(model, [*rows, None])
