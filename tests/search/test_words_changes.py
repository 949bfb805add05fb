"""Adding, removing, saving and opening an index of words: scores are those of one built afresh."""

import copy
import itertools
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.search import SparseIndex

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

HIDDEN_DIM = 12


def random_codes(rng, n, k=3):
    indices = np.argsort(rng.random((n, HIDDEN_DIM)), axis=1)[:, :k].astype(np.uint8)
    values = -np.sort(-rng.integers(0, 4, size=(n, k)).astype(np.float32), axis=1)
    return SparseCodes(indices, values, HIDDEN_DIM).normalize()


def random_texts(rng, n, most=30):
    names = [f"word{number}" for number in range(60)]
    return [" ".join(rng.choice(names, rng.integers(0, most))) for _ in range(n)]


def assert_same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6, atol=1e-7)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


class Session:
    """An index, and its documents as rows of (id, code, text) from which another can be built."""

    def __init__(self, draw):
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.with_codes, self.fresh = draw(st.booleans()), itertools.count()
        self.rows = []
        self.index = SparseIndex.build(**self.new(8))

    def new(self, most):
        texts = random_texts(self.rng, self.draw(st.integers(1, most)))
        texts = [self.draw(st.sampled_from(["", "the", text, text])) for text in texts]
        codes = random_codes(self.rng, len(texts))
        ids = [next(self.fresh) for _ in texts]
        self.rows += zip(ids, codes, texts, strict=True)
        return {"codes": codes if self.with_codes else None, "ids": ids, "words": texts}

    def again(self):
        ids, codes, texts = zip(*self.rows, strict=True)
        joined = SparseCodes.concatenate(codes) if self.with_codes else None
        return SparseIndex.build(joined, ids=list(ids), words=list(texts))

    def add(self):
        self.index.add(**self.new(5))

    def remove(self):
        names = [row[0] for row in self.rows[1:]]
        gone = self.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        self.index.remove(gone)
        self.rows = [row for row in self.rows if row[0] not in gone]

    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(Path(folder) / "a.index")
            again = Path(folder) / "b.index"
            self.again().save(again)
            if list(self.index.ids) == [row[0] for row in self.rows]:
                assert len(again.read_bytes()) == len((Path(folder) / "a.index").read_bytes())
            verify = self.draw(st.booleans())
            self.index = SparseIndex.load(Path(folder) / "a.index", verify=verify)

    def pickle(self):
        self.index = pickle.loads(pickle.dumps(self.index))

    def search(self):
        asked = random_texts(self.rng, 3, 6)
        codes = random_codes(self.rng, 3, 6) if self.with_codes else None
        found = self.index.search(codes, len(self.index), words=asked)
        assert_same(found, self.again().search(codes, len(self.rows), words=asked))


def change_and_search(data):
    session = Session(data.draw)
    actions = st.sampled_from(["add", "remove", "search", "save_and_load", "pickle"])
    for action in [*data.draw(st.lists(actions, max_size=8)), "search"]:
        getattr(session, action)()


@settings(deadline=None)
@given(st.data())
def test_changes_equal_an_index_built_afresh(data):
    change_and_search(data)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_a_thousand_changed_indexes_equal_one_built_afresh(data):
    change_and_search(data)


@pytest.mark.parametrize(("more", "most"), [(20, 30), (20_000, 30), (3000, 90), (400, 900)])
def test_adding_to_blocks_equals_building_at_once(rng, more, most):
    texts = random_texts(rng, 40_000) + random_texts(rng, more, most)
    documents, asked = random_codes(rng, len(texts)), random_texts(rng, 8, 6)
    queries = random_codes(rng, 8)
    index = SparseIndex.build(documents[:40_000], words=texts[:40_000])
    index.search(queries, words=asked)
    index.add(documents[40_000:], words=texts[40_000:])
    whole = SparseIndex.build(documents, words=texts)
    assert_same(index.search(queries, words=asked), whole.search(queries, words=asked))
    gone = rng.permutation(len(texts))[:15_000]
    index.remove(gone)
    left = np.setdiff1d(np.arange(len(texts)), gone)
    whole = SparseIndex.build(documents[left], ids=left, words=[texts[row] for row in left])
    assert_same(index.search(queries, words=asked), whole.search(queries, words=asked))


