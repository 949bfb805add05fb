"""Parts that workers write and the store that they become, whatever happens on the way."""

from __future__ import annotations

import os
import sys

import numpy as np
import pyarrow as pa
import pytest
from encoding_runs import TEXTS
from filelock import FileLock
from killing import in_child

import csr_st
from csr_st import CodeStore, SparseCodes
from csr_st.distributed_encoding.parts import PARTS, Part, PartWriter, finish, writing
from csr_st.distributed_encoding.spec import EncoderSpec, spec_of

MANY = [f"the {text}" for text in TEXTS[:40]]
KINDS = [{}, {"dtype": "float16"}, {"value_bits": 4}, {"residual_bits": 1, "pursuit": True}]


def batches(texts=MANY, size=16, ids=None):
    ids = list(range(100, 100 + len(texts))) if ids is None else ids
    whole = pa.table({"text": texts, "id": ids})
    return [whole.slice(first, size) for first in range(0, len(texts), size)]


def encode(saved, path, tables, id_column="id", order=None, **options):
    """The batches encoded one after another in ``order``, as workers would."""
    spec = EncoderSpec(saved, **{"k": 6, **options})
    with writing(path) as begun:
        writer = PartWriter(spec, str(path), "text", id_column, 16, begun)
        done = {number: writer.write(tables[number]) for number in order or range(len(tables))}
        finish(path, [done[number] for number in range(len(tables))])
    return CodeStore.open(path)


def files_of(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.name != ".lock"}


@pytest.mark.parametrize("options", KINDS)
def test_the_store_is_that_of_code_store_encode(saved, model, tmp_path, options):
    store = encode(saved, tmp_path / "c", batches(), None, order=[2, 0, 1], **options)
    store.verify()
    expected = CodeStore.encode(model, MANY, tmp_path / "e", k=6, shard_rows=16, **options)
    found, codes = store.codes(), expected.codes()
    np.testing.assert_array_equal(found.indices, codes.indices)
    np.testing.assert_array_equal(found.values, codes.values)
    np.testing.assert_array_equal(found.norms, codes.norms)
    assert found.fitted == codes.fitted
    assert (found.residual is None) == (codes.residual is None)
    assert store.info.n == 40
    assert store.ids() is None
    shard = store.path / "shard-000001.safetensors"
    if "value_bits" in options:
        assert len(csr_st.PackedCodes.load(shard)) == 16
    else:
        assert len(SparseCodes.load(shard)) == 16


@pytest.mark.parametrize("ids", [list(range(7, 47)), [f"ü{i}" for i in range(40)]])
@pytest.mark.parametrize("options", [{}, {"value_bits": 4}])
def test_ids_stand_beside_their_codes(saved, model, tmp_path, ids, options):
    store = encode(saved, tmp_path / "c", batches(ids=ids), order=[1, 0, 2], **options)
    assert store.ids().tolist() == ids
    store.verify()
    index = csr_st.SparseIndex.build(store.codes(), store.ids())
    query = csr_st.encode(model, MANY[5:6], k=6)
    assert index.search(query, top_k=1).ids[0, 0] == ids[MANY.index(MANY[5])]


def test_a_run_goes_on_without_encoding_again(saved, tmp_path, monkeypatch):
    tables, path = batches(), tmp_path / "c"
    spec = EncoderSpec(saved, k=6)
    with writing(path) as begun:
        writer = PartWriter(spec, str(path), "text", "id", 16, begun)
        writer.write(tables[2])
        writer.write(tables[0])
    with pytest.raises(ValueError, match="is not complete"):
        CodeStore.open(path)
    encoded = counted(monkeypatch)
    store = encode(saved, path, tables)
    assert encoded == [16]
    assert store.ids().tolist() == list(range(100, 140))
    before = files_of(path)
    assert encode(saved, path, tables).codes().indices.tolist() == store.codes().indices.tolist()
    assert encoded == [16]
    assert files_of(path) == before
    assert not (path / PARTS).exists()


