"""The vector store of LangChain, beyond what LangChain's own tests ask for."""

from __future__ import annotations

import asyncio
import itertools
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("langchain_core")
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores.utils import maximal_marginal_relevance

import csr_st
from csr_st import SparseIndex
from csr_st.frameworks.langchain import CSRVectorStore

TEXTS = ["the cat sat on the mat", "a dog ran in the house", "blue fish", "bird flew", "sea"]
YEARS = [{"year": 1950 + 10 * place, "even": place % 2 == 0} for place in range(5)]


class Dense(Embeddings):
    """Dense vectors of a SentenceTransformer, as LangChain asks for them."""

    def __init__(self, model):
        self.model = model

    def embed_documents(self, texts):
        return self.model.encode_document(texts).tolist()

    def embed_query(self, text):
        return self.model.encode_query(text).tolist()


@pytest.fixture
def store(model):
    return CSRVectorStore.from_texts(TEXTS, model, YEARS, ids=list("abcde"), query_k=16)


def exact(model, text, top_k=5, **options):
    """Ids and scores of all texts by the index of this package."""
    documents = csr_st.encode(model, TEXTS, role="document")
    query = csr_st.encode(model, [text], k=16, role="query")
    words = TEXTS if "words" in options else None
    found = SparseIndex.build(documents, list("abcde"), words=words).search(query, top_k, **options)
    return found.ids[0].tolist(), found.scores[0]


def same(found, wanted):
    ids, scores = wanted
    assert [document.id for document, _ in found] == ids
    assert np.allclose([score for _, score in found], scores, atol=1e-5)


def test_finds_what_the_index_finds(store, model):
    found = store.similarity_search_with_score("red fish in the sea", k=5)
    same(found, exact(model, "red fish in the sea"))
    for document, _ in found:
        place = "abcde".index(document.id)
        assert document.page_content == TEXTS[place]
        assert document.metadata == YEARS[place]
    later = asyncio.run(store.asimilarity_search_with_score("red fish in the sea", k=5))
    assert later == found


def test_dense_vectors_of_embeddings_through_a_head(model, backbone, head):
    dense = Dense(backbone)
    store = CSRVectorStore.from_texts(TEXTS, dense, ids=list("abcde"), head=head, query_k=16)
    assert store.embeddings is dense
    same(store.similarity_search_with_score("red fish", k=5), exact(model, "red fish"))


def test_search_by_vector(store, model, backbone):
    vector = backbone.encode_query("red fish").tolist()
    found = store.similarity_search_by_vector(vector, k=5)
    assert [document.id for document in found] == exact(model, "red fish")[0]


def test_words_count_where_they_are_wanted(model):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    store = CSRVectorStore.from_texts(TEXTS, model, ids=list("abcde"), query_k=16, words=True)
    text = "birds and dogs"
    for weight in (None, 0.6):
        wanted = exact(model, text, words=[text], weight=weight)
        same(store.similarity_search_with_score(text, k=5, weight=weight), wanted)
    same(store.similarity_search_with_score(text, k=5, weight=0), exact(model, text))
    store.delete(["d"])
    store.add_texts(["the sea, the sea"], ids=["f"])
    assert store.similarity_search("seas", k=1, weight=9)[0].id == "f"
    with pytest.raises(ValueError, match="are no relevance"):
        store.similarity_search_with_relevance_scores(text)


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_marginal_relevance_is_that_of_langchain(model, backbone, balance):
    texts = [f"{first} {second}" for first, second in itertools.combinations(TEXTS * 2, 2)]
    texts = list({" ".join(sorted(text.split())): text for text in texts}.values())  # without ties
    ids = [str(place) for place in range(len(texts))]
    store = CSRVectorStore.from_texts(texts, model, ids=ids, query_k=16)
    text = "red fish in the sea"
    documents = csr_st.encode(model, texts, role="document").to_scipy().toarray()
    query = csr_st.encode(model, [text], k=16, role="query").to_scipy().toarray()[0]
    nearest = np.argsort(-(documents @ query), kind="stable")[:12]
    chosen = maximal_marginal_relevance(query, list(documents[nearest]), balance, k=6)
    wanted = [ids[nearest[row]] for row in chosen]
    options = {"k": 6, "fetch_k": 12, "lambda_mult": balance}
    found = store.max_marginal_relevance_search(text, **options)
    assert [document.id for document in found] == wanted
    vector = backbone.encode_query(text).tolist()
    found = store.max_marginal_relevance_search_by_vector(vector, **options)
    assert [document.id for document in found] == wanted
    retriever = store.as_retriever(search_type="mmr", search_kwargs=options)
    assert [document.id for document in retriever.invoke(text)] == wanted