def test_a_word_whose_documents_are_gone_counts_for_nothing():
    index = SparseIndex.build(words=["cat", "dog", "dog"], ids=["a", "b", "c"])
    index.remove(["a"])
    assert index.search(words=["cat"], top_k=2).scores.tolist() == [[0, 0]]
    index.add(words=["cat cat"], ids=["d"])
    fresh = SparseIndex.build(words=["dog", "dog", "cat cat"], ids=["b", "c", "d"])
    assert_same(index.search(words=["cat dog"], top_k=3), fresh.search(words=["cat dog"], top_k=3))


def test_copies_that_are_changed_apart_stay_apart():
    index = SparseIndex.build(words=["cat", "dog"])
    other = copy.copy(index)
    index.add(words=["bird"])
    other.add(words=["fish fish"])
    assert index.search(words=["bird fish"], top_k=3).ids[0, 0] == 2
    fresh = SparseIndex.build(words=["cat", "dog", "fish fish"])
    assert_same(other.search(words=["fish bird"], top_k=3), fresh.search(words=["fish bird"],
                top_k=3))  # fmt: skip


@pytest.mark.parametrize("value_bits", [None, 4])
@pytest.mark.parametrize("language", ["english", "german", str.split])
def test_load_gives_the_saved_index(rng, tmp_path, value_bits, language):
    codes, queries = random_codes(rng, 200), random_codes(rng, 4)
    codes = codes if value_bits is None else codes.pack(value_bits)
    texts, asked = [*random_texts(rng, 199), "\ud800 😀 häuser"], random_texts(rng, 4, 5)
    index = SparseIndex.build(codes, words=texts, language=language, weight=0.3)
    index.remove([3, 77])
    index.save(tmp_path / "a.index")
    given = language if callable(language) else None
    loaded = SparseIndex.load(tmp_path / "a.index", language=given)
    assert loaded.weight == 0.3
    assert repr(loaded) == repr(index)
    found = loaded.search(queries, words=asked)
    assert_same(found, index.search(queries, words=asked))
    loaded.save(tmp_path / "b.index")
    assert (tmp_path / "b.index").read_bytes() == (tmp_path / "a.index").read_bytes()


def metadata(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]


def test_only_files_with_words_have_the_new_version(rng, tmp_path):
    codes = random_codes(rng, 5)
    found = []
    for name, index in {
        "plain": SparseIndex.build(codes),
        "packed": SparseIndex.build(codes.pack(4)),
        "words": SparseIndex.build(codes, words=["cat"] * 5),
        "only": SparseIndex.build(words=["cat"] * 5),
    }.items():
        index.save(tmp_path / name)
        found.append(metadata(tmp_path / name)["version"])
    assert found == ["1", "2", "3", "3"]


def test_bytes_a_document(rng, tmp_path):
    texts = [" ".join(rng.permutation(60)[:20].astype(str)) for _ in range(2000)]
    SparseIndex.build(words=texts, language=str.split).save(tmp_path / "a.index")
    # 5 bytes a word and 8 a document; the header and the vocabulary do not grow.
    assert (tmp_path / "a.index").stat().st_size <= 2000 * (5 * 20 + 8) + 2000


def test_a_function_has_to_be_given_again(tmp_path):
    path = tmp_path / "a.index"
    codes = random_codes(np.random.default_rng(0), 2)
    SparseIndex.build(codes, words=["ab", "bc"], language=list).save(path)
    loaded = SparseIndex.load(path)
    for call in (
        lambda: loaded.search(codes, 1, words=["a", ""]),
        lambda: loaded.add(codes, words=["a", "b"]),
    ):
        with pytest.raises(ValueError, match="open it once more and pass language=function"):
            call()
    assert len(loaded.search(codes, 1).ids) == 2  # by codes alone
    again = SparseIndex.load(path, language=list)
    assert again.search(words=["c"], top_k=1).ids.tolist() == [[1]]
    with pytest.raises(ValueError, match="language='english' is not that of the file, whose texts"):
        SparseIndex.load(path, language="english")
    SparseIndex.build(words=["cat"]).save(path)
    assert SparseIndex.load(path, language="english").language == "english"
    with pytest.raises(ValueError, match="were split by 'english'"):
        SparseIndex.load(path, language=list)
    SparseIndex.build(codes).save(path)
    with pytest.raises(ValueError, match="has no words"):
        SparseIndex.load(path, language="english")


