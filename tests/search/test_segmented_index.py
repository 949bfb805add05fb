"""The index in a folder: what it finds, what it refuses, and what lies in its files."""

import json
import threading

import numpy as np
import pytest

import csr_st
from csr_st import SegmentedIndex, SparseIndex
from csr_st.codes import SparseCodes
from csr_st.search import Decoder, explain, large_postings, live
from csr_st.search.pruned_postings import PrunedPostings
from csr_st.search.segments import folder as folder_module
from csr_st.search.segments import large_files
from csr_st.search.segments.merging import chosen

pytest.importorskip("numba")
HIDDEN_DIM = 64
NAMES = ["wing", "lift", "yeast", "bread", "glider", "engine", "zebra"]


def random_codes(seed, n, k=4):
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((n, HIDDEN_DIM)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, HIDDEN_DIM).normalize()


def texts(seed, n):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(NAMES, rng.integers(1, 9))) for _ in range(n)]


@pytest.fixture
def queries():
    return random_codes(1, 6)


@pytest.fixture
def decoder():
    rng = np.random.default_rng(0)
    return Decoder(rng.normal(size=(HIDDEN_DIM, 6)), rng.normal(size=6))


@pytest.fixture
def both(tmp_path, decoder):
    """The same documents in several segments, some of them removed, and in one SparseIndex."""
    codes, words = random_codes(0, 60), texts(0, 60)
    segmented = SegmentedIndex.create(
        tmp_path / "index", codes, decoder=decoder, words=words, merging="asked"
    )
    one = SparseIndex.build(codes, decoder=decoder, words=words)
    for seed in range(2, 8):
        for index in (segmented, one):
            index.add(random_codes(seed, 9), words=texts(seed, 9))
    for index in (segmented, one):
        index.remove([3, 59, 60, 61, 100])
    return segmented, one


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


REQUESTS = [
    {},
    {"k": 2},
    {"words": texts(99, 6)},
    {"words": [*texts(98, 5), "unheard"], "weight": 2.0},
    {"filter": [1, 2, 62, 90, 113]},
    {"boost": {3: 2.0, 7: 0.0}},
    {"rescore": 20, "queries_dense": np.random.default_rng(3).normal(size=(6, 6))},
    {"rescore": 20, "queries_dense": np.ones((6, 6)), "words": texts(97, 6), "metric": "dot"},
    {"approximate": 0.9},
]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("top_k", [1, 5, 40])
def test_segments_give_what_one_index_gives(both, queries, request_, top_k):
    segmented, one = both
    top_k = min(top_k, request_.get("rescore", 40))
    assert segmented.n_segments == 7
    assert same(
        segmented.search(queries, top_k, **request_), one.search(queries, top_k, **request_)
    )


def test_a_bool_filter_goes_along_the_ids(both, queries):
    segmented, one = both
    assert np.array_equal(segmented.ids, one.ids)
    even = one.ids % 2 == 0
    assert same(segmented.search(queries, filter=even), one.search(queries, filter=even))
    with pytest.raises(ValueError, match="one entry for each of the 109 documents"):
        segmented.search(queries, filter=even[:-1])


def test_the_words_alone_can_be_searched_and_indexed(tmp_path):
    segmented = SegmentedIndex.create(tmp_path / "index", words=texts(0, 20), merging="asked")
    one = SparseIndex.build(words=texts(0, 20))
    for index in (segmented, one):
        index.add(words=texts(1, 15))
        index.remove([4, 22])
    for _ in range(2):
        asked = {"words": texts(2, 5), "top_k": 8}
        assert same(segmented.search(**asked), one.search(**asked))
        segmented.merge()
    assert segmented.n_segments == 1


def test_merged_segments_give_the_same(both, queries):
    segmented, one = both
    segmented.merge()
    assert (segmented.n_segments, len(segmented)) == (1, len(one))
    for request in REQUESTS:
        assert same(segmented.search(queries, 5, **request), one.search(queries, 5, **request))
    for index in both:
        index.add(random_codes(9, 3), words=texts(9, 3))
    assert np.array_equal(segmented.ids, one.ids)  # numbers that were used are not used again