def counted(monkeypatch):
    encoded, original = [], EncoderSpec.encode

    def counting(self, texts):
        encoded.append(len(texts))
        return original(self, texts)

    monkeypatch.setattr(EncoderSpec, "encode", counting)
    return encoded


def test_a_part_that_was_cut_short_is_encoded_again(saved, tmp_path, monkeypatch):
    tables, path = batches(), tmp_path / "c"
    with writing(path) as begun:
        writer = PartWriter(EncoderSpec(saved, k=6), str(path), "text", "id", 16, begun)
        part = writer.write(tables[0])
    file = path / PARTS / f"{part.name}.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    encoded = counted(monkeypatch)
    encode(saved, path, tables).verify()
    assert encoded == [16, 16, 8]


def test_rows_in_other_batches_give_the_same_store_of_rows(saved, tmp_path):
    """An unfinished run with other batches leaves nothing behind, and no row is lost or doubled."""
    path = tmp_path / "c"
    with writing(path) as begun:
        writer = PartWriter(EncoderSpec(saved, k=6), str(path), "text", "id", 16, begun)
        for table in batches(size=7):
            writer.write(table)
    store = encode(saved, path, batches())
    assert store.ids().tolist() == list(range(100, 140))
    assert not (path / PARTS).exists()


def test_equal_batches_are_two_shards(saved, tmp_path):
    twice = MANY[:16] * 2 + MANY[:5]
    store = encode(saved, tmp_path / "c", batches(twice), None)
    codes = store.codes()
    assert len(codes) == 37
    np.testing.assert_array_equal(codes.indices[:16], codes.indices[16:32])
    encode(saved, tmp_path / "c", batches(twice), None).verify()


def test_another_model_k_or_data_is_refused(saved, tmp_path):
    path = tmp_path / "c"
    encode(saved, path, batches())
    before = files_of(path)
    with pytest.raises(ValueError, match="another plan: k 6 there, 4 now"):
        encode(saved, path, batches(), k=4)
    with pytest.raises(ValueError, match=r"another plan: ids 'int' there, None now"):
        encode(saved, path, batches(), None)
    with pytest.raises(
        ValueError, match=r"other data: no shard has the rows that begin with 'new'"
    ):
        encode(saved, path, batches(["new", *MANY[1:]]))
    with pytest.raises(ValueError, match="other data: the rows there are not those"):
        encode(saved, path, batches()[:2])
    assert files_of(path) == before


