"""Which data fits a store that is there, and data in tables."""

from __future__ import annotations

import collections

import datasets
import numpy as np
import pytest
import torch
from embedding_stub import DIM, StubModel, vector_of
from PIL import Image

from csr_st.data.item_bytes import content_of
from csr_st.embeddings import EmbeddingStore

TEXTS = [f"text {i}" for i in range(20)]


class Encoder(StubModel):
    """Takes anything, and gives the same vector for all."""

    def encode(self, items, **options):
        del options
        self.embedded += len(items)
        return np.ones((len(items), DIM), np.float32)


class Places:
    """Neither a Sequence nor to be sliced: items by number, as torch's data sets have them."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[int(place)]

    def __iter__(self):
        return iter(self.items)


def stream(texts):
    return datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset()


def series(texts):
    import pandas

    return pandas.Series(texts, index=[f"row {i}" for i in range(len(texts))])


KINDS = {
    "list": list,
    "generator": iter,
    "stream": stream,
    "array": np.array,
    "series": series,
    "deque": collections.deque,
    "places": Places,
}


def embed(data, path, **options):
    model = Encoder()
    store = EmbeddingStore.embed(model, data, path, shard_rows=4, **options)
    return len(store), model.embedded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 8])
def test_a_complete_store_is_opened_for_the_same_data_and_no_other(tmp_path, kind, n):
    make, path = KINDS[kind], tmp_path / "s"
    assert embed(make(TEXTS[:n]), path) == (n, n)
    assert embed(make(TEXTS[:n]), path) == (n, 0)
    changed = [*TEXTS[: n - 1], "other"]
    for other in (TEXTS[: n + 1], TEXTS, TEXTS[:4], TEXTS[:3], changed):
        with pytest.raises(ValueError, match=r"made from other data: .*Pass another path, or"):
            embed(make(other), path)
    assert embed(make(TEXTS[:n]), path) == (n, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_runs_go_on_for_data_of_any_kind(tmp_path, kind):
    make, path = KINDS[kind], tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore.embed(StubModel(stop_after=2), make(TEXTS), path, shard_rows=4)
    rest = StubModel()
    store = EmbeddingStore.embed(rest, make(TEXTS), path)
    assert rest.embedded == 12
    expected = np.stack([vector_of(text) for text in TEXTS]).astype(np.float16)
    np.testing.assert_array_equal(store.vectors(), expected.astype(np.float32))


def test_arrays_are_compared_beyond_their_first_shard(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3000, DIM)).astype(np.float32)
    EmbeddingStore.embed(Encoder(), vectors, tmp_path / "s")
    with pytest.raises(ValueError, match=r"other data: data of 3000 rows there, 3007 rows now"):
        EmbeddingStore.embed(Encoder(), np.concatenate([vectors, vectors[:7]]), tmp_path / "s")
    vectors[2500, 3] += 1
    with pytest.raises(ValueError, match=r"other data: rows 2048\.\.2999 there"):
        EmbeddingStore.embed(Encoder(), vectors, tmp_path / "s")


def test_changed_scores_and_pairs_are_refused(tmp_path):
    rows = [{"a": f"x{i}", "b": f"y{i}", "s": i / 10} for i in range(6)]
    options = {"pair_columns": ("a", "b"), "score_column": "s"}
    embed(rows, tmp_path / "s", **options)
    assert embed(rows, tmp_path / "s", **options) == (12, 0)
    with pytest.raises(ValueError, match="made from other data: its scores differ"):
        embed([{**row, "s": 1 - row["s"]} for row in rows], tmp_path / "s", **options)
    with pytest.raises(ValueError, match="made from other data: its pairs differ"):
        embed([*rows, {"a": "x0", "b": "y5", "s": 1}], tmp_path / "s", **options)


def test_renamed_classes_are_refused(tmp_path):
    def data(kind):
        rows = {"text": TEXTS, "y": [i % 2 for i in range(20)]}
        features = datasets.Features({"text": datasets.Value("string"), "y": kind})
        return datasets.Dataset.from_dict(rows, features=features)

    options = {"text_column": "text", "label_column": "y"}
    embed(data(datasets.ClassLabel(names=["no", "yes"])), tmp_path / "s", **options)
    same = data(datasets.ClassLabel(names=["no", "yes"])).to_iterable_dataset()
    assert embed(same, tmp_path / "s", **options) == (20, 0)
    renamed = data(datasets.ClassLabel(names=["yes", "no"]))
    with pytest.raises(ValueError, match=r"\['no', 'yes'\] there, \['yes', 'no'\] now"):
        embed(renamed, tmp_path / "s", **options)
    with pytest.raises(ValueError, match=r"\['no', 'yes'\] there, None now"):
        embed(data(datasets.Value("int64")), tmp_path / "s", **options)


def test_string_labels_keep_their_names_on_reopening(tmp_path):
    rows = [{"text": text, "y": "bbac"[i % 4]} for i, text in enumerate(TEXTS)]
    options = {"text_column": "text", "label_column": "y"}
    embed(rows, tmp_path / "s", **options)
    assert embed(iter(rows), tmp_path / "s", **options) == (20, 0)
    with pytest.raises(ValueError, match=r"other data: rows 0\.\.3 there"):
        embed([{**row, "y": row["y"].upper()} for row in rows], tmp_path / "s", **options)


def test_frames_give_rows_not_names_of_columns(tmp_path):
    import pandas

    frame = pandas.DataFrame(
        {"text": ["one", "two", "three"], "y": ["u", None, "w"]}, index=["a", "b", "c"]
    )
    store = EmbeddingStore.embed(StubModel(), frame, tmp_path / "s", label_column="y")
    assert store.labels.tolist() == [0, -1, 1]
    assert store.label_names == ["u", "w"]
    expected = np.stack([vector_of(text) for text in frame["text"]]).astype(np.float16)
    np.testing.assert_array_equal(store.vectors(), expected.astype(np.float32))
    with pytest.raises(ValueError, match=r"'nope' is not in the data; its columns are \['text'"):
        EmbeddingStore.embed(StubModel(), frame, tmp_path / "t", text_column="nope")
    with pytest.raises(ValueError, match="the data is empty"):
        EmbeddingStore.embed(StubModel(), frame[:0], tmp_path / "t")
    frame.loc["b", "text"] = None
    with pytest.raises(ValueError, match="entry 1 of column 'text' is None"):
        EmbeddingStore.embed(StubModel(), frame, tmp_path / "t")


def test_tables_of_other_libraries_are_refused(tmp_path):
    import pyarrow

    class Table:  # as polars has it
        columns = ("text",)

        def to_dicts(self):
            return [{"text": "a"}]

        def __iter__(self):
            yield ["a"]

    for table in (Table(), pyarrow.table({"text": ["a"]})):
        with pytest.raises(TypeError, match=r"data is a? ?.*Table; pass"):
            EmbeddingStore.embed(StubModel(), table, tmp_path / "s", text_column="text")


def test_a_dict_of_splits_is_refused_naming_them(tmp_path):
    part = datasets.Dataset.from_dict({"text": ["one", "two"]})
    data = datasets.DatasetDict(train=part, test=part)
    with pytest.raises(ValueError, match=r"splits \['train', 'test'\].*data\['train'\]"):
        EmbeddingStore.embed(StubModel(), data, tmp_path / "s")


def picture(colour, mode="RGB", size=(4, 2)):
    return Image.new(mode, size, colour)


def striped(palette):
    image = Image.new("P", (2, 1))
    image.putpalette(palette)
    return image


VECTOR = np.arange(6, dtype=np.float32)
DIFFERENT = [
    (torch.ones(3), torch.zeros(3)),
    (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
    (torch.ones(2, 3), torch.ones(3, 2)),
    (torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse()),
    (VECTOR, VECTOR.reshape(2, 3)),
    (VECTOR, VECTOR.view(np.int32)),
    (picture("red"), picture("blue")),
    (picture("red"), picture("red", size=(2, 4))),
    (striped([0, 0, 0]), striped([9, 9, 9])),
    ({"image": picture("red")}, {"image": picture("blue")}),
    ({"array": VECTOR, "sampling_rate": 8000}, {"array": -VECTOR, "sampling_rate": 8000}),
    ({"array": VECTOR, "sampling_rate": 8000}, {"array": VECTOR, "sampling_rate": 9000}),
    ([torch.ones(2), "a"], [torch.zeros(2), "a"]),
    ([["a"], "b"], [["a", "b"]]),
    (["ab", "c"], ["a", "bc"]),
    ([1], ["1"]),
    (b"1", b"2"),
    (np.array(["a", None], object), np.array(["b", None], object)),
    (np.float32(1), np.float32(2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_items_that_differ_have_other_content(one, other):
    assert content_of(one) != content_of(other)


def test_content_is_that_of_an_equal_item():
    assert content_of({"a": VECTOR, "b": 1}) == content_of({"b": 1, "a": VECTOR.copy()})
    assert content_of(torch.ones(3, requires_grad=True)) == content_of(torch.ones(3))
    assert content_of(np.ones((4, 4))[:, ::2]) == content_of(np.ones((4, 2)))
    names = [np.array([f"text {i}"], object) for i in (1, 1)]
    assert content_of(names[0]) == content_of(names[1])


@pytest.mark.parametrize(("one", "other"), DIFFERENT[:1] + DIFFERENT[9:11], ids=range(3))
def test_changed_tensors_and_images_in_dicts_are_refused(tmp_path, one, other):
    assert embed([one, one], tmp_path / "s") == (2, 2)
    assert embed([one, one], tmp_path / "s") == (2, 0)
    with pytest.raises(ValueError, match="made from other data"):
        embed([one, other], tmp_path / "s")


def test_what_has_no_content_to_compare_is_refused_before_it_is_embedded(tmp_path):
    model = Encoder()
    with pytest.raises(TypeError, match=r"row 1: .*\(object\) has no content .*pass text, images"):
        EmbeddingStore.embed(model, [{"a": 1}, {"a": object()}], tmp_path / "s")
    assert model.embedded == 0
