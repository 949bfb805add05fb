"""Ids, adding, removing, filters, smaller k, rescoring and what is refused."""

import copy
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from csr_st.codes import SparseCodes
from csr_st.search import Decoder, SparseIndex
from csr_st.search.kernels.importing import load_kernels

pytest.importorskip("numba")


def random_codes(rng, n, k=4, hidden_dim=40):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, hidden_dim).normalize()


def polars_series(values):
    return pytest.importorskip("polars").Series(values)


def emptied(codes):
    index = SparseIndex.build(codes, ids=["p", "q"])
    index.remove(["q", "p"])
    return index


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def assert_same(results, expected):
    np.testing.assert_array_equal(results.ids, expected.ids)
    np.testing.assert_allclose(results.scores, expected.scores, atol=1e-6)


def test_smaller_k_equals_an_index_of_the_prefix(rng):
    documents, queries = random_codes(rng, 500, k=8), random_codes(rng, 9, k=8)
    index = SparseIndex.build(documents)
    for k in (1, 3, 5, 8):
        prefix = SparseIndex.build(documents.prefix(k))
        assert_same(index.search(queries, top_k=5, k=k), prefix.search(queries, top_k=5))


@pytest.mark.parametrize("first", [1, 1000, 16_384, 20_000])
def test_adding_equals_building_at_once(rng, first):
    documents, queries = random_codes(rng, 40_000), random_codes(rng, 5)
    index = SparseIndex.build(documents[:first])
    index.search(queries, top_k=1)
    index.add(documents[first:35_000])
    index.search(queries, top_k=1)
    index.add(documents[35_000:])
    assert_same(index.search(queries), SparseIndex.build(documents).search(queries))


class FilterThat(list):
    """Ids that call ``change`` when a search reads them, which is after it began."""

    change = staticmethod(lambda: None)

    def __iter__(self):
        self.change()
        return super().__iter__()


@pytest.mark.parametrize(("first", "more"), [(20_000, 12_868), (16_500, 16_368), (20_000, 30_000)])
def test_a_search_does_not_see_what_is_added_meanwhile(rng, first, more):
    documents = random_codes(rng, first + more, hidden_dim=512)
    queries = documents[first : first + 40]
    index = SparseIndex.build(documents[:first])
    selected = FilterThat(range(first))
    expected = index.search(queries, filter=list(selected))

    def add():
        index.add(documents[first:])
        index.search(queries)

    selected.change = add
    assert_same(index.search(queries, filter=selected), expected)
    assert_same(index.search(queries), SparseIndex.build(documents).search(queries))


def test_a_search_does_not_see_what_is_removed_meanwhile(rng):
    documents, queries = random_codes(rng, 40_000), random_codes(rng, 5)
    decoder = Decoder(rng.normal(size=(40, 12)), rng.normal(size=12))
    rescoring = {"rescore": 50, "queries_dense": rng.normal(size=(5, 12))}
    index = SparseIndex.build(documents, decoder=decoder)
    selected = FilterThat(range(40_000))
    expected = index.search(queries, filter=list(selected), **rescoring)

    def remove():
        index.remove(range(22_000))
        index.search(queries)

    selected.change = remove
    assert_same(index.search(queries, filter=selected, **rescoring), expected)
    left = SparseIndex.build(documents[22_000:], ids=range(22_000, 40_000), decoder=decoder)
    assert_same(index.search(queries, **rescoring), left.search(queries, **rescoring))


def test_memory_of_removed_documents_is_given_back(rng):
    documents, queries = random_codes(rng, 20_000), random_codes(rng, 5)
    index = SparseIndex.build(documents)
    index.remove(range(12_000))
    index.search(queries)
    tracemalloc.start()
    for start in range(12_000, 19_000, 1000):
        for _ in range(10):
            index.remove(range(start, start + 1000))
            index.add(documents[start : start + 1000], ids=range(start, start + 1000))
    index.search(queries)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(index) == 8000
    assert grown < 2_500_000  # 16,000 documents of about 60 bytes and their postings
    left = SparseIndex.build(documents[12_000:], ids=range(12_000, 20_000))
    np.testing.assert_allclose(index.search(queries).scores, left.search(queries).scores, atol=1e-6)


