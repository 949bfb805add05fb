"""The index file: what is saved is what is loaded, and damage is noticed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from csr_st.codes import SparseCodes
from csr_st.search import Decoder, SparseIndex

pytest.importorskip("numba")


def random_codes(rng, n, k=4, hidden_dim=40):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    return SparseCodes(indices, values, hidden_dim).normalize()


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("ids", [None, list(range(900, 0, -3)), [f"ö{n}" for n in range(300)]])
def test_load_gives_the_saved_index(rng, tmp_path, ids):
    documents, queries = random_codes(rng, 300), random_codes(rng, 5)
    maps = {2: rng.normal(size=(6, 6)), 4: rng.normal(size=(6, 6))}
    decoder = Decoder(rng.normal(size=(40, 6)), rng.normal(size=6), 0.5, maps)
    index = SparseIndex.build(documents, ids=ids, decoder=decoder)
    index.remove(index.ids[[4, 250]])
    index.save(tmp_path / "a.index")
    loaded = SparseIndex.load(tmp_path / "a.index")
    assert loaded.ids.tolist() == index.ids.tolist()
    dense = rng.normal(size=(5, 6))
    rescored = {"rescore": 50, "queries_dense": dense}
    for options in ({}, {"k": 2}, rescored, {"k": 1, **rescored}):
        saved, again = index.search(queries, **options), loaded.search(queries, **options)
        np.testing.assert_array_equal(saved.ids, again.ids)
        np.testing.assert_array_equal(saved.scores, again.scores)


def test_a_loaded_index_can_be_changed_without_changing_the_file(rng, tmp_path):
    index = SparseIndex.build(random_codes(rng, 30))
    path = tmp_path / "a.index"
    index.save(path)
    content = path.read_bytes()
    loaded = SparseIndex.load(path)
    loaded.remove([3])
    loaded.add(random_codes(rng, 5))
    assert len(loaded) == 34
    assert path.read_bytes() == content
    loaded.save(path)  # onto the file it is mapped from
    assert len(SparseIndex.load(path)) == 34


@pytest.mark.parametrize("explicit_ids", [True, False])
def test_bytes_a_document(rng, tmp_path, explicit_ids):
    ids = np.arange(2000) * 7 if explicit_ids else None
    SparseIndex.build(random_codes(rng, 2000, k=16), ids=ids).save(tmp_path / "a.index")
    overhead = 1024  # the header, which does not grow with n
    assert (tmp_path / "a.index").stat().st_size <= 2000 * (5 * 16 + 16) + overhead


def test_any_reader_of_safetensors_opens_the_file(rng, tmp_path):
    documents = random_codes(rng, 20)
    SparseIndex.build(documents).save(tmp_path / "a.index")
    arrays = load_file(tmp_path / "a.index")
    np.testing.assert_array_equal(arrays["latents"], documents.indices)
    np.testing.assert_array_equal(arrays["norms"], documents.norms)


def test_empty_index_round_trip(rng, tmp_path):
    codes = random_codes(rng, 2)[:0]
    SparseIndex.build(codes).save(tmp_path / "a.index")
    loaded = SparseIndex.load(tmp_path / "a.index")
    assert len(loaded) == 0
    loaded.add(random_codes(rng, 2))
    assert loaded.search(random_codes(rng, 1), top_k=2).ids.shape == (1, 2)


@pytest.mark.parametrize("value_bits", [None, 4])
def test_altered_bytes_are_noticed(rng, tmp_path, value_bits):
    codes = random_codes(rng, 5)
    codes = codes if value_bits is None else codes.pack(value_bits)
    SparseIndex.build(codes, ids=[3, 9, 1, 4, 8]).save(tmp_path / "a.index")
    content = (tmp_path / "a.index").read_bytes()
    damaged = tmp_path / "b.index"
    for place in range(0, len(content), 3):
        altered = bytearray(content)
        altered[place] ^= 4
        damaged.write_bytes(altered)
        with pytest.raises(ValueError, match=r"b\.index"):
            SparseIndex.load(damaged)


@pytest.mark.parametrize("value_bits", [None, 4])
@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cut_file_is_noticed(rng, tmp_path, kept, value_bits):
    codes = random_codes(rng, 50)
    codes = codes if value_bits is None else codes.pack(value_bits)
    SparseIndex.build(codes).save(tmp_path / "a.index")
    content = (tmp_path / "a.index").read_bytes()
    (tmp_path / "b.index").write_bytes(content[:kept])
    with pytest.raises(ValueError, match="cut short"):
        SparseIndex.load(tmp_path / "b.index")


def test_other_files_and_newer_versions_are_refused(rng, tmp_path):
    codes = random_codes(rng, 5)
    codes.save(tmp_path / "codes")
    with pytest.raises(ValueError, match=r"is not a csr_st\.index file"):
        SparseIndex.load(tmp_path / "codes")
    with pytest.raises(FileNotFoundError):
        SparseIndex.load(tmp_path / "missing")
    SparseIndex.build(codes).save(tmp_path / "a.index")
    content = (tmp_path / "a.index").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["version"] = "99"
    text = json.dumps(header).encode().ljust(length)
    (tmp_path / "a.index").write_bytes(
        len(text).to_bytes(8, "little") + text + content[8 + length :]
    )
    with pytest.raises(ValueError, match=r"version 99.*pip install -U"):
        SparseIndex.load(tmp_path / "a.index")


def test_a_failed_save_leaves_the_old_file(rng, tmp_path, monkeypatch):
    path = tmp_path / "a.index"
    index = SparseIndex.build(random_codes(rng, 5))
    index.save(path)
    content = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("csr_st._io.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        SparseIndex.build(random_codes(rng, 50)).save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.index"]
    assert path.read_bytes() == content