def test_marginal_relevance_is_chosen_among_what_matches(store):
    found = store.max_marginal_relevance_search("fish", k=9, filter={"even": True})
    assert sorted(document.id for document in found) == list("ace")
    store.delete()
    assert store.max_marginal_relevance_search("fish") == []


def test_filters(store):
    def ids(filter):
        return sorted(hit.id for hit in store.similarity_search("fish", k=5, filter=filter))

    assert ids({"even": True}) == list("ace")
    assert ids({"even": True, "year": 1970}) == ["c"]
    assert ids({"unknown": None}) == []
    assert ids(lambda document: document.metadata["year"] > 1960) == list("cde")
    assert ids(lambda document: "fish" in document.page_content) == ["c"]
    with pytest.raises(TypeError, match="must be a dict of metadata, or a function"):
        ids("year")


def test_a_retriever_in_a_chain(store):
    retriever = store.as_retriever(search_kwargs={"k": 2, "filter": {"even": True}})
    chain = retriever | RunnableLambda(lambda found: [document.id for document in found])
    assert chain.invoke("blue fish")[0] == "c"
    assert set(chain.batch(["blue fish"])[0]) <= set("ace")
    close = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5, "k": 5}
    )
    wanted = store.similarity_search_with_score("blue fish", k=5)
    assert close.invoke("blue fish") == [hit for hit, score in wanted if score >= 0.5]


def test_langchain_s_indexing_adds_what_is_new_and_removes_what_is_gone(model):
    store, records = CSRVectorStore(model), InMemoryRecordManager("test")
    records.create_schema()

    def run(*texts):
        documents = [Document(page_content=text, metadata={"source": text}) for text in texts]
        options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
        done = index(documents, records, store, **options)
        found = store.similarity_search("cat", k=9)
        assert sorted(hit.page_content for hit in found) == sorted(texts)
        return done["num_added"], done["num_skipped"], done["num_deleted"]

    assert run(*TEXTS) == (5, 0, 0)
    assert run(*TEXTS[1:], "red cat") == (1, 4, 1)
    assert run() == (0, 0, 5)


def test_sixteen_threads_find_what_one_finds(store):
    queries = [*TEXTS, "red fish", "cat", "dog"] * 4
    wanted = [store.similarity_search_with_score(query, k=3) for query in queries]
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda query: store.similarity_search_with_score(query, k=3), queries)
        assert list(found) == wanted


def test_adding_replaces_and_ids_are_made(store):
    made = store.add_documents([Document(page_content="cat", id="a"), Document(page_content="cat")])
    assert made[0] == "a"
    assert len(set(made)) == 2
    assert [document.page_content for document in store.get_by_ids(made)] == ["cat", "cat"]
    assert {hit.id for hit in store.similarity_search("cat", k=2)} == set(made)
    assert len(store.similarity_search("cat", k=10)) == 6
    # One id twice: the later text.
    assert store.add_texts(["sea", "blue"], ids=["x", "x"]) == ["x", "x"]
    assert store.get_by_ids(["x", "x", "unknown"])[0].page_content == "blue"
    assert store.add_texts([]) == []


def test_what_is_found_is_a_copy(store):
    store.get_by_ids(["a"])[0].metadata["year"] = 0
    store.similarity_search("cat", k=5)[0].metadata.clear()
    assert [document.metadata for document in store.get_by_ids("abcde")] == YEARS


def test_what_is_given_is_copied(store):
    metadata = {"deep": {"n": 1}}
    store.add_texts(["cat"], [metadata], ids=["a"])
    metadata["deep"]["n"] = 2
    assert store.get_by_ids(["a"])[0].metadata == {"deep": {"n": 1}}


