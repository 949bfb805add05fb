"""One contract for all stores: the exact index and every engine, each on the real thing."""

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from stores import CLIENT_WARNINGS, HIDDEN_DIM, KINDS, needs, open_engine, random_codes, start

from csr_st.codes import SparseCodes
from csr_st.search import SearchResults, SegmentedIndex, SparseIndex

pytestmark = [pytest.mark.engines, *CLIENT_WARNINGS]
STORES = {
    "exact": ("SparseIndex", "numba"),
    "segments": ("SegmentedIndex", "numba"),
    **KINDS,
    "seismic": ("SeismicEngine", "seismic"),
}
TOLERANCE = {"seismic": 5e-3}  # it stores values as float16
IN_MEMORY = {"seismic"}


class SavedIndex:
    """`SparseIndex` as a store that others can take the place of: each batch is saved."""

    def __init__(self, path, id_type="int"):
        self.path, self.id_type = Path(path), id_type
        self.index = SparseIndex.load(path) if self.path.exists() else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __len__(self):
        return 0 if self.index is None else len(self.index)

    def add(self, codes, ids, batch_size=1000, progress=False):
        ids = list(ids)
        written = 0
        present = set() if self.index is None else set(self.index.ids.tolist())
        if present.isdisjoint(ids) and len(ids) <= batch_size:
            self._write(codes, ids)
            return len(ids)
        new = [row for row, key in enumerate(ids) if key not in present]
        for first in range(0, len(new), batch_size):
            rows = new[first : first + batch_size]
            self._write(codes[rows], [ids[row] for row in rows])
            written += len(rows)
        return written

    def _write(self, codes, ids):
        if self.index is None:
            self.index = SparseIndex.build(codes, ids)
        else:
            self.index.add(codes, ids)
        self.index.save(self.path)

    def remove(self, ids):
        self.index.remove(ids)
        self.index.save(self.path)

    def search(self, codes, top_k=10, filter=None):
        return self.index.search(codes, top_k, filter=filter)


class Folder(SavedIndex):
    """`SegmentedIndex`, which is durable by itself."""

    def __init__(self, path, id_type="int"):
        self.path, self.id_type = Path(path), id_type
        there = (self.path / "segments.json").exists()
        self.index = SegmentedIndex.open(path) if there else None

    def __exit__(self, *_):
        if self.index is not None:
            self.index.close()

    def _write(self, codes, ids):
        if self.index is None:
            self.index = SegmentedIndex.create(self.path, codes, ids)
        else:
            self.index.add(codes, ids)

    def remove(self, ids):
        self.index.remove(ids)


def open_store(kind, place, name, id_type="int"):
    if kind in ("exact", "segments"):
        return {"exact": SavedIndex, "segments": Folder}[kind](place, id_type)
    if kind == "seismic":
        from csr_st.search.engines.seismic import SeismicEngine

        # Summaries of all values are bounds: the search is exact.
        return SeismicEngine(HIDDEN_DIM, summary_energy=1.0, id_type=id_type)
    return open_engine(kind, place, name, id_type=id_type)


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    """Kind, place and name of a store of this test alone, for `open_store`."""
    needs(*STORES[request.param][1:])
    if request.param == "pgvector":
        place = request.getfixturevalue("postgres")
    else:
        place = str(
            tmp_path / {"milvus": "m.db", "exact": "documents.index"}.get(request.param, "q")
        )
    return request.param, place, f"s{abs(hash(request.node.name))}"


def assert_finds(results, queries, documents, ids, store, top_k=10):
    """Results are the best of these documents by a product of dense matrices."""
    tolerance = TOLERANCE.get(store[0], 1e-5)
    scores = queries.to_dense() @ documents.to_dense().T
    row_of = {key: row for row, key in enumerate(ids)}
    assert results.ids.shape == results.scores.shape == (len(queries), top_k)
    for query, (found, found_scores) in enumerate(zip(results.ids, results.scores, strict=True)):
        best = np.sort(scores[query])[::-1][:top_k]
        best = best[best > 0]  # databases leave out documents that share no latent
        hits = [key for key in found.tolist() if key in row_of]
        assert len(set(hits)) == len(hits) >= len(best)
        own = [scores[query, row_of[key]] for key in hits[: len(best)]]
        np.testing.assert_allclose(own, best, atol=tolerance)
        np.testing.assert_allclose(found_scores[: len(best)], best, atol=tolerance)
        rest = zip(found[len(best) :], found_scores[len(best) :], strict=True)
        for key, score in rest:
            assert (key in row_of and score == 0) or (key in (-1, None) and score == -np.inf)