def test_it_is_written_as_one_file_and_made_of_another_index(both, queries, tmp_path):
    segmented, one = both
    segmented.save(tmp_path / "one.index")
    loaded = SparseIndex.load(tmp_path / "one.index")
    copied = SegmentedIndex.from_index(tmp_path / "copied", segmented)
    again = SegmentedIndex.from_index(tmp_path / "again", loaded)
    assert (copied.n_segments, again.n_segments) == (1, 1)
    for request in REQUESTS:
        expected = one.search(queries, 5, **request)
        for index in (loaded, copied, again):
            assert same(index.search(queries, 5, **request), expected)
    with pytest.raises(FileExistsError, match="has an index"):
        SegmentedIndex.from_index(tmp_path / "copied", one)
    with pytest.raises(TypeError, match="index is a SparseCodes; pass a SparseIndex or a Segm"):
        SegmentedIndex.from_index(tmp_path / "new", queries)


def test_it_is_made_of_packed_codes_residual_bits_and_words_of_a_function(tmp_path, model):
    lines = texts(0, 40)
    codes = csr_st.encode(model, lines, k=8, residual_bits=1).pack(value_bits=4)
    queries = csr_st.encode(model, ["a wing", "some bread"], k=16, role="query")
    one = SparseIndex.build(codes, [f"d{n}" for n in range(40)], words=lines, language=split)
    made = SegmentedIndex.from_index(tmp_path / "made", one)
    made.add(csr_st.encode(model, ["a zebra"], k=8, residual_bits=1), ["new"], words=["a zebra"])
    made.remove(["new"])
    asked = {"words": ["wing", "bread"], "top_k": 9}
    assert same(made.search(queries, **asked), one.search(queries, **asked))
    made.save(tmp_path / "one.index")
    loaded = SparseIndex.load(tmp_path / "one.index", language=split)
    assert same(loaded.search(queries, **asked), one.search(queries, **asked))


@pytest.mark.parametrize("kind", ["one", "segments"])
def test_stored_codes_come_back_in_the_order_of_ids(tmp_path, kind):
    first, second = random_codes(0, 60), random_codes(2, 9)
    if kind == "one":
        index = SparseIndex.build(first)
    else:
        index = SegmentedIndex.create(tmp_path / "index", first, merging="asked")
    index.add(second)
    index.remove([3])
    expected = SparseCodes.concatenate([first, second])[[68, 2, 61, 2]]
    found = index.codes([68, 2, 61, 2])
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-7)
    assert index.search(found, top_k=1).ids[:, 0].tolist() == [68, 2, 61, 2]
    assert index.codes([]).indices.shape == (0, 4)
    with pytest.raises(ValueError, match="id 3 is not in the index of 68 documents"):
        index.codes([2, 3])


def test_an_explanation_is_that_of_one_index(both, queries):
    segmented, one = both
    for document in (5, 63, 113):
        found = explain(segmented, queries[:1], document, words="wing lift yeast")
        expected = explain(one, queries[:1], document, words="wing lift yeast")
        assert found.score == pytest.approx(expected.score)
        assert found.words == pytest.approx(expected.words)
        assert found.latents == expected.latents


def test_another_handle_sees_changes_when_it_asks(both, queries):
    segmented, _ = both
    other = SegmentedIndex.open(segmented.path)
    before = other.search(queries)
    segmented.add(queries, ids=range(1000, 1006), words=["wing"] * 6)
    segmented.remove([7])
    segmented.merge()
    assert same(other.search(queries), before)  # though its files are gone
    assert other.refresh()
    assert not other.refresh()
    assert same(other.search(queries), segmented.search(queries))
    assert other.search(queries, 1).ids[:, 0].tolist() == list(range(1000, 1006))
    other.remove([1000])  # it writes too
    assert segmented.refresh()
    assert 1000 not in segmented.ids


def test_replaced_documents_are_found_once(both, queries):
    segmented, _ = both
    n = len(segmented)
    with pytest.raises(ValueError, match="id 8 is in the index; remove it first, pass replace"):
        segmented.add(queries, ids=[8, 62, 500, 501, 502, 503], words=[""] * 6)
    assert len(segmented) == n
    segmented.add(queries, ids=[8, 62, 500, 501, 502, 503], words=[""] * 6, replace=True)
    assert len(segmented) == n + 4
    assert segmented.search(queries, 1).ids[:, 0].tolist() == [8, 62, 500, 501, 502, 503]
    assert len(set(segmented.ids.tolist())) == n + 4


