"""Folders and patterns of shards, names that look like patterns, files that are not the data."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_stub import StubModel
from safetensors.numpy import save_file

from csr_st.embeddings import EmbeddingStore

N, DIM = 60, 5
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
LABELS = [f"class {i % 7}" for i in range(N)]
CUTS = [0, 3, 3, 20, 21, 60]  # one shard has no row


def write(path, kind, name="part-{}"):
    """Five shards, numbered 8 to 12, so that sorting by characters would mix them up."""
    path.mkdir(exist_ok=True)
    for number, rows in enumerate(map(slice, CUTS, CUTS[1:]), start=8):
        file = path / f"{name.format(number)}.{kind}"
        if kind == "npy":
            np.save(file, VECTORS[rows])
        elif kind == "safetensors":
            save_file({"vectors": VECTORS[rows]}, file)
        else:
            vectors = pa.array(VECTORS[rows].tolist(), pa.list_(pa.float32()))
            labels = pa.array(LABELS[rows], pa.string())
            pq.write_table(pa.table({"embedding": vectors, "label": labels}), file)
    return path


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
@pytest.mark.parametrize("asked", [".", "*", "part-*.{}", "part-?*.{}"])
def test_shards_are_read_in_the_order_of_their_numbers(tmp_path, kind, asked):
    folder = write(tmp_path / "Bücher [1]", kind)
    (folder / "README.md").write_text("hello")
    (folder / "._part-9.npy").write_text("of another system")
    store = EmbeddingStore.open(folder / asked.format(kind) if asked != "*" else folder)
    np.testing.assert_array_equal(store.vectors(), VECTORS)
    asked_rows = np.random.default_rng(1).integers(0, N, 100)
    np.testing.assert_array_equal(store.rows(asked_rows), VECTORS[asked_rows])
    assert store.fingerprint() == EmbeddingStore.open(folder).fingerprint()


def test_labels_of_shards_are_numbered_together(tmp_path):
    store = EmbeddingStore.open(write(tmp_path / "s", "parquet"), label_column="label")
    assert [store.label_names[label] for label in store.labels] == LABELS


def test_a_part_of_a_set_is_refused(tmp_path):
    for number in (0, 2):
        np.save(tmp_path / f"v-0000{number}-of-00003.npy", VECTORS)
    for asked in (tmp_path, tmp_path / "v*.npy"):
        with pytest.raises(ValueError, match=r"2 of 3 shards such as v-00000-of-00003\.npy"):
            EmbeddingStore.open(asked)
    assert len(EmbeddingStore.open(tmp_path / "v-00000-of-00003.npy")) == N


def test_several_kinds_of_files_are_refused(tmp_path):
    write(tmp_path, "npy", "train-{}")
    np.save(tmp_path / "test-1.npy", VECTORS)
    with pytest.raises(ValueError, match=r"train-\*\.npy.*pass one of them, or a pattern"):
        EmbeddingStore.open(tmp_path)
    np.testing.assert_array_equal(EmbeddingStore.open(tmp_path / "train-*").vectors(), VECTORS)


def test_shards_that_are_not_alike_are_refused(tmp_path):
    np.save(tmp_path / "v1.npy", VECTORS)
    np.save(tmp_path / "v2.npy", VECTORS[:, 1:])
    with pytest.raises(ValueError, match=r"v1\.npy has width 5 .*v2\.npy has width 4"):
        EmbeddingStore.open(tmp_path)
    np.save(tmp_path / "v2.npy", VECTORS.astype(np.float16))
    with pytest.raises(ValueError, match=r"type float32.*type float16"):
        EmbeddingStore.open(tmp_path)


def test_rows_of_shards_that_are_not_finite_are_named(tmp_path):
    bad = VECTORS.copy()
    bad[3, 1] = np.nan
    np.save(tmp_path / "v1.npy", VECTORS)
    np.save(tmp_path / "v2.npy", bad)
    with pytest.raises(ValueError, match=f"NaN or Inf in row {N + 3}"):
        EmbeddingStore.open(tmp_path).verify()


NAMES = [
    "v[1].npy",
    "v*.npy",
    "v?.npy",
    "[!a].npy",
    "C:\\data\\v.npy",
    "ünï cödé.npy",
    "a'b\"c.npy",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_exists_is_no_pattern(tmp_path, name):
    for other in ("v1.npy", "vx.npy", "b.npy"):
        np.save(tmp_path / other, np.zeros((2, 3), np.float32))
    np.save(tmp_path / name, VECTORS)
    np.testing.assert_array_equal(EmbeddingStore.open(str(tmp_path / name)).vectors(), VECTORS)


@pytest.mark.parametrize("name", ["v[1].npy", "v[0-9].npy", "w*.npy", "C:\\v.npy", "a\0b.npy"])
def test_a_name_that_does_not_exist_opens_nothing_else(tmp_path, name):
    np.save(tmp_path / "v1.npy", VECTORS)
    with pytest.raises(FileNotFoundError, match=r"at|matches"):
        EmbeddingStore.open(tmp_path / name)


def test_a_link_to_nothing_and_a_pipe_are_refused(tmp_path):
    (tmp_path / "link.npy").symlink_to(tmp_path / "gone.npy")
    with pytest.raises(FileNotFoundError, match=r"link\.npy"):
        EmbeddingStore.open(tmp_path / "link.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match="pipe or device"):
        EmbeddingStore.open(tmp_path / "pipe.npy")


@pytest.mark.parametrize("name", ["v.npy", "v.safetensors", "v.parquet", "v.csv", "v.npy.gz"])
def test_a_git_lfs_pointer_says_what_to_run(tmp_path, name):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    )
    for asked in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=f"{name} is a pointer of git-lfs.*`git lfs pull`"):
            EmbeddingStore.open(asked)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v.safetensors", r"begins as a \.npy file"),
        ("v.csv", r"begins as a \.npy file"),
        ("v.npz", r"begins as a \.npy file"),
        ("v", r"not of a format .*\.npy"),
        ("v.npy.xz", r"begins as a \.npy file"),
    ],
)
def test_content_of_another_format_is_named(tmp_path, name, message):
    with (tmp_path / name).open("wb") as file:
        np.save(file, VECTORS)
    with pytest.raises(ValueError, match=message):
        EmbeddingStore.open(tmp_path / name)


@pytest.mark.parametrize(("ending", "command"), [(".gz", "gunzip -k"), (".xz", "unxz -k")])
def test_compressed_files_that_are_not_read_say_what_to_run(tmp_path, ending, command):
    import gzip
    import lzma

    save_file({"v": VECTORS}, tmp_path / "v.safetensors")
    content = (tmp_path / "v.safetensors").read_bytes()
    path = tmp_path / f"v.safetensors{ending}"
    path.write_bytes((gzip if ending == ".gz" else lzma).compress(content))
    with pytest.raises(ValueError, match=rf"run `{command} '.*{ending}'`, then pass .*safetensors"):
        EmbeddingStore.open(path)


def test_a_folder_without_vectors_says_so(tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no embedding store.*no files of vectors \(\.npy"):
        EmbeddingStore.open(tmp_path)


def test_a_store_has_no_column_to_choose(tmp_path):
    EmbeddingStore.embed(StubModel(), ["a", "b"], tmp_path / "s")
    with pytest.raises(ValueError, match=r"is a store.*leave out column and label_column"):
        EmbeddingStore.open(tmp_path / "s", label_column="label")
