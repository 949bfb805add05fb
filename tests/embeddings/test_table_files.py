"""Vectors in text and wide tables: a column a dimension, or a list in each row."""

import bz2
import gzip
import json

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from csr_st.embeddings import EmbeddingStore

N, DIM = 40, 12
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
LABELS = ["x" if i % 3 else "None" for i in range(N)]
WIDE = pd.DataFrame(VECTORS, columns=[f"dim_{i}" for i in range(DIM)])
LISTS = [json.dumps({"id": i, "embedding": row}) for i, row in enumerate(VECTORS.tolist())]


def opened(path, **options):
    return EmbeddingStore.open(path, **options).vectors()


def write_text(path, text):
    path.write_text(text, encoding="utf-8")
    return path


TEXTS = {
    "wide.csv": WIDE.to_csv(index=False),
    "with-index.csv": WIDE.to_csv(),
    "numbered-by-pandas.csv": pd.DataFrame(VECTORS).to_csv(index=False),
    "indexed-and-numbered.csv": pd.DataFrame(VECTORS).to_csv(),
    "without-names.csv": WIDE.to_csv(index=False, header=False),
    "byte-order-mark.csv": "\ufeff" + WIDE.to_csv(index=False),
    "excel.csv": WIDE.to_csv(index=False, sep=";"),
    "german.csv": WIDE.to_csv(index=False, sep=";", decimal=","),
    "tabs.tsv": WIDE.to_csv(index=False, sep="\t"),
    "tabs-without-names.TSV": WIDE.to_csv(index=False, sep="\t", header=False),
    "beside-others.csv": WIDE.assign(id=range(N), text="a, b", score=0.5).to_csv(index=False),
    "names.csv": WIDE.set_axis([*"abcdefghijkl"], axis=1).to_csv(index=False),
    "in-another-order.csv": WIDE[WIDE.columns[::-1]].to_csv(index=False),
    "lists-as-text.csv": pd.DataFrame({"id": range(N), "v": map(str, VECTORS.tolist())}).to_csv(),
    "objects.jsonl": "\n".join(LISTS),
    "windows.jsonl": "\ufeff" + "\r\n".join(map(json.dumps, VECTORS.tolist())),
    "objects.ndjson": "\n".join(LISTS) + "\n",
    "lists.jsonl": "\n".join(map(json.dumps, VECTORS.tolist())),
    "document.json": json.dumps(VECTORS.tolist(), indent=1),
    "document-of-objects.json": "[" + ",".join(LISTS) + "]",
    "lines.json": "\n".join(LISTS),
}


@pytest.mark.parametrize("name", TEXTS)
def test_vectors_in_text_are_read(tmp_path, name):
    found = opened(write_text(tmp_path / name, TEXTS[name]))
    np.testing.assert_allclose(found, VECTORS, rtol=1e-6)


@pytest.mark.parametrize("name", ["wide.csv", "tabs.tsv", "objects.jsonl", "document.json"])
@pytest.mark.parametrize("ending", [".gz", ".bz2", ".zst"])
def test_compressed_text_is_read(tmp_path, name, ending):
    content = TEXTS[name].encode()
    path = tmp_path / f"{name}{ending}"
    if ending == ".zst":
        path.write_bytes(pa.Codec("zstd").compress(content, asbytes=True))
    else:
        path.write_bytes((gzip if ending == ".gz" else bz2).compress(content))
    np.testing.assert_allclose(opened(path), VECTORS, rtol=1e-6)


@pytest.mark.parametrize("write", ["parquet", "feather"])
def test_a_column_for_each_dimension_is_read(tmp_path, write):
    frame = WIDE.assign(id=range(N), label=LABELS)
    getattr(frame, f"to_{write}")(tmp_path / f"v.{write}")
    store = EmbeddingStore.open(tmp_path / f"v.{write}", label_column="label")
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    assert store.label_names == ["None", "x"]


@pytest.mark.parametrize("name", ["v.csv", "v.jsonl"])
def test_labels_in_text_are_what_is_written(tmp_path, name):
    labels = ["None", "NA", "null", "01", "1", None] * 5
    frame = WIDE[:30].assign(y=labels)
    if name == "v.csv":
        frame.to_csv(tmp_path / name, index=False)
    else:
        frame.to_json(tmp_path / name, orient="records", lines=True, double_precision=15)
    store = EmbeddingStore.open(tmp_path / name, label_column="y")
    assert store.label_names == ["None", "NA", "null", "01", "1"]
    assert store.labels.tolist() == [0, 1, 2, 3, 4, -1] * 5
    np.testing.assert_allclose(store.vectors(), VECTORS[:30], rtol=1e-6)