@pytest.mark.parametrize("ids", [[2**62, 5, 0], ["b", "a", "ä/ß"], [7, 8, 9]])
def test_ids_of_every_kind(tmp_path, queries, ids):
    index = SegmentedIndex.create(tmp_path / "index", queries[:2], ids[:2], merging="asked")
    index.add(queries[2:3], ids[2:])
    index = SegmentedIndex.open(tmp_path / "index")
    assert index.search(queries[:3], 1).ids[:, 0].tolist() == ids
    index.remove(ids[1:2])
    index.merge()
    assert sorted(index.ids.tolist()) == sorted([ids[0], ids[2]])
    other = "x" if isinstance(ids[0], int) else 3
    with pytest.raises(TypeError, match="the ids of this index are"):
        index.add(queries[3:4], [other])
    with pytest.raises(ValueError, match=r"is not in the index of 2 documents"):
        index.remove([ids[0], "q" if other == 3 else 77])
    assert len(index) == 2


def test_all_documents_can_be_removed_and_others_added(tmp_path, queries):
    index = SegmentedIndex.create(tmp_path / "index", queries, merging="asked")
    index.remove(range(6))
    assert len(index) == 0
    with pytest.raises(ValueError, match="the index is empty"):
        index.search(queries)
    index.merge()
    index = SegmentedIndex.open(tmp_path / "index", merging="asked")
    index.add(queries)
    assert index.search(queries, 1).ids[:, 0].tolist() == [6, 7, 8, 9, 10, 11]


def test_codes_come_from_a_store_shard_by_shard(tmp_path, model):
    store = csr_st.CodeStore.encode(model, [f"text {i}" for i in range(50)], tmp_path / "codes",
                                    k=4, shard_rows=16, show_progress=False)  # fmt: skip
    index = SegmentedIndex.create(tmp_path / "index", store, merging="asked")
    asked = csr_st.encode(model, ["text 3", "text 49"], k=4)
    assert same(index.search(asked), SparseIndex.build(store.codes()).search(asked))
    index.add(store, ids=range(100, 150))
    assert len(index) == 100


def test_packed_codes_and_residual_bits_keep_their_values(tmp_path, queries):
    packed = random_codes(0, 30).pack(4)
    index = SegmentedIndex.create(tmp_path / "index", packed, merging="asked")
    index.add(random_codes(2, 30).pack(4))
    one = SparseIndex.build(packed)
    one.add(random_codes(2, 30).pack(4))
    assert same(index.search(queries), one.search(queries))


def test_the_dot_product_ranks_by_values_as_they_are(tmp_path):
    codes = [random_codes(seed, 20).raw() for seed in (0, 2)]
    scaled = SparseCodes(codes[1].indices, codes[1].values * 9, HIDDEN_DIM)
    index = SegmentedIndex.create(tmp_path / "index", codes[0], similarity="dot", merging="asked")
    index.add(scaled)
    one = SparseIndex.build(codes[0], similarity="dot")
    one.add(scaled)
    asked = random_codes(1, 4).raw()
    assert same(index.search(asked), one.search(asked))
    index.merge()
    assert same(index.search(asked), one.search(asked))


def split(text):
    return text.lower().split()


def test_a_function_that_splits_texts_is_given_again(tmp_path):
    folder = tmp_path / "index"
    SegmentedIndex.create(folder, words=["a b", "b c"], language=split).add(words=["c d"])
    asked = {"words": ["d c"], "top_k": 1}
    assert SegmentedIndex.open(folder, language=split).search(**asked).ids.tolist() == [[2]]
    with pytest.raises(ValueError, match="split by a function"):
        SegmentedIndex.open(folder).search(**asked)


