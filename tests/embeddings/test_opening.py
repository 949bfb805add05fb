"""Vectors of other origin: every format gives the same rows, and says what is wrong with it."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from csr_st.embeddings import EmbeddingStore

N, DIM = 60, 5
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
LABELS = ["x" if i % 3 else "y" for i in range(N)]


def table(kind="fixed"):
    if kind == "fixed":
        column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), DIM)
    else:
        column = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
    return pa.table({"id": np.arange(N), "embedding": column, "label": LABELS})


def write(kind, path):
    if kind == "npy":
        np.save(path / "v.npy", VECTORS)
        return path / "v.npy"
    if kind == "npy-fortran":
        np.save(path / "v.npy", np.asfortranarray(VECTORS))
        return path / "v.npy"
    if kind == "npz":
        np.savez(path / "v.npz", vectors=VECTORS, label=np.array(LABELS))
        return path / "v.npz"
    if kind == "npz-compressed":
        np.savez_compressed(path / "v.npz", vectors=VECTORS, label=np.array(LABELS))
        return path / "v.npz"
    if kind == "safetensors":
        save_file({"vectors": VECTORS, "other": np.ones(3)}, path / "v.safetensors")
        return path / "v.safetensors"
    if kind.startswith("parquet"):
        pyarrow.parquet.write_table(
            table(kind.split("-")[1]), path / "v.parquet", row_group_size=17
        )
        return path / "v.parquet"
    if kind == "feather":
        pyarrow.feather.write_feather(table(), path / "v.feather", chunksize=17)
        return path / "v.feather"
    if kind.startswith("arrow"):
        opener = pa.ipc.new_file if kind == "arrow-file" else pa.ipc.new_stream
        data = table("list")
        with pa.OSFile(str(path / "v.arrow"), "wb") as sink, opener(sink, data.schema) as writer:
            writer.write_table(data, max_chunksize=17)
        return path / "v.arrow"
    data = datasets.Dataset.from_dict({"embedding": VECTORS.tolist(), "label": LABELS})
    data = data.cast_column("embedding", datasets.List(datasets.Value("float32")))
    data.save_to_disk(path / "d", num_shards=2)
    return path / "d"


WITHOUT_LABELS = ["npy", "npy-fortran", "safetensors"]
WITH_LABELS = [
    "npz",
    "npz-compressed",
    "parquet-fixed",
    "parquet-list",
    "feather",
    "arrow-file",
    "arrow-stream",
    "dataset",
]


@pytest.mark.parametrize("kind", [*WITHOUT_LABELS, *WITH_LABELS])
def test_every_format_gives_the_same_rows(tmp_path, kind):
    store = EmbeddingStore.open(write(kind, tmp_path))
    assert len(store) == N
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    asked = np.random.default_rng(1).integers(0, N, 100)
    np.testing.assert_array_equal(store.rows(asked), VECTORS[asked])
    assert store.info.dtype == "float32"
    assert store.fingerprint() == EmbeddingStore.open(write_path(kind, tmp_path)).fingerprint()


def write_path(kind, path):
    return next(p for p in path.iterdir() if p.name.startswith(("v.", "d")))


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_labels_are_read_beside_the_vectors(tmp_path, kind):
    store = EmbeddingStore.open(write(kind, tmp_path), label_column="label")
    assert store.label_names == ["y", "x"]
    assert store.labels.tolist() == [1 if i % 3 else 0 for i in range(N)]


@pytest.mark.parametrize("name", ["v.safetensors", "V.SAFETENSORS"])
def test_half_precision_files_are_read_as_float32(tmp_path, name):
    half = torch.from_numpy(VECTORS).bfloat16()
    save_torch_file({"vectors": half}, tmp_path / name)
    store = EmbeddingStore.open(tmp_path / name)
    assert store.info.dtype == "bfloat16"
    np.testing.assert_array_equal(store.vectors(), half.float().numpy())
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float16))
    store = EmbeddingStore.open(tmp_path / "v.npy")
    np.testing.assert_array_equal(store.vectors(), VECTORS.astype(np.float16).astype(np.float32))


def test_column_is_named_when_several_fit(tmp_path):
    np.savez(tmp_path / "v.npz", a=VECTORS, b=2 * VECTORS)
    with pytest.raises(ValueError, match=r"name the column.*\['a', 'b'\]"):
        EmbeddingStore.open(tmp_path / "v.npz")
    store = EmbeddingStore.open(tmp_path / "v.npz", column="b")
    np.testing.assert_array_equal(store.vectors(), 2 * VECTORS)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "parquet-fixed", "arrow-file", "dataset"])
def test_missing_column_names_those_there(tmp_path, kind):
    with pytest.raises(ValueError, match=r"'nope'.*(vectors|embedding)"):
        EmbeddingStore.open(write(kind, tmp_path), column="nope")


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "parquet-fixed", "arrow-file"])
def test_cut_files_are_refused(tmp_path, kind):
    path = write(kind, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut short|damaged"):
        EmbeddingStore.open(path)


def test_rows_that_are_not_finite_are_named_when_read(tmp_path):
    bad = VECTORS.copy()
    bad[[7, 9], 2] = np.nan, np.inf
    np.save(tmp_path / "v.npy", bad)
    store = EmbeddingStore.open(tmp_path / "v.npy")
    store.rows(np.arange(7))
    with pytest.raises(ValueError, match="NaN or Inf in row 7, 9"):
        store.rows(np.array([9, 3, 7]))
    with pytest.raises(ValueError, match="NaN or Inf in row 7, 9"):
        store.verify()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0, 2.0], None]), "no vector in row 1"),
        (pa.array([[1.0, 2.0], [1.0]]), r"different widths: \[1, 2\]"),
        (pa.array([[1.0, None], [1.0, 2.0]]), "nulls inside"),
        (pa.array([[1, 2], [3, 4]]), "floating-point"),
    ],
)
def test_columns_that_are_no_matrix_are_refused(tmp_path, column, message):
    pyarrow.parquet.write_table(pa.table({"v": column}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=message):
        EmbeddingStore.open(tmp_path / "v.parquet", column="v")


def test_arrays_that_are_no_vectors_are_refused(tmp_path):
    np.save(tmp_path / "flat.npy", VECTORS.ravel())
    with pytest.raises(ValueError, match=r"shape \(300,\)"):
        EmbeddingStore.open(tmp_path / "flat.npy")
    np.save(tmp_path / "whole.npy", np.ones((4, 2), np.int64))
    with pytest.raises(ValueError, match="int64"):
        EmbeddingStore.open(tmp_path / "whole.npy")
    np.save(tmp_path / "objects.npy", np.array([[None]], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        EmbeddingStore.open(tmp_path / "objects.npy")
    (tmp_path / "v.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="never loaded"):
        EmbeddingStore.open(tmp_path / "v.pt")


@pytest.mark.parametrize("label_column", [None, "label"])
def test_offsets_that_point_outside_a_file_are_refused(tmp_path, label_column):
    path = tmp_path / "v.feather"
    column = table("list" if label_column is None else "fixed")
    pyarrow.feather.write_feather(column, path, compression="uncompressed")
    step = DIM if label_column is None else 1
    offsets = np.arange(0, (N + 1) * step, step, dtype="<i4").tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    far = offsets[:-4] + np.array([2**30], "<i4").tobytes()
    path.write_bytes(content.replace(offsets, far))
    with pytest.raises(ValueError, match=r"v\.feather is cut short, damaged"):
        EmbeddingStore.open(path, label_column=label_column)