def test_add_search_filter_remove_and_reopen(store):
    documents, queries = random_codes(0, 300), random_codes(1, 8)
    ids = [n * 3 + 1 for n in range(300)]
    with open_store(*store) as opened:
        opened.add(documents, ids=ids, batch_size=100, progress=False)
        assert len(opened) == 300
        found = opened.search(queries, top_k=10)
        assert isinstance(found, SearchResults)
        assert_finds(found, queries, documents, ids, store)

        some = list(range(5, 300, 7))
        chosen = [ids[row] for row in some]
        found = opened.search(queries, top_k=10, filter=np.array(chosen))
        assert_finds(found, queries, documents[some], chosen, store)
        found = opened.search(queries, top_k=10, filter=chosen[:2])
        assert_finds(found, queries, documents[some[:2]], chosen[:2], store)
        found = opened.search(queries, top_k=3, filter=[])
        assert found.ids.tolist() == [[-1] * 3] * 8
        with pytest.raises(ValueError, match="id 5 is not "):
            opened.search(queries, top_k=10, filter=[4, 5])

        opened.remove(chosen)
        left = [row for row in range(300) if row not in some]
        assert len(opened) == len(left)
        kept = [ids[row] for row in left]
        found = opened.search(queries, top_k=10)
        assert_finds(found, queries, documents[left], kept, store)
        with pytest.raises(ValueError, match=f"id {chosen[0]} is not "):
            opened.remove([kept[0], chosen[0]])
        assert len(opened) == len(left)

        # Under an id that is free again, the new document is found.
        others = random_codes(2, len(some))
        opened.add(others, ids=chosen, progress=False)
        everything = SparseCodes.concatenate([documents[left], others])
        assert_finds(opened.search(queries), queries, everything, kept + chosen, store)

    with open_store(*store) as opened:
        if store[0] in IN_MEMORY:
            assert len(opened) == 0
            opened.add(everything, ids=kept + chosen, progress=False)
        assert len(opened) == 300
        assert_finds(opened.search(queries), queries, everything, kept + chosen, store)
        opened.remove(chosen)
    with open_store(*store) as opened:
        assert len(opened) == (0 if store[0] in IN_MEMORY else len(left))


STRINGS = [
    "", " ", "a", "A", "1", "01", "-1", "é", "e\u0301", "文档", "🙂", "a'b", 'a"b', "back\\slash",
    "\\n", "new\nline", "tab\t", "100%", "{0}", "id in [1]", "'; DROP TABLE t; --", "None",
    "\u2028",
    "12345678-1234-5678-1234-567812345678", "x" * 1024, "ü" * 512,
]  # fmt: skip
INTEGERS = [0, 1, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1]


@pytest.mark.parametrize("ids", [STRINGS, INTEGERS, np.array(INTEGERS, np.uint64)])
def test_ids_of_every_kind(store, ids):
    n = len(ids)
    id_type = "str" if ids is STRINGS else "int"
    plain = [key if isinstance(key, str) else int(key) for key in ids]
    indices = np.arange(n, dtype=np.uint32)[:, None]
    codes = SparseCodes(indices, np.ones((n, 1), np.float32), HIDDEN_DIM)
    odd = range(1, n, 2)
    with open_store(*store, id_type) as opened:
        assert opened.add(codes, ids=ids, progress=False) == n
        assert opened.add(codes, ids=ids, progress=False) == 0
        found = opened.search(codes, top_k=1)
        assert found.ids[:, 0].tolist() == plain
        assert found.ids.dtype == (object if id_type == "str" else np.int64)
        for row in range(n):
            assert opened.search(codes[row], top_k=1, filter=[plain[row]]).ids[0, 0] == plain[row]
        opened.remove([plain[row] for row in odd])
        # Without a hit a row has a document of score 0, or none.
        found = opened.search(codes, top_k=1)
        hit = found.scores[:, 0] > 0
        assert hit.tolist() == [row % 2 == 0 for row in range(n)]
        assert found.ids[hit, 0].tolist() == plain[::2]
    if store[0] in IN_MEMORY:
        return
    with open_store(*store, id_type) as opened:
        assert len(opened) == len(plain[::2])
        assert opened.add(codes, ids=ids, progress=False) == len(odd)
        assert opened.search(codes, top_k=1).ids[:, 0].tolist() == plain