def test_a_large_segment_opens_with_its_inverted_index(tmp_path, queries, monkeypatch):
    for module in (large_postings, live, large_files):
        monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(large_postings, "_MOST_ENTRIES", 9.0)
    codes = random_codes(0, 3000)
    expected = SparseIndex.build(codes[:99])  # of the other kind
    monkeypatch.setattr(large_postings, "LARGE", 10**9)
    expected = SparseIndex.build(codes).search(queries)
    monkeypatch.setattr(large_postings, "LARGE", 100)
    index = SegmentedIndex.create(tmp_path / "index", codes, merging="asked")
    assert (tmp_path / "index" / "00000001.postings").exists()
    monkeypatch.setattr(PrunedPostings, "build", None)  # nothing is built again
    for verify in (False, True):
        opened = SegmentedIndex.open(tmp_path / "index", verify=verify)
        assert same(opened.search(queries), expected)
    monkeypatch.undo()
    for module in (large_postings, live, large_files):
        monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(large_postings, "_MOST_ENTRIES", 9.0)
    index.add(random_codes(2, 50))
    index.remove([0, 3001])
    before = index.search(queries)
    index.merge()
    assert same(index.search(queries), before)
    (tmp_path / "index" / "00000003.postings").write_bytes(b"12345678")
    with pytest.raises(ValueError, match=r"00000003\.postings is"):
        SegmentedIndex.open(tmp_path / "index")
    (tmp_path / "index" / "00000003.postings").unlink()
    assert same(SegmentedIndex.open(tmp_path / "index").search(queries), before)


def test_an_inverted_index_that_a_killed_change_left_is_of_no_later_segment(
    tmp_path, queries, monkeypatch
):
    for module in (large_postings, live, large_files):
        monkeypatch.setattr(module, "LARGE", 100)
    monkeypatch.setattr(large_postings, "_MOST_ENTRIES", 9.0)
    index = SegmentedIndex.create(tmp_path / "index", random_codes(0, 500), merging="asked")
    left = (index.path / "00000001.postings").read_bytes()
    (index.path / "00000002.postings").write_bytes(left)  # killed before its state was written
    index.add(random_codes(2, 50))
    one = SparseIndex.build(SparseCodes.concatenate([random_codes(0, 500), random_codes(2, 50)]))
    opened = SegmentedIndex.open(index.path)
    assert same(opened.search(queries), one.search(queries))
    other = SegmentedIndex.create(tmp_path / "other", random_codes(3, 500), merging="asked")
    (other.path / "00000001.postings").write_bytes(left)  # of as many documents
    with pytest.raises(ValueError, match=r"00000001\.postings is damaged or of another segment"):
        SegmentedIndex.open(other.path)


def test_what_goes_wrong_after_a_change_happened_is_no_error(tmp_path, queries, monkeypatch):
    index = SegmentedIndex.create(tmp_path / "index", queries)

    def failing(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.Path, "iterdir", failing)  # of removing old files
        patch.setattr(threading.Thread, "start", failing_thread)
        index.add(random_codes(2, 10))
    assert len(index) == len(SegmentedIndex.open(index.path)) == 16


def failing_thread(*_):
    raise RuntimeError("can't start new thread")


def test_segments_are_merged_in_the_background(tmp_path, queries):
    with SegmentedIndex.create(tmp_path / "index", queries) as index:
        for seed in range(40):
            index.add(random_codes(seed, 3))
    assert index.n_segments <= 16
    assert len(index) == 126
    assert sorted(index.ids.tolist()) == list(range(126))


@pytest.mark.parametrize(
    ("sizes", "present", "expected"),
    [
        ([10] * 7, None, None),
        ([10] * 8, None, (0, 8)),
        ([9000, *[10] * 8], None, (1, 9)),
        ([9000] * 8, None, (0, 8)),
        ([9000] * 7 + [10], None, None),
        ([9000] * 7 + [10, 9000], None, (0, 9)),
        ([100_000, 9000, 9000], [40_000, 9000, 9000], (0, 1)),
        ([100_000, 9000, 9000], [60_000, 9000, 9000], None),
        ([1, 100_000] * 8, None, (0, 16)),
    ],
)
def test_which_segments_are_merged(sizes, present, expected):
    assert chosen(sizes, present or sizes) == expected


