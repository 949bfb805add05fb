"""What `EmbeddingStore.from_array` takes for vectors and labels, and what it refuses."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch

from csr_st.embeddings import EmbeddingStore

VECTORS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
LISTS = VECTORS.tolist()
OBJECTS = np.empty(6, object)
OBJECTS[:] = [*VECTORS]
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 3)

TAKEN = {
    "list of lists": LISTS,
    "tuple": tuple(LISTS),
    "list of arrays": [*VECTORS],
    "list of tensors": [*torch.from_numpy(VECTORS).requires_grad_()],
    "generator": lambda: (row for row in LISTS),
    "values of a dict": dict(enumerate(LISTS)).values(),
    "array of objects": OBJECTS,
    "array of objects in two dimensions": VECTORS.astype(object),
    "fortran": np.asfortranarray(VECTORS),
    "big-endian": VECTORS.astype(">f4"),
    "strided": np.repeat(VECTORS, 2, axis=0)[::2],
    "long double": VECTORS.astype(np.longdouble),
    "masked without a mask": np.ma.MaskedArray(VECTORS),
    "tensor": torch.from_numpy(VECTORS).requires_grad_(),
    "pandas frame": pd.DataFrame(VECTORS),
    "pandas series of lists": pd.Series(LISTS, index=[*"fedcba"]),
    "pandas series of arrays": pd.Series([*VECTORS]),
    "pandas series of arrow": pd.Series(LISTS, dtype=pd.ArrowDtype(pa.list_(pa.float32()))),
    "polars frame": pl.DataFrame(VECTORS),
    "polars series of lists": pl.Series(LISTS, dtype=pl.List(pl.Float32)),
    "polars series of arrays": pl.Series(LISTS, dtype=pl.Array(pl.Float32, 3)),
    "arrow lists": pa.array(LISTS, pa.list_(pa.float32())),
    "arrow fixed lists": FIXED,
    "arrow slice": pa.concat_arrays([FIXED, FIXED])[3:9].take(pa.array([3, 4, 5, 0, 1, 2])),
    "arrow chunks": pa.chunked_array([FIXED[:2], FIXED[2:]]),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_vectors_of_every_library_are_taken(kind):
    given = TAKEN[kind]() if callable(TAKEN[kind]) else TAKEN[kind]
    store = EmbeddingStore.from_array(given)
    np.testing.assert_allclose(store.vectors(), VECTORS, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64])
def test_small_and_large_numbers_are_taken(dtype):
    numbers = np.array([[0, 127, 3], [100, 2, 1]]).astype(dtype)
    for given in (numbers, torch.from_numpy(numbers), pa.array(list(numbers))):
        store = EmbeddingStore.from_array(given)
        assert store.info.dtype == np.dtype(dtype).name
        assert store.vectors().tolist() == [[0, 127, 3], [100, 2, 1]]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({(1.0, 2.0)}, "a set, which has no order"),
        (frozenset({(1.0,)}), "frozenset, which has no order"),
        ({"a": [1.0, 2.0]}, r"a dict; pass its values, as list\(vectors\.values\(\)\)"),
        ("vectors.npy", r"'vectors\.npy'; to open a file, use EmbeddingStore\.open"),
        (None, "vectors are NoneType; pass an"),
        (7, "vectors are int"),
        ([[1.0, 2.0], None], r"vector 1 is None \(NoneType\)"),
        ([[1.0, 2.0], [1.0, None]], "vector 1 is"),
        ([[1.0, 2.0], "ab"], "vector 1.* 'ab'"),
        ([[1.0, 2.0], [1.0]], "vector 1 has 1 numbers, vector 0 has 2"),
        ([[1.0, 2.0], [[1.0], [2.0]]], "vector 1 is"),
        ([[1.0, 2.0], [1.0, [2.0]]], "vector 1 is not a list of numbers"),
        ([1.0, 2.0], "vector 0 is 1.0"),
        ([[1, 2], [3, 4]], r"vectors are int64; .*astype\('float32'\)"),
        ([], r"shape \(0, 0\)"),
        ((row for row in ()), r"shape \(0, 0\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((3, 0)), r"shape \(3, 0\)"),
        (np.zeros((3, 2, 1)), r"shape \(3, 2, 1\)"),
        (np.float32(1), r"shape \(\)"),
        (np.zeros(3, [("a", "f4")]), r"shape \(3,\)"),
        (np.zeros((3, 1), [("a", "f4")]), "pass floating-point"),
        (np.ones((3, 2), bool), "vectors are bool"),
        (np.ones((3, 2), complex), "vectors are complex128"),
        (np.array([["a", "b"]]), "vectors are <U1"),
        (np.ma.masked_greater(VECTORS, 0), r"vector \d has masked numbers"),
        (pd.Series([[1.0], None]), "vector 1 is None"),
        (pd.Series([1.0, 2.0]), r"shape \(2,\)"),
        (pd.DataFrame({"id": ["a"], "x": [1.0]}), "vector 0 is"),
        (pd.DataFrame({"x": pd.array([1.0, None], "Float64")}), "NaN or Inf in row 1"),
        (pl.Series([[1.0], None]), "vector 1 is None"),
        (pl.Series([[1.0], [1.0, 2.0]]), "vector 1 has 2 numbers"),
        (pa.array([[1.0], None]), "vector 1 is None"),
        (pa.table({"v": [[1.0]]}), "vector 0"),
        (scipy.sparse.csr_array(VECTORS), "vector"),
        (object(), "vectors are object"),
        ([[1.0, 1e300], [1.0, 2.0]], "row 0, or a number beyond float32"),
    ],
)
def test_what_has_no_vectors_is_refused_with_the_reason(vectors, message):
    with pytest.raises((ValueError, TypeError), match=message):
        EmbeddingStore.from_array(vectors)


def test_a_label_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match="beyond 64 bits"):
        EmbeddingStore.from_array(VECTORS, labels=[0, 1, 2, 2**70, -1, 0])