@pytest.mark.parametrize("name", [int, str])
@pytest.mark.parametrize("replaced", [5, 700])
def test_replacing_is_removing_and_adding(rng, name, replaced):
    documents, queries = random_codes(rng, 1000), random_codes(rng, 5)
    new = random_codes(rng, replaced + 50)
    ids = [*map(name, range(replaced)), *map(name, range(5000, 5050))]
    index, other = (SparseIndex.build(documents, ids=[*map(name, range(1000))]) for _ in range(2))
    index.search(queries)
    index.add(new, ids, replace=True)
    other.remove(ids[:replaced])
    other.add(new, ids)
    assert index.ids.tolist() == other.ids.tolist()
    assert_same(index.search(queries, 1050), other.search(queries, 1050))
    assert_same(index.search(queries, 3, filter=ids), other.search(queries, 3, filter=ids))


def test_a_replacement_that_is_refused_removes_nothing(rng):
    index = SparseIndex.build(random_codes(rng, 20, k=3))
    for codes, ids in ((random_codes(rng, 1), [3]), (random_codes(rng, 2, k=3), [3, 3])):
        with pytest.raises(ValueError, match=r"k=4|given twice"):
            index.add(codes, ids, replace=True)
    assert index.ids.tolist() == list(range(20))


def test_ids_are_found_after_adding_one_by_one_to_copies(rng):
    """Copies share what finds ids; each finds its own, also those removed and added again."""
    documents = random_codes(rng, 60)
    first = SparseIndex.build(documents[:20], [f"{row}" for row in range(20)])
    copies = [(first, {f"{row}": row for row in range(20)})]
    copies.append((copy.copy(first), dict(copies[0][1])))
    names = [], []
    for row in range(20, 60):  # each other's ids, a step later, and some of their own again
        names[0].append("7" if row % 3 == 0 else f"a{row}")
        names[1].append("a20" if row % 5 == 0 else f"a{row - 1}")
    for step, row in enumerate(range(20, 60)):
        for number, (index, rows) in enumerate(copies):
            name = names[number][step]
            replace = rows.pop(name, None) is not None
            rows[name] = row
            index.add(documents[row : row + 1], [name], replace=replace)
            assert index.ids.tolist() == list(rows)
            stored = index.codes(list(rows))
            np.testing.assert_array_equal(stored.indices, documents[list(rows.values())].indices)
            for unknown in {*names[0], *names[1]} - set(rows):
                with pytest.raises(ValueError, match="is not in the index"):
                    index.codes([unknown])


def test_ids_of_removed_documents_are_not_given_again(rng):
    index = SparseIndex.build(random_codes(rng, 3))
    index.remove([0, 1, 2])
    assert len(index) == 0
    index.add(random_codes(rng, 2))
    assert index.ids.tolist() == [3, 4]


def test_string_ids_and_removal(rng):
    documents, query = random_codes(rng, 50), random_codes(rng, 1)
    names = [f"doc {number}" for number in range(50)]
    index = SparseIndex.build(documents, ids=names)
    before = index.search(query, top_k=5).ids[0].tolist()
    index.remove(before[:2])
    assert len(index) == 48
    assert index.search(query, top_k=3).ids[0].tolist() == before[2:]
    index.add(documents[int(before[0].split()[1])], ids=[before[0]])
    assert index.search(query, top_k=1).ids[0, 0] == before[0]


def test_remove_leaves_all_when_one_is_unknown(rng):
    index = SparseIndex.build(random_codes(rng, 10), ids=range(5, 15))
    with pytest.raises(ValueError, match="id 99 is not in the index"):
        index.remove([5, 99])
    assert len(index) == 10
    index.remove([5])
    with pytest.raises(ValueError, match="id 5 is not in the index"):
        index.remove([5])


def test_added_ids_go_on_counting(rng):
    index = SparseIndex.build(random_codes(rng, 3), ids=[7, 2, 4])
    index.add(random_codes(rng, 2))
    assert index.ids.tolist() == [7, 2, 4, 8, 9]


@pytest.mark.parametrize("as_ids", [True, False])
def test_filter_searches_only_what_it_names(rng, as_ids):
    documents, queries = random_codes(rng, 30_000), random_codes(rng, 4)
    index = SparseIndex.build(documents, ids=np.arange(30_000) + 10)
    index.remove([10, 11])
    chosen = np.sort(rng.choice(index.ids, 300, replace=False))
    mask = np.isin(index.ids, chosen)
    results = index.search(queries, filter=chosen if as_ids else mask)
    expected = SparseIndex.build(documents[chosen - 10], ids=chosen).search(queries)
    assert_same(results, expected)


