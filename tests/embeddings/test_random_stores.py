"""Random files and arrays: the right vectors, or an error that names the file or vector.

Never another type of exception, and never a file that was not there before.
"""

import gzip
import itertools
import json
import math
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from embedding_stub import StubModel, vector_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file

from csr_st.embeddings import EmbeddingStore

ALLOWED = (ValueError, TypeError, FileNotFoundError)
N, DIM = 7, 3
VECTORS = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
LABELS = ["a", "b", "c", "a", "b", "c", "a"]
TABLE = pa.table({"embedding": pa.array(VECTORS.tolist(), pa.list_(pa.float32())), "y": LABELS})
FRAME = pd.DataFrame(VECTORS, columns=["v_0", "v_1", "v_2"]).assign(y=LABELS)
TEXTS = [f"text {i}" for i in range(20)]
numbers = itertools.count()


def write_compressed(path):
    with gzip.open(path, "w") as file:
        np.save(file, VECTORS)


def write_lines(path):
    rows = [{"embedding": v, "y": y} for v, y in zip(VECTORS.tolist(), LABELS, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = {
    "v.npy": lambda path: np.save(path, VECTORS),
    "v.npz": lambda path: np.savez(path, vectors=VECTORS, y=np.array(LABELS)),
    "w.npz": lambda path: np.savez_compressed(path, vectors=VECTORS, y=np.array(LABELS)),
    "v.npy.gz": write_compressed,
    "v.safetensors": lambda path: save_file({"vectors": VECTORS, "y": np.arange(N)}, path),
    "v.parquet": lambda path: pa.parquet.write_table(TABLE, path),
    "wide.parquet": lambda path: FRAME.to_parquet(path),
    "v.feather": lambda path: pa.feather.write_feather(TABLE, path, compression="uncompressed"),
    "w.feather": lambda path: pa.feather.write_feather(TABLE, path),
    "v.csv": lambda path: FRAME.to_csv(path, index=False),
    "v.csv.gz": lambda path: FRAME.to_csv(path, index=False),
    "v.tsv": lambda path: FRAME.to_csv(path, sep="\t", index=False),
    "v.jsonl": write_lines,
    "v.json": lambda path: path.write_text(json.dumps(VECTORS.tolist())),
}
SUFFIXES = sorted({name[name.index(".") :] for name in WRITERS} | {".arrow", ".ndjson", "", ".x"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("random")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """The bytes of a valid file of each format, by its name."""
    folder = tmp_path_factory.mktemp("valid")
    for name, write in WRITERS.items():
        write(folder / name)
    return {name: (folder / name).read_bytes() for name in WRITERS}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    rows = [{"text": text, "y": "abc"[i % 3]} for i, text in enumerate(TEXTS)]
    EmbeddingStore.embed(
        StubModel(), rows, path, text_column="text", label_column="y", shard_rows=8
    )
    return path


def rows_of(path, **options):
    """All rows, or None where an error named the file."""
    before = sorted(path.parent.iterdir())
    found, message = None, path.name
    try:
        opened = EmbeddingStore.open(path, **options)
        opened.verify()
        found = opened.vectors()
    except ALLOWED as error:
        message = str(error)
    assert path.name in message
    assert sorted(path.parent.iterdir()) == before
    return found


def rows_of_bytes(folder, name, content, **options):
    path = folder / str(next(numbers)) / name
    path.parent.mkdir()
    path.write_bytes(content)
    try:
        return rows_of(path, **options)
    finally:
        shutil.rmtree(path.parent)


def altered(draw, content):
    """Bytes with some replaced, left out, doubled, or cut off at the end."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        kind = draw(st.sampled_from(["replace", "cut", "remove", "insert", "double"]))
        if kind == "cut":
            del content[place:]
        elif kind == "replace":
            content[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 16))]
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=16))
        else:
            content += content[place:]
    return bytes(content)


def random_bytes(draw, folder, valid, store):
    """A file of random bytes, some of which begin as a format does."""
    start = draw(st.sampled_from([b"", b"\x93NUMPY\x01\0", b"PK\x03\x04", b"PAR1", b"ARROW1\0\0"]))
    content = start + draw(st.binary(max_size=200))
    found = rows_of_bytes(folder, f"v{draw(st.sampled_from(SUFFIXES))}", content)
    assert found is None or found.size


def altered_files(draw, folder, valid, store):
    """A valid file of any format with some bytes altered, with and without its labels."""
    name = draw(st.sampled_from(list(WRITERS)))
    label = draw(st.sampled_from([None, "y"]))
    content = altered(draw, valid[name])
    found = rows_of_bytes(folder, name, content, label_column=label)
    assert found is None or (found.dtype == np.float32 and np.isfinite(found).all())


def cut_files(draw, folder, valid, store):
    """A file that is cut short: refused, or text of which whole lines remain."""
    name = draw(st.sampled_from(list(WRITERS)))
    end = draw(st.integers(0, len(valid[name]) - 1))
    found = rows_of_bytes(folder, name, valid[name][:end])
    if found is not None:
        assert name in ("v.csv", "v.tsv", "v.jsonl")
        whole = len(found) - 1  # the last line may lack digits of its last number
        np.testing.assert_array_equal(found[:whole], VECTORS[:whole])


DTYPES = st.one_of(
    arrays.floating_dtypes(endianness="?"),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    st.sampled_from([np.dtype(kind) for kind in ("?", "c8", "U2", "S2", "M8[s]", "O", "f4,i2")]),
)


def random_arrays(draw, folder, valid, store):
    """Arrays of any type, shape and order in every format of arrays."""
    dtype = draw(DTYPES)
    shape = draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    numeric = dtype.kind in "fiu"
    array = draw(arrays.arrays(dtype, shape)) if numeric else np.zeros(shape, dtype)
    array = np.asarray(array, order=draw(st.sampled_from("CF")))
    name = draw(st.sampled_from(["v.npy", "v.npz", "w.npz", "v.npy.gz"]))
    path = folder / str(next(numbers)) / name
    path.parent.mkdir()
    if name == "v.npz":
        np.savez(path, a=array)
    elif name == "w.npz":
        np.savez_compressed(path, a=array)
    else:
        with gzip.open(path, "w") if name.endswith("gz") else path.open("wb") as file:
            np.save(file, array)
    found = rows_of(path)
    shutil.rmtree(path.parent)
    compare(array, found)


def compare(array, found):
    """Whether what was read is right: equal, or nothing where these are no vectors."""
    fits = array.ndim == 2 and array.size
    fits = fits and (array.dtype.kind == "f" or array.dtype in (np.int8, np.uint8))
    if fits:
        with np.errstate(over="ignore"):
            expected = array.astype(np.float32)
        fits = np.isfinite(expected).all()
    if fits:
        np.testing.assert_array_equal(found, expected)
    else:
        assert found is None


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def random_tables(draw, folder, valid, store):
    """Finite vectors in every format of tables, wide or as lists."""
    n, dim = draw(st.integers(1, 5)), draw(st.integers(2, 5))
    array = draw(arrays.arrays(np.float32, (n, dim), elements=FLOATS))
    frame = pd.DataFrame(array, columns=[f"v{i}" for i in range(dim)])
    lists = pd.DataFrame({"id": range(n), "v": [*array]})
    kind = draw(st.sampled_from(["csv", "headless", "tsv", "wide", "lists", "jsonl", "text"]))
    path = (
        folder
        / str(next(numbers))
        / {"wide": "v.parquet", "lists": "v.feather"}.get(
            kind, "v.tsv" if kind == "tsv" else "v.jsonl" if kind == "jsonl" else "v.csv"
        )
    )
    path.parent.mkdir()
    if kind == "wide":
        frame.to_parquet(path)
    elif kind == "lists":
        lists.to_feather(path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, array.tolist())))
    elif kind == "text":
        lists.assign(v=[str(row) for row in array.tolist()]).to_csv(path)
    else:
        sep = "\t" if kind == "tsv" else ","
        counted = array[0].tolist() == list(range(dim))  # as names that pandas gives
        frame.to_csv(path, sep=sep, header=kind != "headless" or counted, index=False)
    found = rows_of(path)
    shutil.rmtree(path.parent)
    assert found is not None
    np.testing.assert_allclose(found, array, rtol=1e-6, atol=1e-44)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FILES = ["manifest.json", "plan.json", "labels.npy", "shard-000001.safetensors"]


def altered_stores(draw, folder, valid, store):
    """A store one of whose files is altered, or one of whose JSON values is another."""
    path = folder / str(next(numbers))
    shutil.copytree(store, path)
    name = draw(st.sampled_from(FILES))
    file = path / name
    if name.endswith(".json") and draw(st.booleans()):
        content = json.loads(file.read_text())
        inner = content
        if "plan" in content and draw(st.booleans()):
            inner = content["plan"]
        key = draw(st.sampled_from([*inner, "more"]))
        if draw(st.booleans()):
            inner[key] = draw(JSON)
        else:
            inner.pop(key, None)
        file.write_text(json.dumps(draw(JSON) if draw(st.integers(0, 9)) == 0 else content))
    else:
        file.write_bytes(altered(draw, file.read_bytes()))
    found = rows_of(path)
    shutil.rmtree(path)
    if found is not None:
        expected = np.stack([vector_of(text) for text in TEXTS]).astype(np.float16)
        np.testing.assert_array_equal(found, expected.astype(np.float32))


THINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.sets(st.integers()),
    max_leaves=12,
)


def random_objects(draw, folder, valid, store):
    """Anything as vectors and labels in memory."""
    vectors = draw(st.one_of(THINGS, st.lists(st.lists(st.floats(), min_size=2, max_size=2))))
    labels = draw(st.one_of(st.none(), THINGS, st.lists(THINGS, min_size=1, max_size=3)))
    try:
        found = EmbeddingStore.from_array(vectors, labels=labels)
    except (ValueError, TypeError):
        return
    expected = np.array(vectors, np.float32)
    np.testing.assert_array_equal(found.vectors(), expected)
    assert labels is None or len(found.labels) == len(labels)
    assert math.isfinite(found.vectors().sum(dtype=np.float64))


PROPERTIES = [
    random_bytes,
    altered_files,
    cut_files,
    random_arrays,
    random_tables,
    altered_stores,
    random_objects,
]
for_each = pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)


@for_each
@given(data=st.data())
def test_random_vectors_are_right_or_refused(folder, valid, store, holds, data):
    holds(data.draw, folder, valid, store)


@pytest.mark.slow
@for_each
@settings(max_examples=1000)
@given(data=st.data())
def test_a_thousand_random_vectors_are_right_or_refused(folder, valid, store, holds, data):
    holds(data.draw, folder, valid, store)
