"""Rescoring with residual bits, against decoding everything."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr_st.codes import SparseCodes
from csr_st.model.residual_basis import ResidualBasis
from csr_st.residual import ResidualBits
from csr_st.search import Decoder, SparseIndex

pytest.importorskip("numba")

HIDDEN_DIM = 40


def random_codes(rng, n, k=4, bits=0, input_dim=12, seed=0):
    indices = np.argsort(rng.random((n, HIDDEN_DIM)), axis=1)[:, :k]
    values = -np.sort(-rng.exponential(size=(n, k)).astype(np.float32) - 0.05, axis=1)
    values[::5, k // 2 :] = 0
    codes = SparseCodes(indices, values, HIDDEN_DIM).normalize()
    if not bits:
        return codes
    rows = rng.normal(size=(n, input_dim)).astype(np.float32)
    return replace(
        codes, residual=ResidualBits.of(rows, bits, ResidualBasis.seeded(input_dim, seed))
    )


def random_decoder(rng, power=1.0, input_dim=12):
    weight = rng.normal(size=(HIDDEN_DIM, input_dim)).astype(np.float32)
    return Decoder(weight, rng.normal(size=input_dim).astype(np.float32), power)


def expected_scores(codes, decoder, dense, metric="cosine"):
    decoded = decoder.decode(codes)
    scores = dense @ decoded.T
    if metric == "cosine":
        scores /= np.linalg.norm(dense, axis=1)[:, None] * np.linalg.norm(decoded, axis=1)
    return scores


def assert_ranked(results, scores, metric="cosine"):
    """The best by the scores, which may be equal up to rounding."""
    top_k = results.ids.shape[1]
    tolerance = {"atol": 1e-5} if metric == "cosine" else {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(results.scores, -np.sort(-scores, axis=1)[:, :top_k], **tolerance)
    found = np.take_along_axis(scores, results.ids, axis=1)
    np.testing.assert_allclose(found, results.scores, **tolerance)
    assert all(len(set(row)) == top_k for row in results.ids.tolist())


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("bits", [0.75, 1, 2])
@pytest.mark.parametrize("input_dim", [12, 37, 64])
@pytest.mark.parametrize("power", [1, 0.5])
def test_residuals_are_added_to_what_is_decoded(metric, bits, input_dim, power):
    rng = np.random.default_rng(3)
    documents = random_codes(rng, 200, bits=bits, input_dim=input_dim, seed=5)
    queries, dense = random_codes(rng, 6), rng.normal(size=(6, input_dim)).astype(np.float32)
    decoder = random_decoder(rng, power, input_dim)
    index = SparseIndex.build(documents, decoder=decoder)
    scores = expected_scores(documents, decoder, dense, metric)
    request = {"top_k": 7, "rescore": 200, "queries_dense": dense, "metric": metric}
    for threads in (1, 3):  # the second time what belongs to the candidates is known
        found = index.search(queries, threads=threads, **request)
        assert_ranked(found, scores, metric)
    index = SparseIndex.build(documents)
    assert_ranked(index.search(queries, decoder=decoder, **request), scores, metric)


@given(
    bits=st.sampled_from([0, 1, 2]),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    seed=st.integers(0, 9),
    change=st.sampled_from(["remove", "pickle", "save"]),
)
def test_residuals_ride_along_through_changes(tmp_path_factory, bits, sizes, seed, change):
    rng = np.random.default_rng(seed)
    parts = [random_codes(rng, n, bits=bits) for n in [5, *sizes]]
    decoder = random_decoder(rng)
    index = SparseIndex.build(parts[0], decoder=decoder)
    dense = rng.normal(size=(2, 12)).astype(np.float32)
    for part in parts[1:]:
        index.search(parts[0][:2], top_k=5, rescore=5, queries_dense=dense)
        index.add(part)
    whole = SparseCodes.concatenate(parts)
    if change == "remove":
        kept = rng.random(len(whole)) < 0.5
        kept[0] = True
        index.remove(np.flatnonzero(~kept))
    else:
        kept = np.ones(len(whole), bool)
    if change == "pickle":
        index = pickle.loads(pickle.dumps(index))
    path = tmp_path_factory.mktemp("index") / "i.csr"
    index.save(path)
    loaded = SparseIndex.load(path)
    scores = np.where(kept, expected_scores(whole, decoder, dense), -np.inf)
    request = {"top_k": int(kept.sum()), "rescore": 50, "queries_dense": dense}
    assert_ranked(index.search(parts[0][:2], **request), scores)
    names = np.flatnonzero(kept)
    found = loaded.search(parts[0][:2], **request)
    assert set(loaded.ids.tolist()) == set(names.tolist())
    assert_ranked(found, scores)


def test_a_smaller_k_leaves_the_residual_out():
    rng = np.random.default_rng(0)
    documents, queries = random_codes(rng, 100, k=6, bits=1), random_codes(rng, 4)
    decoder = random_decoder(rng)
    index = SparseIndex.build(documents, decoder=decoder)
    dense = rng.normal(size=(4, 12)).astype(np.float32)
    found = index.search(queries, top_k=9, k=3, rescore=100, queries_dense=dense)
    assert_ranked(found, expected_scores(documents.prefix(3), decoder, dense))


def test_all_documents_are_rescored_where_too_few_share_a_latent():
    rng = np.random.default_rng(0)
    documents, queries = random_codes(rng, 300, k=1, bits=2), random_codes(rng, 5, k=1)
    decoder = random_decoder(rng)
    index = SparseIndex.build(documents, decoder=decoder)
    dense = rng.normal(size=(5, 12)).astype(np.float32)
    found = index.search(queries, top_k=6, rescore=50, queries_dense=dense)
    assert_ranked(found, expected_scores(documents, decoder, dense))


@pytest.mark.parametrize(
    "kind", [{}, {"bits": 2}, {"bits": 1, "seed": 1}, {"bits": 1, "input_dim": 13}]
)
def test_documents_of_another_residual_are_not_added(kind):
    rng = np.random.default_rng(0)
    index = SparseIndex.build(random_codes(rng, 5, bits=1))
    with pytest.raises(
        ValueError, match=r"bits: 1, basis: seed 0, input_dim: 12} and .* do not fit"
    ):
        index.add(random_codes(rng, 5, **kind))
    assert len(index) == 5
    with pytest.raises(ValueError, match="codes with no residual and codes with a residual of"):
        SparseIndex.build(random_codes(rng, 5)).add(random_codes(rng, 5, bits=1))


def test_a_decoder_of_another_head_is_refused():
    rng = np.random.default_rng(0)
    documents = random_codes(rng, 5, bits=1)
    other, narrow = random_decoder(rng, input_dim=13), Decoder(np.ones((39, 12)), np.zeros(12))
    with pytest.raises(ValueError, match="input_dim=13, the residual of the codes 12; pass the"):
        SparseIndex.build(documents, decoder=other)
    index = SparseIndex.build(documents)
    request = {"top_k": 2, "rescore": 3}
    with pytest.raises(ValueError, match="input_dim=13, the residual of the codes 12"):
        index.search(documents[:1], queries_dense=np.ones((1, 13)), decoder=other, **request)
    with pytest.raises(ValueError, match="hidden_dim=39, the codes 40"):
        index.search(documents[:1], queries_dense=np.ones((1, 12)), decoder=narrow, **request)


def test_an_index_file_whose_residual_lacks_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    SparseIndex.build(random_codes(rng, 5, bits=1)).save(tmp_path / "i.csr")
    content = (tmp_path / "i.csr").read_bytes()
    for name in (b"residual_levels", b"residual_scales"):
        (tmp_path / "other.csr").write_bytes(content.replace(name, name[:-1] + b"_"))
        with pytest.raises(ValueError, match=f"there is no '{name.decode()}'"):
            SparseIndex.load(tmp_path / "other.csr", verify=False)


def test_equal_scores_come_by_position():
    rng = np.random.default_rng(0)
    row = random_codes(rng, 1, bits=1)
    index = SparseIndex.build(SparseCodes.concatenate([row] * 30), decoder=random_decoder(rng))
    dense = rng.normal(size=(1, 12)).astype(np.float32)
    found = index.search(row, top_k=10, rescore=20, queries_dense=dense)
    assert found.ids.tolist() == [list(range(10))]
    assert len(set(found.scores[0].tolist())) == 1