def test_filter_of_few_leaves_rows_short(rng):
    index = SparseIndex.build(random_codes(rng, 100))
    results = index.search(random_codes(rng, 2), top_k=5, filter=[3, 90])
    assert (np.sort(results.ids[:, :2]) == [3, 90]).all()
    assert (results.ids[:, 2:] == -1).all()
    assert np.isneginf(results.scores[:, 2:]).all()


def dense_reference(documents, decoder, queries_dense):
    raw = documents.raw().to_dense()
    return queries_dense @ (raw @ decoder.weight + decoder.pre_bias).T, raw


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("power", [1, 0.5, 0.75])
@pytest.mark.parametrize("short_k", [None, 2, 3])
def test_rescoring_equals_decoding_everything(rng, metric, k, power, short_k):
    documents, queries = random_codes(rng, 200), random_codes(rng, 6)
    short_map = rng.normal(size=(12, 12)).astype(np.float32)
    maps = {short_k: short_map} if short_k else {}
    decoder = Decoder(rng.normal(size=(40, 12)), rng.normal(size=12), power, maps)
    queries_dense = rng.normal(size=(6, 12)).astype(np.float32)
    index = SparseIndex.build(documents, decoder=decoder)
    used = documents.prefix(k) if k else documents
    decoded = used.raw().to_dense() ** (1 / power) @ decoder.weight
    if short_k and used.k <= short_k:
        decoded = decoded @ short_map
    decoded += decoder.pre_bias
    np.testing.assert_allclose(decoder.decode(used), decoded, rtol=1e-3, atol=1e-3)
    scores = queries_dense @ decoded.T
    if metric == "cosine":
        scores /= np.linalg.norm(queries_dense, axis=1)[:, None] * np.linalg.norm(decoded, axis=1)
    for _ in range(2):  # the second time the norms are known
        results = index.search(
            queries, top_k=7, k=k, rescore=200, queries_dense=queries_dense, metric=metric
        )
        np.testing.assert_array_equal(results.ids, np.argsort(-scores, axis=1)[:, :7])
        np.testing.assert_allclose(results.scores, -np.sort(-scores, axis=1)[:, :7], rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"short_maps": {2: np.ones((6, 5))}},
            r"map of k=2 has shape \(6, 5\); it must be \(6, 6\)",
        ),
        ({"short_maps": {2: np.full((6, 6), np.nan)}}, "map of k=2 must be finite"),
        ({"short_maps": {"2": np.eye(6)}}, r"key '2'; each must be an integer in 1\.\.40"),
        ({"short_maps": {41: np.eye(6)}}, r"key 41; each must be an integer in 1\.\.40"),
        ({"weight": np.ones((40, 5))}, r"pre_bias has shape \(6,\); weights must be"),
        ({"weight": np.ones((40, 6), int)}, "weight must be finite floating-point"),
        ({"power": 0}, "power=0 must be above 0"),
    ],
)
def test_decoders_that_fit_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Decoder(**{"weight": np.ones((40, 6)), "pre_bias": np.zeros(6), **settings})


def test_rescoring_takes_only_the_best_candidates(rng):
    documents, queries = random_codes(rng, 300), random_codes(rng, 3)
    decoder = Decoder(rng.normal(size=(40, 12)), np.zeros(12))
    index = SparseIndex.build(documents)
    candidates = index.search(queries, top_k=20).ids
    dense = rng.normal(size=(3, 12))
    results = index.search(queries, top_k=20, rescore=20, queries_dense=dense, decoder=decoder)
    np.testing.assert_array_equal(np.sort(results.ids), np.sort(candidates))


@pytest.mark.parametrize("filtered", [False, True])
def test_rescoring_takes_all_documents_where_too_few_share_a_latent(rng, filtered):
    documents, queries = random_codes(rng, 300).prefix(1), random_codes(rng, 5).prefix(1)
    decoder = Decoder(rng.normal(size=(40, 12)), rng.normal(size=12))
    index = SparseIndex.build(documents, decoder=decoder)
    index.remove([7, 8])
    selected = np.arange(10, 290) if filtered else index.ids
    dense = rng.normal(size=(5, 12)).astype(np.float32)
    shared = queries.to_dense() @ documents.to_dense()[selected].T
    assert ((shared > 0).sum(axis=1) < 50).all()
    results = index.search(
        queries, 6, rescore=50, queries_dense=dense, filter=selected if filtered else None
    )
    decoded = documents.raw().to_dense()[selected] @ decoder.weight + decoder.pre_bias
    cosines = dense @ decoded.T / np.linalg.norm(decoded, axis=1)
    cosines /= np.linalg.norm(dense, axis=1)[:, None]
    np.testing.assert_array_equal(results.ids, selected[np.argsort(-cosines, axis=1)[:, :6]])
    np.testing.assert_allclose(results.scores, -np.sort(-cosines, axis=1)[:, :6], rtol=1e-4)