def test_each_document_is_copied_a_few_times_only():
    sizes, copied = [], 0
    for _ in range(20_000):
        sizes.append(10)
        while (run := chosen(sizes, sizes)) is not None:
            total = sum(sizes[slice(*run)])
            sizes[slice(*run)] = [total]
            copied += total
    assert copied < 10 * 200_000
    assert len(sizes) <= 40


def test_what_cannot_be_created_or_added_says_why(tmp_path, queries, both):
    segmented, _ = both
    n = len(segmented)
    with pytest.raises(FileExistsError, match="has an index; open it"):
        SegmentedIndex.create(segmented.path, queries)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"has other files \(a\.txt\)"):
        SegmentedIndex.create(tmp_path / "notes", queries)
    with pytest.raises(FileNotFoundError):
        SegmentedIndex.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="there is nothing to index"):
        SegmentedIndex.create(tmp_path / "new")
    with pytest.raises(ValueError, match="merging='never' is not"):
        SegmentedIndex.open(segmented.path, merging="never")
    with pytest.raises(ValueError, match="this index has words; pass words="):
        segmented.add(queries)
    with pytest.raises(ValueError, match="this index has codes"):
        segmented.add(words=["wing"])
    with pytest.raises(ValueError, match="k=3; this index has"):
        segmented.add(queries.prefix(3), words=[""] * 6)
    with pytest.raises(TypeError, match="codes are ndarray"):
        segmented.add(np.ones((6, 4)), words=[""] * 6)
    with pytest.raises(ValueError, match="is given twice"):
        segmented.add(queries, ids=[1000] * 6, words=[""] * 6)
    assert len(segmented) == n
    assert len(SegmentedIndex.open(segmented.path)) == n


def test_a_store_of_another_length_than_it_says_changes_nothing(tmp_path, queries):
    class Liar:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def shards(self):
            return iter([queries, queries])

    index = SegmentedIndex.create(tmp_path / "index", Liar(12), merging="asked")
    for n in (11, 13):
        with pytest.raises(ValueError, match="codes"):
            index.add(Liar(n))
    assert len(SegmentedIndex.open(tmp_path / "index")) == 12
    index.add(queries)
    assert {path.name for path in index.path.glob("*.*")} >= {"00000001.index", "segments.json"}
    assert len(list(index.path.glob("*.index"))) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda state: "{",
        lambda state: json.dumps({**state, "format": "other"}),
        lambda state: json.dumps({**state, "format_version": 99}),
        lambda state: json.dumps({**state, "entries": []}),
        lambda state: json.dumps({**state, "entries": [{"number": -1, "n": 2, "removed": None}]}),
        lambda state: json.dumps({**state, "entries": state["entries"] * 2}),
        lambda state: json.dumps({**state, "next_id": "7"}),
        lambda state: json.dumps({**state, "entries": [{**state["entries"][0], "n": 61}]}),
        lambda state: json.dumps([state]),
    ],
)
def test_a_damaged_state_is_refused(both, change):
    path = both[0].path / "segments.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=r"segments\.json|has 60 documents where 61"):
        SegmentedIndex.open(both[0].path)


def test_damaged_files_are_refused(both):
    segmented, _ = both
    segmented.verify()
    for path in sorted(segmented.path.glob("0*")):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(ValueError, match=path.name):
            SegmentedIndex.open(segmented.path)
        if path.suffix == ".index":
            altered = bytearray(content)
            altered[-1] ^= 1
            path.write_bytes(altered)
            with pytest.raises(ValueError, match=path.name):
                segmented.verify()
        path.unlink()
        with pytest.raises(FileNotFoundError):
            SegmentedIndex.open(segmented.path)
        path.write_bytes(content)
    segmented.verify()


def test_what_a_killed_process_left_is_removed_by_the_next_change(both, queries):
    segmented, _ = both
    for name in ("00000099.index", "00000099.removed", ".merging-1.index", ".abc.part"):
        (segmented.path / name).write_bytes(b"left")
    segmented.add(queries, words=[""] * 6)
    names = {path.name for path in segmented.path.iterdir()}
    assert not {"00000099.index", "00000099.removed", ".merging-1.index", ".abc.part"} & names
    assert len(SegmentedIndex.open(segmented.path)) == len(segmented)