@pytest.mark.parametrize(
    "settings", [{}, {"query_k": 8, "rescore": 0, "x": 1}, {"query_k": "8", "rescore": 0}]
)
def test_damaged_settings_are_named(store, model, settings, tmp_path):
    store.save(tmp_path)
    path = tmp_path / "documents.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "settings": settings}))
    with pytest.raises(ValueError, match=r"documents\.json is damaged: its settings are"):
        CSRVectorStore.load(tmp_path, model)


def test_a_saved_store_is_the_same_store(store, model, tmp_path):
    store.delete(["b"])
    store.add_texts(["red cat"], [{"deep": {"list": [1, None, "ü"]}}], ids=["ß"])
    store.save(tmp_path / "store")
    opened = CSRVectorStore.load(tmp_path / "store", model)
    for text in ("red fish", "cat"):
        wanted = store.similarity_search_with_score(text, k=9)
        assert opened.similarity_search_with_score(text, k=9) == wanted
    assert opened.get_by_ids(["ß"]) == store.get_by_ids(["ß"])
    opened.add_texts(["sea"], ids=["new"])
    opened.save(tmp_path / "store")
    assert len(CSRVectorStore.load(tmp_path / "store", model).similarity_search("sea", k=9)) == 6
    assert len(list((tmp_path / "store").glob("[!.]*"))) == 3  # nothing is left of the first


def test_an_emptied_store_is_saved_opened_and_filled(store, model, tmp_path):
    store.delete()
    assert store.similarity_search("cat") == []
    store.save(tmp_path)
    opened = CSRVectorStore.load(tmp_path, model)
    assert opened.similarity_search("cat") == []
    opened.add_texts(["cat"], ids=["a"])
    assert [hit.id for hit in opened.similarity_search("cat")] == ["a"]


@pytest.mark.parametrize("value", [float("nan"), (1, 2), {1: 2}, object(), {"a": {3}}])
def test_metadata_that_json_would_change_are_named_and_leave_the_folder(store, value, tmp_path):
    store.save(tmp_path)
    before = sorted(tmp_path.iterdir())
    store.add_texts(["cat"], [{"x": value}], ids=["odd"])
    with pytest.raises((TypeError, ValueError), match=r"document 'odd' .* keep text, numbers"):
        store.save(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_what_cannot_be_is_said(store, model, head, backbone, tmp_path):
    with pytest.raises(TypeError, match="model is a int"):
        CSRVectorStore(3)
    with pytest.raises(ValueError, match="pass head=, trained on vectors of theirs"):
        CSRVectorStore(Dense(backbone))
    with pytest.raises(ValueError, match="this model has its own"):
        CSRVectorStore(model, head=head)
    with pytest.raises(ValueError, match="the model has 0 SparseCSRHead"):
        CSRVectorStore(backbone)
    with pytest.raises(ValueError, match=r"weight=0.5 applies to words, and words=False"):
        CSRVectorStore(model, weight=0.5)
    with pytest.raises(ValueError, match=r"weight=0\.5 applies to words; pass words=True"):
        store.similarity_search("cat", weight=0.5)
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        store.similarity_search("cat", k=0)
    with pytest.raises(TypeError, match="fetch: not known"):
        store.similarity_search("cat", fetch=3)
    with pytest.raises(ValueError, match="1 metadatas for 2 texts"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(TypeError, match="id 7 is not a str; pass '7'"):
        store.add_texts(["a"], ids=[7])
    assert len(store.similarity_search("cat", k=9)) == 5
    store.save(tmp_path)
    with pytest.raises(ValueError, match="hidden_dim=32, the store 64"):
        CSRVectorStore.load(tmp_path, Dense(backbone), head=csr_st.SparseCSRHead(16, hidden_dim=32))
    with pytest.raises(ValueError, match=r"lambda_mult=1\.5 is not within 0\.\.1"):
        store.max_marginal_relevance_search("cat", lambda_mult=1.5)
    with pytest.raises(ValueError, match="fetch_k=0 must be at least 1"):
        store.max_marginal_relevance_search("cat", fetch_k=0)