def nan_codes(rng):
    codes = random_codes(rng, 3)
    codes.values[1, 2] = np.nan
    return codes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, r: i.search(random_codes(r, 1, hidden_dim=41)), "hidden_dim=41, the index 40"),
        (lambda i, r: i.search(random_codes(r, 1), top_k=21), r"top_k=21 is not within 1..20"),
        (lambda i, r: i.search(random_codes(r, 1), top_k=0), r"top_k=0 is not within 1..20"),
        (lambda i, r: i.search(random_codes(r, 1), k=5), r"k=5 is not within 1..4"),
        (lambda i, r: i.search(nan_codes(r)), "row 1 of the query codes has norm nan"),
        (lambda i, r: i.search(random_codes(r, 1), threads=0), "threads=0"),
        (lambda i, r: i.search(random_codes(r, 1), filter=[20]), "id 20 is not in the index"),
        (lambda i, r: i.search(random_codes(r, 1), filter=np.ones(3, bool)), r"shape \(3,\)"),
        (lambda i, r: i.search(random_codes(r, 1), rescore=20), "needs a decoder"),
        (lambda i, r: i.search(random_codes(r, 1), queries_dense=np.ones((1, 2))), "rescore=200"),
        (lambda i, r: i.add(random_codes(r, 1, k=3)), "hidden_dim=40, k=3"),
        (lambda i, r: i.add(nan_codes(r)), "row 1 of the codes has norm nan"),
        (lambda i, r: i.add(random_codes(r, 1), ids=[3]), "id 3 is in the index"),
        (lambda i, r: i.add(random_codes(r, 2), ids=[30, 30]), "id 30 is given twice"),
        (lambda i, r: i.add(random_codes(r, 2), ids=[30]), "1 ids for 2 documents"),
        (lambda i, r: i.search(random_codes(r, 1), metric="cos"), "'cos'.*'cosine' or 'dot'"),
        (
            lambda i, r: i.add(random_codes(r, 1), ids=[2**63]),
            r"id 9223372036854775808 .*0\.\.9223",
        ),
        (
            lambda i, r: i.add(random_codes(r, 1), ids=np.array([2**63], np.uint64)),
            r"id 9223372036854775808 .*0\.\.9223",
        ),
        (lambda i, r: i.remove([2**70]), "id 1180591620717411303424 is outside"),
    ],
)
def test_bad_input_says_what_and_changes_nothing(rng, call, message):
    index = SparseIndex.build(random_codes(rng, 20))
    with pytest.raises(ValueError, match=message):
        call(index, rng)
    assert index.ids.tolist() == list(range(20))


def test_wrong_types_are_named(rng):
    index = SparseIndex.build(random_codes(rng, 20))
    with pytest.raises(TypeError, match="ndarray"):
        index.search(np.ones((1, 40)))
    with pytest.raises(TypeError, match="float"):
        index.remove([1.5])
    with pytest.raises(TypeError, match=r"the str 'ab'; pass a list, \['ab'\]"):
        SparseIndex.build(random_codes(rng, 2), ids=["a", "b"]).remove("ab")
    with pytest.raises(TypeError, match="are integers, these are strings"):
        index.add(random_codes(rng, 1), ids=["a"])


@pytest.mark.parametrize("empty", [lambda codes: SparseIndex.build(codes[:0]), emptied])
@pytest.mark.parametrize(("ids", "other"), [(["a", "b"], [1, 2]), ([5, 3], ["x", "y"])])
def test_an_empty_index_takes_ids_of_any_type(rng, empty, ids, other):
    codes = random_codes(rng, 2)
    index = empty(codes)
    with pytest.raises(ValueError, match="the index is empty: there is nothing to search"):
        index.search(codes, top_k=1)
    with pytest.raises(ValueError, match="'a' is not in the index of 0 documents"):
        index.remove(["a"])
    index.remove([])
    index.add(codes[:0])
    index.add(codes[:0], ids=[])
    index.add(codes, ids)
    assert index.ids.tolist() == ids
    assert index.search(codes, top_k=1).ids[:, 0].tolist() == ids
    with pytest.raises(TypeError, match="the ids of this index are"):
        index.add(codes, other)
    with pytest.raises(TypeError, match="the ids of this index are"):
        index.search(codes, top_k=1, filter=other)
    index.remove(ids)
    assert len(index) == 0
    index.add(codes, other)
    assert index.ids.tolist() == other


