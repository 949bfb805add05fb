"""txtai with this package's index and codes, against txtai's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("numba")
pytest.importorskip("txtai")
import txtai
from txtai.vectors.sparse import SparseVectors

import csr_st
from csr_st import SparseIndex
from csr_st.frameworks.txtai import CSRIndex

TEXTS = ["the cat sat on the mat", "a dog ran in the house", "blue fish", "bird flew", "sea"]
QUERY = "red fish in the sea"
BACKEND = "csr_st.frameworks.txtai.CSRIndex"
VECTORS = "csr_st.frameworks.txtai.CSRVectors"


def embeddings(saved, **settings):
    made = txtai.Embeddings(sparse={"path": saved, "gpu": False, **settings})
    made.index(list(enumerate(TEXTS)))
    return made


def same(found, wanted):
    wanted = [(id, score) for id, score in wanted if score > 0]
    assert [id for id, _ in found] == [id for id, _ in wanted]
    assert np.allclose([score for _, score in found], [score for _, score in wanted], atol=1e-5)


def exact(model, ids=range(5), **options):
    ids = list(ids)
    documents = csr_st.encode(model, TEXTS, role="document", **options)[ids]
    query = csr_st.encode(model, [QUERY], k=options.get("k", 8) * 4, role="query")
    found = SparseIndex.build(documents, ids).search(query, len(ids))
    return list(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))


def test_the_index_finds_what_txtai_s_own_exact_index_finds(saved):
    """By vectors of txtai's own method, which loads saved models."""
    own = embeddings(saved, vectornormalize=True)
    ours = embeddings(saved, vectornormalize=True, backend=BACKEND)
    assert isinstance(ours.scoring.ann, CSRIndex)
    for query in (QUERY, "cat", "dog in a house"):
        same(ours.search(query, 5), own.search(query, 5))
    same(ours.batchsearch([QUERY, "cat"], 2)[1], own.search("cat", 2))


@pytest.mark.parametrize("settings", [{}, {"k": 3}])
def test_vectors_have_prompts_and_more_latents_for_queries(saved, model, settings):
    ours = embeddings(saved, backend=BACKEND, vectormethod=VECTORS, **settings)
    same(ours.search(QUERY, 5), exact(model, **settings))
    without = embeddings(saved, vectormethod=VECTORS, **settings)  # in txtai's own index
    same(without.search(QUERY, 5), exact(model, **settings))
    few = embeddings(saved, backend=BACKEND, vectormethod=VECTORS, query_k=1)
    assert len(few.scoring.model.encode(["cat"], "query").data) == 1


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")  # txtai's archives
def test_changes_and_a_round_trip(saved, model, tmp_path):
    ours = embeddings(saved, backend=BACKEND, vectormethod=VECTORS)
    ours.delete([4, 77])
    same(ours.search(QUERY, 5), exact(model, range(4)))
    ours.save(str(tmp_path / "saved"))
    opened = txtai.Embeddings()
    opened.load(str(tmp_path / "saved"))
    assert isinstance(opened.scoring.ann, CSRIndex)
    same(opened.search(QUERY, 5), exact(model, range(4)))
    opened.upsert([(1, TEXTS[2]), ("new", TEXTS[4])])  # the last number, 4, is not used again
    found = dict(opened.search(QUERY, 9))
    wanted = dict(exact(model))
    assert found["new"] == pytest.approx(wanted[4], abs=1e-5)
    assert found[1] == found[2] == pytest.approx(wanted[2], abs=1e-5)
    assert opened.count() == 5
    opened.save(str(tmp_path / "archive.tar.gz"))
    again = txtai.Embeddings()
    again.load(str(tmp_path / "archive.tar.gz"))
    assert again.search(QUERY, 9) == opened.search(QUERY, 9)


def test_content_and_words_stay_those_of_txtai(saved):
    sparse = {"path": saved, "backend": BACKEND, "vectormethod": VECTORS, "gpu": False}
    both = txtai.Embeddings(
        content=True,
        defaults=False,
        indexes={"codes": {"sparse": sparse}, "words": {"keyword": True}},
    )
    both.index([{"id": id, "text": text, "length": len(text)} for id, text in enumerate(TEXTS)])
    sql = "select id, text, score from txtai where similar(:query, 'codes') and length > 3 limit 9"
    found = both.search(sql, parameters={"query": QUERY})
    assert {hit["text"] for hit in found} <= set(TEXTS) - {"sea"}
    assert found[0]["text"] == "blue fish"
    assert both.search("bird", index="words")[0]["text"] == "bird flew"


