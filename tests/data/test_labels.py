"""What is a class and what means none: in files, and in what a program passes."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pandas
import pytest
from embedding_stub import StubModel

import csr_st
from csr_st.data import loading
from csr_st.embeddings import EmbeddingStore


def embed(rows, path, **columns):
    columns = {"text_column": "text", "label_column": "y", **columns}
    return EmbeddingStore.embed(StubModel(), rows, path, **columns)


def from_file(path):
    rows = loading.load(path, columns=["text", "y"])
    return embed(loading.as_classes(rows, "y"), path.parent / "store")


def as_file(folder, ending, labels):
    path = folder / f"rows{ending}"
    texts = [f"text {i}" for i in range(len(labels))]
    if ending == ".jsonl":
        rows = [{"text": text, "y": label} for text, label in zip(texts, labels, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == ".parquet":
        datasets.Dataset.from_dict({"text": texts, "y": labels}).to_parquet(path)
    else:
        separator = "," if ending == ".csv" else "\t"
        lines = [
            separator.join([text, "" if label is None else str(label)])
            for text, label in zip(["text", *texts], ["y", *labels], strict=True)
        ]
        path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_in_a_file_every_value_is_a_class(tmp_path, ending):
    store = from_file(as_file(tmp_path, ending, [-1, 1, None, -1]))
    assert store.labels.tolist() == [0, 1, -1, 0]
    assert store.label_names == ["-1", "1"]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_whole_numbers_with_a_gap(tmp_path, ending):
    store = from_file(as_file(tmp_path, ending, [1, 2, None]))
    assert store.labels.tolist() == [1, 2, -1]
    assert store.label_names is None


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_words_for_nothing_are_classes(tmp_path, ending):
    words = ["None", "NA", "null", "nan", "N/A"]
    store = from_file(as_file(tmp_path, ending, [*words, None]))
    assert store.labels.tolist() == [0, 1, 2, 3, 4, -1]
    assert store.label_names == words


def test_fractions_are_classes_in_a_file(tmp_path):
    assert from_file(as_file(tmp_path, ".csv", [0.5, 1.5, 0.5])).label_names == ["0.5", "1.5"]


def test_frames_with_a_gap(tmp_path):
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "y": [1, 2, None]})
    assert embed(frame, tmp_path / "s").labels.tolist() == [1, 2, -1]
    frame["y"] = frame["y"].astype("Int64")
    assert embed(frame, tmp_path / "t").labels.tolist() == [1, 2, -1]
    vectors = np.eye(3, dtype=np.float32)
    for labels in (
        frame["y"],
        [1.0, 2.0, float("nan")],
        np.array([1, 2, np.nan]),
        [1, 2, pandas.NA],
    ):
        store = EmbeddingStore.from_array(vectors, labels=labels)
        assert store.labels.tolist() == [1, 2, -1]


NUMBERS = [
    [-1, 1, 1, -1],
    [-2, -1, 0, 1],
    [0, -1, 0, 0],
]


@pytest.mark.parametrize("labels", NUMBERS)
def test_numbers_of_which_one_class_would_remain_are_refused(tmp_path, labels):
    words = r"labels -\d.*: a negative number means that a row has no class; pass strings, or"
    with pytest.raises(ValueError, match=words):
        EmbeddingStore.from_array(np.eye(4, dtype=np.float32), labels=np.array(labels))
    rows = [{"text": f"text {i}", "y": label} for i, label in enumerate(labels)]
    model = StubModel()
    for data in (rows, datasets.Dataset.from_list(rows), pandas.DataFrame(rows)):
        with pytest.raises(ValueError, match=words):
            EmbeddingStore.embed(model, data, tmp_path / "s", text_column="text", label_column="y")
    assert model.embedded == 0


def test_numbers_that_mean_no_class_are_told(caplog):
    store = EmbeddingStore.from_array(np.eye(4, dtype=np.float32), labels=[0, -1, 2, -1])
    assert store.labels.tolist() == [0, -1, 2, -1]
    assert "2 of 4 labels are -1: these rows have no class" in caplog.text
    EmbeddingStore.from_array(np.eye(4, dtype=np.float32), labels=[0, None, None, 0])


def test_labels_beside_vectors_in_a_table(tmp_path):
    vectors = np.eye(3, dtype=np.float32).tolist()
    rows = datasets.Dataset.from_dict({"vectors": vectors, "y": [-1, 1, None]})
    rows.to_parquet(tmp_path / "rows.parquet")
    store = EmbeddingStore.open(tmp_path / "rows.parquet", label_column="y")
    assert store.labels.tolist() == [0, 1, -1]
    assert store.label_names == ["-1", "1"]


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_the_commands_agree_on_columns_labels_and_skipped_rows(run, backbone, tmp_path):
    """The README's own sequence, on columns id, title and text; a gap only in the title."""
    backbone.save("base")
    words = ["cat", "dog", "bird", "fish"]
    lines = [
        f"d{i},{'' if i == 3 else 'T'},the {words[i % 4]} {i},{1 - 2 * (i % 2)}" for i in range(60)
    ]
    (tmp_path / "rows[1].csv").write_text("\n".join(["id,title,text,y", *lines]))
    options = ["--steps", 3, "--hidden-dim", 32, "--k", 4]
    command = ["train", "base", "rows[1].csv", "--output", "m", "--labels", "y", "--skip-bad"]
    code, _, err = run(*command, *options)
    assert code == 0, err
    store = csr_st.EmbeddingStore.open("m/vectors")
    assert (len(store), store.label_names) == (60, ["1", "-1"])
    for command in (
        ["encode", "m", "rows[1].csv", "--output", "codes.safetensors"],
        ["encode", "m", "rows[1].csv", "--output", "codes"],
        ["evaluate", "m", "rows[1].csv"],
    ):
        code, _, err = run(*command)
        assert code == 0, err


def test_a_stream_of_labels_minus_one_and_one_is_warned_of(tmp_path, caplog):
    rows = ({"text": f"text {i}", "y": 1 if i % 2 else -1} for i in range(6))
    store = embed(rows, tmp_path / "store")
    assert store.labels.tolist() == [-1, 1] * 3
    assert "one class only: 3 of 6 labels are negative" in caplog.text
