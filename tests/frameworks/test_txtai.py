"""txtai with this package's index and codes, against txtai's own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

pytest.importorskip("numba")
pytest.importorskip("txtai")
import txtai

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
    with pytest.raises(ValueError, match="vector 0 has 2 values, the index k=1"):
        index.append(wide)
    assert index.count() == 1
    index.delete([0])
    assert index.search(wide, 5) == [[], []]
    with pytest.raises(ValueError, match="negative"):
        index.append(-wide[1:])
