"""An index of packed codes: exact for what they keep, and as small in its file."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from csr_st import PackedCodes, SparseCodes
from csr_st.search import Decoder, SparseIndex

pytest.importorskip("numba")


def random_codes(rng, n, k=4, hidden_dim=40, normalized=True):
    indices = np.argsort(rng.random((n, hidden_dim)), axis=1)[:, :k].astype(np.uint32)
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    codes = SparseCodes(indices, values, hidden_dim)
    return codes.normalize() if normalized else codes


def assert_same_results(left, right, queries, **options):
    found, expected = left.search(queries, **options), right.search(queries, **options)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


def saved(index, path):
    index.save(path)
    return SparseIndex.load(path)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 8))


@given(sizes, st.sampled_from([4, 8]), st.booleans(), st.integers(0, 99))
def test_scores_are_those_of_the_unpacked_codes(size, value_bits, normalized, seed):
    rng, (n, k) = np.random.default_rng(seed), size
    packed = random_codes(rng, n, k, normalized=normalized).pack(value_bits)
    queries = random_codes(rng, 3, 6)
    found = SparseIndex.build(packed).search(queries, top_k=n)
    scores = queries.to_dense() @ packed.unpack().normalize().to_dense().T
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1), atol=1e-6)
    chosen = np.take_along_axis(scores, found.ids, axis=1)
    np.testing.assert_allclose(found.scores, chosen, atol=1e-6)


@pytest.mark.parametrize("value_bits", [4, 8])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("ids", [None, [f"ö{n}" for n in range(300)]])
def test_load_gives_the_saved_index(rng, tmp_path, value_bits, normalized, ids):
    documents = random_codes(rng, 300, normalized=normalized)
    decoder = Decoder(rng.normal(size=(40, 6)), rng.normal(size=6), 0.5)
    packed = documents.pack(value_bits)
    index = SparseIndex.build(packed, ids, decoder)
    index.remove(index.ids[[4, 250]])
    loaded = saved(index, tmp_path / "a.index")
    assert loaded.value_bits == value_bits
    assert loaded.ids.tolist() == index.ids.tolist()
    queries, dense = random_codes(rng, 5), rng.normal(size=(5, 6))
    for options in ({}, {"k": 2}, {"rescore": 50, "queries_dense": dense}):
        assert_same_results(loaded, index, queries, **options)
    kept = np.delete(np.arange(300), [4, 250])
    np.testing.assert_array_equal(load_file(tmp_path / "a.index")["bits"], packed[kept].bits)
    loaded.save(tmp_path / "b.index")  # again the same file
    assert (tmp_path / "a.index").read_bytes() == (tmp_path / "b.index").read_bytes()


@pytest.mark.parametrize("removed", [0, 10_000])
@pytest.mark.parametrize(("value_bits", "most"), [(8, 64), (4, 48)])
def test_bytes_a_document(rng, tmp_path, value_bits, most, removed):
    few = random_codes(rng, 500, 32, 1536)
    index = SparseIndex.build(few[rng.integers(0, 500, 20_000)].pack(value_bits))
    index.remove(index.ids[:removed])
    index.save(tmp_path / "a.index")
    most += 8 if removed else 0  # ids that do not count from 0
    assert (tmp_path / "a.index").stat().st_size <= (20_000 - removed) * most + 1024


@pytest.mark.parametrize("value_bits", [4, 8])
def test_what_is_added_is_packed_as_the_index_is(rng, tmp_path, value_bits):
    first, second, queries = random_codes(rng, 30), random_codes(rng, 20), random_codes(rng, 5)
    expected = SparseIndex.build(SparseCodes.concatenate([first, second]).pack(value_bits))
    for more in (second, second.pack(value_bits), second.raw(), second.raw().pack(value_bits)):
        index = SparseIndex.build(first.pack(value_bits))
        index.add(more)
        assert index.value_bits == value_bits
        assert_same_results(saved(index, tmp_path / "a"), index, queries, top_k=50)
        found, best = (one.search(queries, top_k=50) for one in (index, expected))
        np.testing.assert_allclose(found.scores, best.scores, atol=1e-6)


def test_codes_of_more_bits_are_packed_again(rng):
    first, second, queries = random_codes(rng, 30), random_codes(rng, 20), random_codes(rng, 5)
    index = SparseIndex.build(first.pack(4))
    index.add(second.pack(8))
    again = PackedCodes.concatenate([first.pack(4), second.pack(8).unpack().pack(4)])
    assert_same_results(index, SparseIndex.build(again), queries, top_k=50)


def test_packed_codes_are_unpacked_for_an_index_of_plain_ones(rng, tmp_path):
    first, second, queries = random_codes(rng, 30), random_codes(rng, 20), random_codes(rng, 5)
    index = SparseIndex.build(first)
    index.add(second.pack(4))
    expected = SparseIndex.build(SparseCodes.concatenate([first, second.pack(4).unpack()]))
    assert_same_results(index, expected, queries, top_k=50)
    assert saved(index, tmp_path / "a").value_bits is None


def test_plain_codes_have_the_file_that_earlier_versions_read(rng, tmp_path):
    SparseIndex.build(random_codes(rng, 30)).save(tmp_path / "plain")
    SparseIndex.build(random_codes(rng, 30).pack()).save(tmp_path / "packed")
    versions = []
    for name in ("plain", "packed"):
        content = (tmp_path / name).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        versions.append(header["__metadata__"]["version"])
    assert versions == ["1", "2"]
    assert sorted(load_file(tmp_path / "plain")) == ["high", "latents", "low", "norms"]


def test_an_empty_packed_index_takes_documents(rng, tmp_path):
    loaded = saved(SparseIndex.build(random_codes(rng, 3)[:0].pack(8)), tmp_path / "a")
    assert (len(loaded), loaded.k, loaded.value_bits) == (0, 4, 8)
    loaded.add(random_codes(rng, 2))
    assert loaded.search(random_codes(rng, 1), top_k=2).ids.shape == (1, 2)


def test_rows_without_values_and_one_document(rng, tmp_path):
    values = np.array([[2, 1, 0], [0, 0, 0]], np.float32)
    codes = SparseCodes(np.array([[1, 2, 3], [1, 2, 3]]), values, 10)
    index = SparseIndex.build(codes.pack(8))
    queries = codes[:1]
    found = saved(index, tmp_path / "a").search(queries, top_k=2)
    np.testing.assert_allclose(found.scores, [[1, 0]], atol=1e-5)
    index.remove([0])
    assert len(saved(index, tmp_path / "b")) == 1


def test_an_index_in_memory_is_copied_and_pickled_with_its_bits(rng):
    index = SparseIndex.build(random_codes(rng, 30).pack(8))
    queries = random_codes(rng, 5)
    for same in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        assert same.value_bits == 8
        assert_same_results(same, index, queries)


def test_repr_says_that_it_is_packed(rng):
    index = SparseIndex.build(random_codes(rng, 3).pack(8))
    assert repr(index) == "SparseIndex(n=3, k=4, hidden_dim=40, value_bits=8)"


def test_damage_is_refused_without_verification_too(rng, tmp_path):
    path = tmp_path / "a.index"
    SparseIndex.build(random_codes(rng, 50).pack()).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-10] + b"\0" * 10)
    with pytest.raises(ValueError, match=r"a\.index is damaged .* row \d+ of the packed codes"):
        SparseIndex.load(path, verify=False)


def test_another_k_hidden_dim_or_type_is_refused(rng):
    index = SparseIndex.build(random_codes(rng, 5).pack())
    with pytest.raises(ValueError, match="hidden_dim=41, k=4; this index has hidden_dim=40"):
        index.add(random_codes(rng, 5, 4, 41).pack())
    with pytest.raises(ValueError, match="hidden_dim=40, k=3; this index"):
        index.add(random_codes(rng, 5, 3))
    with pytest.raises(TypeError, match=r"query codes are PackedCodes; pass their unpack\(\)"):
        index.search(random_codes(rng, 5).pack())
    with pytest.raises(TypeError, match=r"codes are list; pass csr_st\.SparseCodes"):
        index.add([1])
    assert len(index) == 5


def test_more_latents_than_an_index_takes_are_refused():
    codes = SparseCodes(np.arange(1030)[None], np.ones((1, 1030), np.float32), 2000)
    with pytest.raises(ValueError, match="k=1030; an index takes at most 1024"):
        SparseIndex.build(codes.pack())