def test_ids_that_cannot_be_stored_are_refused(store):
    codes = random_codes(0, 2)
    with open_store(*store) as opened:
        opened.add(codes, ids=[1, 2], progress=False)
        for ids, error in [
            ([3, -4], ValueError), ([3, 3], ValueError), ([3, 2**63], ValueError),
            ([3], ValueError), ([3.5, 4], TypeError), ([True, False], TypeError),
            ([None, 3], TypeError), ([3, "4"], TypeError), (["3", "4"], TypeError),
        ]:  # fmt: skip
            with pytest.raises(error, match=r"\bids?\b"):
                opened.add(codes, ids=ids, progress=False)
        for refused in (["1"], [1.5], "1"):
            with pytest.raises(TypeError, match=r"\bids\b"):
                opened.remove(refused)
        with pytest.raises(TypeError, match=r"\bids\b"):
            opened.search(codes, top_k=1, filter=["1"])
        assert len(opened) == 2


def test_strings_that_databases_cannot_store_are_refused(store):
    codes = random_codes(0, 2)
    if store[0] == "exact":  # its file holds any string of valid Unicode
        strings = ["b\0", "b" * 1025]
        with open_store(*store, "str") as opened:
            opened.add(codes, ids=strings)
        assert open_store(*store, "str").search(codes, 1).ids[:, 0].tolist() == strings
        return
    with open_store(*store, "str") as opened:
        for ids, error, message in [
            (["a", "b\0"], ValueError, "control character"),
            (["a", "b" * 1025], ValueError, "of row 1 has 1025 bytes"),
            (["a", "\ud800"], ValueError, "lone surrogate"),
            ([1, 2], TypeError, "takes string ids, not int"),
            (None, TypeError, "has string ids; pass ids"),
        ]:
            with pytest.raises(error, match=message):
                opened.add(codes, ids=ids, progress=False)
        with pytest.raises(KeyError, match="'a' is not stored"):
            opened.payloads(["a"])
        opened.add(codes, ids=["a", "b"], payloads=[{"n": 1}, {"n": 2}], progress=False)
        assert opened.payloads(["b", "a"]) == [{"n": 2}, {"n": 1}]
    with pytest.raises(ValueError, match="id_type='text' is unknown; pass 'int' or 'str'"):
        open_store(*store, "text")
    if store[0] not in IN_MEMORY:
        with pytest.raises(ValueError, match="has string ids; open it with id_type='str'"):
            open_store(*store, "int")
        with open_store(*store, "str") as opened:  # the refusal has let go of the store
            assert len(opened) == 2


def load_strings(store, n, batch_size, each_batch=lambda: None):
    """Load n documents, as the child that gets killed does."""
    with open_store(*store, "str") as opened:
        write = opened._write

        def write_and_report(*arguments):
            write(*arguments)
            each_batch()

        opened._write = write_and_report
        ids = [f"document {row}" for row in range(n)]
        opened.add(random_codes(0, n), ids=ids, batch_size=batch_size, progress=False)


@pytest.mark.slow
def test_a_load_that_was_killed_is_loaded_again(store):
    n, batch_size = 400, 20
    script = """
from test_stores import load_strings
store, sizes = sys.argv[1:4], map(int, sys.argv[4:])
load_strings(store, *sizes, each_batch=lambda: print("written", flush=True))
"""
    process = start(script, *store, n, batch_size)
    late = threading.Timer(120, process.kill)
    late.start()
    for _ in range(3):
        assert process.stdout.readline().strip() == "written"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    late.cancel()
    assert process.returncode == -signal.SIGKILL
    documents, queries = random_codes(0, n), random_codes(1, 5)
    ids = [f"document {row}" for row in range(n)]
    with open_store(*store, "str") as opened:
        half = len(opened)
        if store[0] in IN_MEMORY:
            assert half == 0
        else:
            assert 3 * batch_size <= half < n
        assert opened.add(documents, ids=ids, batch_size=100, progress=False) == n - half
        assert len(opened) == n
        assert_finds(opened.search(queries), queries, documents, ids, store)