def test_codes_and_words_are_added_as_the_index_has_them(rng):
    codes = random_codes(rng, 2)
    both, only = SparseIndex.build(codes, words=["a1", "b1"]), SparseIndex.build(words=["a1"])
    for index, arguments, message in [
        (both, {"codes": codes}, "has words; pass words=, the text of each document, '' for"),
        (both, {"words": ["x"]}, "has codes; pass those of the documents"),
        (both, {"codes": codes, "words": ["x"]}, "1 texts for 2 documents"),
        (only, {"codes": codes, "words": ["x", "y"]}, "has only words; pass words= and no codes"),
        (only, {}, "has words; pass words="),
        (SparseIndex.build(codes), {"codes": codes, "words": ["x", "y"]}, "has no words; leave"),
    ]:
        before = len(index)
        with pytest.raises(ValueError, match=message):
            index.add(**arguments)
        assert len(index) == before


def test_an_index_of_no_texts_is_filled_emptied_and_filled(tmp_path):
    index = SparseIndex.build(words=[])
    index.save(tmp_path / "a.index")
    for empty in (copy.copy(index), SparseIndex.load(tmp_path / "a.index")):
        index = empty
        with pytest.raises(ValueError, match="the index is empty"):
            index.search(words=["cat"], top_k=1)
        index.add(words=["cat", ""])
        index.remove([0, 1])
        index.add(words=["", "dog"])
        found = index.search(words=["dog", ""], top_k=2)
        assert found.ids.tolist() == [[3, 2], [2, 3]]
        fresh = SparseIndex.build(words=["", "dog"], ids=[2, 3])
        assert_same(found, fresh.search(words=["dog", ""], top_k=2))
        assert index.search(words=[], top_k=1).ids.shape == (0, 1)


@pytest.mark.parametrize("kind", ["tuple", "generator", "numpy", "objects", "pandas", "pyarrow"])
def test_texts_may_be_in_any_column(kind):
    texts = ["cats and dogs", "", "naïve fish"]
    column = {
        "tuple": lambda: tuple(texts),
        "generator": lambda: (text for text in texts),
        "numpy": lambda: np.array(texts),
        "objects": lambda: np.array(texts, dtype=object),
        "pandas": lambda: pytest.importorskip("pandas").Series(texts, index=[7, 8, 9]),
        "pyarrow": lambda: pytest.importorskip("pyarrow").array(texts),
    }[kind]()
    expected = SparseIndex.build(words=texts).search(words=texts, top_k=3)
    assert_same(SparseIndex.build(words=column).search(words=texts, top_k=3), expected)


def test_impacts_of_another_mean_length_find_the_same_documents(monkeypatch):
    """However far the mean length may move before impacts are computed anew."""
    monkeypatch.setattr("csr_st.search.word_postings._DRIFT", 2.0)
    short = [f"cat {'x1 ' * (9 + number % 3)}" for number in range(20)]
    long = [f"{'cat ' * 6}{'x1 ' * (850 + number)}" for number in range(20)]
    texts = short + long + ["x1 " * 100] * 16_344  # a complete block, which is kept
    index = SparseIndex.build(words=texts, language=str.split)
    assert index.search(words=["cat"]).ids.max() < 20
    more = ["x2 " * 300] * 16_384
    index.add(words=more)
    found = index.search(words=["cat"])
    assert index._live._word_postings.mean_length < 110
    assert found.ids.min() >= 20
    fresh = SparseIndex.build(words=texts + more, language=str.split)
    assert_same(found, fresh.search(words=["cat"]))