def test_labels_that_are_whole_numbers_stay_numbers(tmp_path):
    WIDE.assign(y=[3, 0, None, 2] * 10).astype({"y": "Int64"}).to_csv(tmp_path / "v.csv")
    store = EmbeddingStore.open(tmp_path / "v.csv", label_column="y")
    assert store.labels.tolist() == [3, 0, -1, 2] * 10
    assert store.label_names is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.csv", "a,b\n1,2\n3\n", r"v\.csv.*Expected 2 columns, got 1"),
        ("v.csv", "d_0,d_1\n1,2\n3,\n", "column 'd_1' of .*v.csv is empty in row 1"),
        ("v.csv", "d_0,d_1\n1,2\n3,NA\n", "column 'd_1' .* 'NA' in row 1; it must be a number"),
        ("v.csv", "d_0,d_1\n1,2\n3,nan\n", "NaN or Inf in row 1"),
        ("v.csv", "d_0,d_1\n1,2\n3,1e300\n", "row 1, or a number beyond float32"),
        ("v.csv", "d_0,d_1\n", "no rows below its names"),
        ("v.csv", "", "is empty"),
        ("v.csv", "id,text\n1,a\n", r"it has \['id', 'text'\], of which none can be vectors"),
        ("v.csv", "id,x,y\n1,0.5,0.5\n", "none can be vectors"),
        ("v.csv", "score\n0.5\n", "none can be vectors"),
        ("v.csv", "0.5,0.5,cat\n0.1,0.2,dog\n", "column 'f2' .* 'cat' in row 0"),
        ("v.csv", "a_0,a_1,b_0,b_1\n1,2,3,4\n", r"\['a_\*', 'b_\*'\] can be vectors"),
        ("v.csv", 'd_0,d_1\n"1,2\n3,4\n', r"v\.csv"),
        ("v.csv", 'v\n"[1, 2]"\n"[1 2]"\n', r"row 1: '\[1 2\]' is not a list of numbers"),
        ("v.jsonl", "", "is empty"),
        ("v.jsonl", "[1, 2]\n[1]\n", "different widths"),
        ("v.jsonl", "[1, 2]\n[1, null]\n", "nulls inside"),
        ("v.jsonl", '[1, 2]\n{"a": 1}\n', "line 2 is .* not a list of numbers"),
        ("v.jsonl", '[1]} {"vectors":[2]\n[1]} {"vectors":[2]\n', "line 1 is"),
        ("v.jsonl", '{"v": [1, 2]}\n{"v": null}\n', "no vector in row 1"),
        ("v.jsonl", '{"v": [1, 2]}\n{"v": [1', r"v\.jsonl"),
        ("v.jsonl", '{"v": ["a"]}\n', "none can be vectors"),
        ("v.json", "[" * 100_000, r"v\.json"),
    ],
)
def test_text_that_has_no_vectors_says_why(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        opened(write_text(tmp_path / name, text))


def test_text_in_another_encoding_says_so(tmp_path):
    (tmp_path / "v.csv").write_bytes(TEXTS["wide.csv"].encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16; save it in UTF-8"):
        opened(tmp_path / "v.csv")


def test_one_of_several_groups_of_columns_can_be_named(tmp_path):
    frame = pd.concat([WIDE.add_prefix("a_"), (2 * WIDE).add_prefix("b_")], axis=1)
    frame.to_parquet(tmp_path / "v.parquet")
    np.testing.assert_array_equal(opened(tmp_path / "v.parquet", column="b_dim_*"), 2 * VECTORS)


@pytest.mark.parametrize("name", ["a", "a.b", "a.b.c", "a*", "ä [1]"])
def test_names_of_columns_are_names(tmp_path, name):
    others = {other: pa.array([[0.0, 0.0]]) for other in ("a", "a.b", "a.b.c", "a1")}
    table = pa.table({**others, name: pa.array([[1.0, 2.0]])})
    pa.parquet.write_table(table, tmp_path / "v.parquet")
    assert opened(tmp_path / "v.parquet", column=name).tolist() == [[1.0, 2.0]]


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([pa.array([[1.0, 2.0]]), pa.array([[3.0, 4.0]])], names=["v", "v"])
    pa.parquet.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=r"v\.parquet"):
        opened(tmp_path / "v.parquet", column="v")


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.float16(), pa.float64()])
def test_small_and_large_numbers_in_lists_are_read(tmp_path, kind):
    numbers = np.arange(12).reshape(3, 4)
    for type_ in (pa.list_(kind), pa.list_(kind, 4), pa.large_list(kind)):
        column = pa.array(numbers.astype(kind.to_pandas_dtype()).tolist()).cast(type_)
        pa.parquet.write_table(pa.table({"v": column}), tmp_path / "v.parquet")
        np.testing.assert_array_equal(opened(tmp_path / "v.parquet"), numbers)


def test_lists_of_bytes_beside_vectors_are_not_meant(tmp_path):
    mask = pa.array([[1, 0, 1]] * N, pa.list_(pa.int8()))
    table = pa.table({"e": pa.array(VECTORS.tolist()), "mask": mask})
    pa.parquet.write_table(table, tmp_path / "v.parquet")
    np.testing.assert_allclose(opened(tmp_path / "v.parquet"), VECTORS, rtol=1e-6)


def test_a_saved_data_set_with_splits_names_the_folder_to_pass(tmp_path):
    part = datasets.Dataset.from_dict({"embedding": VECTORS.tolist()})
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "d [1]")
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\].*such as .*/test"):
        EmbeddingStore.open(tmp_path / "d [1]")
    np.testing.assert_allclose(opened(tmp_path / "d [1]" / "train"), VECTORS, rtol=1e-6)


@pytest.mark.parametrize("name", ["state.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"_data_files": 5}', b"ARROW1"])
def test_a_damaged_saved_data_set_is_refused(tmp_path, name, content):
    datasets.Dataset.from_dict({"embedding": VECTORS.tolist()}).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / 'd'} is cut short, damaged"):
        opened(tmp_path / "d")