def test_what_cannot_be_is_said():
    wide = scipy.sparse.csr_matrix(np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]], np.float32))
    index = CSRIndex({"backend": BACKEND, "k": 1})
    with pytest.raises(ValueError, match="vector 0 has 2 values, the index k=1; make it anew"):
        index.index(wide)
    index = CSRIndex({"backend": BACKEND})
    index.index(wide[1:])
    assert index.search(wide, 5) == [[(0, 1.0)], [(0, 1.0)]]
    with pytest.raises(ValueError, match="negative"):
        index.append(-wide)
    assert index.count() == 1
    index.append(wide)
    found = [dict(row) for row in index.search(wide, 5)]
    assert found == [{3: pytest.approx(5), 0: 1, 4: 1}, {0: 1, 3: pytest.approx(1), 4: 1}]
    index.delete([0, 3, 4])
    assert index.search(wide, 5) == [[], []]


def numbers(rng, n, longest):
    """Vectors of small integers, whose dot products are exact."""
    found = np.zeros((n, 500), np.float32)
    for row in found:
        row[rng.choice(500, longest, replace=False)] = rng.integers(1, 9, longest)
    return found


def test_longer_vectors_are_added_to_shorter_ones(rng, tmp_path):
    first, longer, queries = (numbers(rng, *size) for size in ((50, 5), (50, 30), (4, 40)))
    index = CSRIndex({"backend": BACKEND})
    index.index(scipy.sparse.csr_matrix(first))
    index.delete([3])
    index.save(str(tmp_path / "ann"))
    index = CSRIndex({"backend": BACKEND})
    index.load(str(tmp_path / "ann"))
    index.append(scipy.sparse.csr_matrix(longer))
    index.append(scipy.sparse.csr_matrix(first))
    wanted = queries @ np.vstack([first, longer, first]).T
    for row, found in zip(wanted, index.search(scipy.sparse.csr_matrix(queries), 200), strict=True):
        assert sorted(id for id, _ in found) == [id for id in range(150) if id != 3]
        assert np.allclose([row[id] for id, _ in found], [score for _, score in found], rtol=1e-5)
        assert np.all(np.diff([score for _, score in found]) <= 0)


class ByLength(SparseVectors):
    """Gives each text a sparse vector of as many values as it has characters."""

    def loadmodel(self, path):
        return path

    def encode(self, data, category=None):
        found = np.zeros((len(data), 100), np.float32)
        for row, text in zip(found, data, strict=True):
            row[: len(text)] = 1
        return scipy.sparse.csr_matrix(found)


@pytest.mark.parametrize("k", [None, 10])
def test_numbers_stay_those_of_the_database_after_a_long_text(k):
    sparse = {"path": "any", "vectormethod": f"{__name__}.ByLength", "backend": BACKEND, "k": k}
    ours = txtai.Embeddings(sparse=sparse, content=True)
    ours.index(["a", "bb"])
    long = "c" * 50
    if k is None:
        ours.upsert([("long", long, None)])
    else:
        with pytest.raises(ValueError, match="vector 0 has 50 values, the index k=10"):
            ours.upsert([("long", long, None)])
    ours.upsert([("later", "d" * 9, None)])
    found = [hit["text"] for hit in ours.search("e" * 50, 4)]
    assert found == [long] * (k is None) + ["d" * 9, "bb", "a"]


@pytest.mark.parametrize("settings", [{}, {"offset": 2}, {"offset": "9"}, {"offset": 9, "x": 1}])
def test_damaged_settings_are_named(settings, tmp_path):
    index, path = CSRIndex({"backend": BACKEND}), tmp_path / "ann"
    index.index(scipy.sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    index.save(str(path))
    index.load(str(path))
    assert index.count() == 3
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    with pytest.raises(ValueError, match="ann is damaged: its "):
        index.load(str(path))