def test_directories_of_something_else_are_refused(saved, model, tmp_path):
    CodeStore.encode(model, MANY, tmp_path / "own", k=6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for place, words in (
        (tmp_path / "own", r"has codes of CodeStore\.encode"),
        (tmp_path / "full", r"contains other files \(notes\.txt\)"),
        (tmp_path / "full" / "notes.txt", "is a file; a store is a directory"),
        ("s3://bucket/codes", "is a URL, and a store is a directory on a disk"),
    ):
        with pytest.raises(ValueError, match=words), writing(place):
            pass
    encode(saved, tmp_path / "c", batches())
    with pytest.raises(ValueError, match=r"another plan: .*distributed True there"):
        CodeStore.encode(model, MANY, tmp_path / "c", k=6)
    with (
        FileLock(tmp_path / "c" / ".lock"),
        pytest.raises(BlockingIOError, match="another process"),
    ):
        encode(saved, tmp_path / "c", batches())


def test_a_worker_without_the_disk_says_so(saved, tmp_path):
    with writing(tmp_path / "c") as begun:
        spec = EncoderSpec(saved, k=6)
        writer = PartWriter(spec, str(tmp_path / "elsewhere"), "text", "id", 16, begun)
        with pytest.raises(ValueError, match=r"this worker does not see .*elsewhere; use a dir"):
            writer.write(batches()[0])
        with pytest.raises(ValueError, match=r"no plan\.json: the workers do not write there"):
            finish(tmp_path / "c", [Part("a", 1)])
        with pytest.raises(ValueError, match="the data is empty"):
            finish(tmp_path / "c", [])


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"text": ["a", None], "id": [1, 2]}, ValueError, "'text' is empty in 1 of 2 rows; drop"),
        ({"text": ["a", "b"], "id": [1, None]}, ValueError, "'id' is empty in 1 of 2 rows"),
        ({"text": [1, 2], "id": [1, 2]}, TypeError, "'text' is int64, and texts are encoded"),
        ({"text": ["a", "b"], "id": [1.5, 2]}, TypeError, "'id' is double; ids are integers or"),
    ],
)
def test_rows_that_cannot_be_encoded_are_named(saved, tmp_path, columns, error, words):
    with writing(tmp_path / "c") as begun:
        writer = PartWriter(EncoderSpec(saved), str(tmp_path / "c"), "text", "id", 16, begun)
        with pytest.raises(error, match=words):
            writer.write(pa.table(columns))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": "8"}, TypeError, "k='8' is not an integer"),
        ({"k": 0}, ValueError, "k=0 is below 1"),
        ({"role": "doc"}, ValueError, "role='doc' is not one of 'query', 'document'"),
        ({"dtype": "float64"}, ValueError, "dtype='float64' is not one of"),
        ({"value_bits": 5}, ValueError, "value_bits=5 is neither 4 nor 8"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is below 1"),
        ({"kk": 8}, TypeError, "kk= is no option; there are k, role"),
    ],
)
def test_options_are_checked_before_any_worker_starts(saved, options, error, words):
    with pytest.raises(error, match=words):
        spec_of(saved, options)


def test_a_loaded_model_is_refused(model):
    with pytest.raises(
        TypeError, match="model is a SentenceTransformer; pass its folder or Hub id"
    ):
        spec_of(model, {})


def test_what_a_model_cannot_do_is_said_by_the_worker(saved, splade, tmp_path):
    with pytest.raises(ValueError, match="k=65 exceeds hidden_dim=64"):
        encode(saved, tmp_path / "c", batches(), k=65)
    splade.save_pretrained(str(tmp_path / "splade"))
    with pytest.raises(ValueError, match="pursuit=True needs the decoder of a SparseCSRHead"):
        encode(str(tmp_path / "splade"), tmp_path / "d", batches(), pursuit=True)
    store = encode(str(tmp_path / "splade"), tmp_path / "e", batches(), k=5)
    expected = csr_st.encode(splade, MANY, k=5)
    np.testing.assert_allclose(store.codes().to_dense(), expected.to_dense(), atol=1e-5)


@pytest.mark.parametrize("change", range(1, 16, 2))
def test_a_kill_while_parts_become_shards_loses_nothing(saved, tmp_path, change):
    """The driver is ended before one of its changes to files; the same call goes on."""
    path, tables = tmp_path / "c", batches()
    spec = EncoderSpec(saved, k=6)
    with writing(path) as begun:
        writer = PartWriter(spec, str(path), "text", "id", 16, begun)
        parts = [writer.write(table) for table in tables]

    def child():
        count = 0

        def watch(event, arguments):
            nonlocal count
            count += event in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
            if count == change:
                os._exit(77)

        sys.addaudithook(watch)
        finish(path, parts)

    os.waitpid(in_child(child), 0)
    store = encode(saved, path, tables)
    store.verify()
    assert store.ids().tolist() == list(range(100, 140))
    assert not (path / PARTS).exists()


def test_shards_of_other_data_that_a_kill_left_are_replaced(saved, tmp_path):
    path, tables = tmp_path / "c", batches()
    encode(saved, path, tables)
    (path / "manifest.json").unlink()
    store = encode(saved, path, [tables[2], tables[0]])  # others at their places, and one less
    assert store.ids().tolist() == [*range(132, 140), *range(100, 116)]
    assert len(list(path.glob("shard-*"))) == 2
    store.verify()