def test_adding_no_codes_changes_nothing(rng):
    index = SparseIndex.build(random_codes(rng, 2), ids=["a", "b"])
    index.add(random_codes(rng, 2)[:0])
    index.add(random_codes(rng, 2)[:0], ids=[])
    assert index.ids.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="ids of this index are strings; pass ids"):
        index.add(random_codes(rng, 1))


def test_one_document(rng):
    index = SparseIndex.build(random_codes(rng, 1), ids=["only"])
    assert index.search(random_codes(rng, 3), top_k=1).ids.tolist() == [["only"]] * 3
    assert index.search(random_codes(rng, 3)[:0], top_k=1).ids.shape == (0, 1)
    assert index.search(random_codes(rng, 1), top_k=1, filter=[]).ids.tolist() == [[None]]


IDS = ["1", "b\0", "ö", "x" * 10**6]


@pytest.mark.parametrize(
    "column",
    [
        np.array, pd.Series, polars_series, pa.array,
        lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
        pd.Categorical, iter, dict.fromkeys, lambda ids: dict.fromkeys(ids).keys(),
    ],
)  # fmt: skip
def test_ids_come_in_any_column(rng, tmp_path, column):
    codes = random_codes(rng, 4)
    ids = ["1", "b", "ö", "x"] if column is np.array else IDS  # NumPy strips a NUL at the end
    index = SparseIndex.build(codes, column(ids))
    index.save(tmp_path / "a.index")
    assert SparseIndex.load(tmp_path / "a.index").ids.tolist() == ids
    assert SparseIndex.build(codes, torch.arange(4) + 2).ids.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (["a", "b\ud800"], ValueError, r"id 'b\\ud800' of row 1 has a lone surrogate"),
        ([1, np.nan], TypeError, r"of type float, int \(row 1 is nan\)"),
        (np.array([1.0, 2.0]), TypeError, r"ids are float64 \(row 0 is 1.0\); use only"),
        (pd.Series([1, None]), TypeError, r"ids are float64 \(row 1 is nan\)"),
        (pd.Series([1, None], dtype="Int64"), TypeError, r"float64 \(row 1 is nan\)"),
        (pa.array(["a", None]), TypeError, "row 1 is None"),
        ([b"a", b"b"], TypeError, r"of type bytes \(row 0 is b'a'\)"),
        (np.array([b"a", b"b"]), TypeError, "ids are"),
        ([1, "a"], TypeError, r"of type int, str \(row 1 is 'a'\)"),
        ([True, False], TypeError, r"of type bool"),
        (np.array(["2020", "2021"], "M8[ns]"), TypeError, r"ids are datetime64\[ns\]"),
        ({1, 2}, TypeError, "ids are a set; pass a list, in the order of the documents"),
        (7, TypeError, "ids are the int 7; pass a list"),
        ([[1], [2]], ValueError, "ids have 2 dimensions"),
        (["a", "a"], ValueError, "id 'a' is given twice"),
        ([0, -1], ValueError, "id -1 is negative"),
    ],
)
def test_ids_that_cannot_be_kept_are_refused_at_once(rng, ids, error, message):
    codes = random_codes(rng, 2)
    index = SparseIndex.build(codes[:0])
    with pytest.raises(error, match=message):
        SparseIndex.build(codes, ids)
    with pytest.raises(error, match=message):
        index.add(codes, ids)
    assert len(index) == 0


@pytest.mark.parametrize(
    "column", [list, np.array, pd.Series, polars_series, pa.array, torch.tensor, tuple]
)
def test_a_column_of_bools_filters_like_a_numpy_mask(rng, column):
    documents, queries = random_codes(rng, 50), random_codes(rng, 3)
    index = SparseIndex.build(documents, ids=[f"d{n}" for n in range(50)])
    mask = rng.random(50) < 0.5
    assert_same(
        index.search(queries, filter=column(mask.tolist())), index.search(queries, filter=mask)
    )


@pytest.mark.parametrize("column", [list, pd.Series, polars_series, pa.array])
def test_a_filter_with_missing_bools_is_refused(rng, column):
    index = SparseIndex.build(random_codes(rng, 2))
    with pytest.raises(TypeError, match="entry 1 of the filter is None"):
        index.search(random_codes(rng, 1), top_k=1, filter=column([True, None]))


@pytest.mark.parametrize("name", ["top_k", "k", "threads", "rescore"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2.0, TypeError, "=2.0 is a float; pass an integer"),
        (2.5, TypeError, "=2.5 is a float"),
        (np.float64(2), TypeError, r"=.*2.0\)? is a float64"),
        (True, TypeError, "=True is a bool"),
        (np.True_, TypeError, "=.*True_? is a bool"),
        ("2", TypeError, "='2' is a str"),
        (0, ValueError, "=0 "),
        (-1, ValueError, "=-1 "),
        (10**30, ValueError, f"={10**30} is not within"),
    ],
)
def test_numbers_of_a_search_are_whole(rng, name, value, error, message):
    decoder = Decoder(rng.normal(size=(40, 6)), np.zeros(6))
    index = SparseIndex.build(random_codes(rng, 20), decoder=decoder)
    query = random_codes(rng, 1)
    options = {"rescore": 5, "queries_dense": np.ones((1, 6)), "top_k": 2}
    expected = index.search(query, **{**options, name: 2})
    assert_same(index.search(query, **{**options, name: np.int64(2)}), expected)
    if error is ValueError and value > 0 and name in ("threads", "rescore"):
        index.search(query, **{**options, name: value})  # there is no more to do than there is
        return
    with pytest.raises(error, match=name + message):
        index.search(query, **{**options, name: value})


def test_rows_that_do_not_fall_are_sorted():
    codes = SparseCodes(np.array([[0, 1]]), np.array([[0.6, 0.8]], np.float32), 4)
    falling = SparseCodes(np.array([[1, 0]]), np.array([[0.8, 0.6]], np.float32), 4)
    found, expected = (
        SparseIndex.build(each).search(falling, top_k=1, k=1) for each in (codes, falling)
    )
    assert found.scores[0, 0] == expected.scores[0, 0] == pytest.approx(0.8)


def test_where_values_are_0_latents_may_repeat():
    indices = np.array([[0, 1, 0], [2, 3, 2]])
    codes = SparseCodes(indices, np.array([[0.8, 0.6, 0], [0.8, 0.6, 0]], np.float32), 4)
    assert SparseIndex.build(codes).search(codes, top_k=1).ids.tolist() == [[0], [1]]


@pytest.mark.parametrize("size", [1e20, 1e-25])
def test_very_large_and_very_small_values_are_scaled(size):
    values = np.array([[0.8, 0.6]], np.float32) * np.float32(size)
    codes = SparseCodes(np.array([[0, 1]]), values, 4)
    assert SparseIndex.build(codes).search(codes, top_k=1).scores[0, 0] == pytest.approx(1)


def test_numbers_past_64_bits_are_refused(rng):
    index = SparseIndex.build(random_codes(rng, 1), ids=[2**63 - 1])
    with pytest.raises(ValueError, match="exceed 9223372036854775807; pass ids"):
        index.add(random_codes(rng, 1))


def test_a_decoder_of_another_head_is_refused(rng):
    with pytest.raises(ValueError, match="hidden_dim=39, the codes 40"):
        SparseIndex.build(random_codes(rng, 3), decoder=Decoder(np.ones((39, 2)), np.zeros(2)))


def test_missing_numba_names_what_to_install(rng, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("csr_st.search.kernels.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)
    load_kernels.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "csr-st\[search\]"'):
        SparseIndex.build(random_codes(rng, 3))


@pytest.mark.slow
def test_more_latents_than_16_bits_name(rng):
    indices = rng.integers(0, 100_000, size=(400, 3)) // 3 * 3 + np.arange(3)
    values = np.tile(np.array([0.8, 0.5, 0.33], np.float32), (400, 1))
    documents = SparseCodes(indices, values, 100_003).normalize()
    results = SparseIndex.build(documents).search(documents[:20], top_k=1)
    np.testing.assert_array_equal(results.ids[:, 0], np.arange(20))
