"""The document store and the components of Haystack, beyond what Haystack's own tests ask for."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pytest
from sentence_transformers import SparseEncoder

pytest.importorskip("numba")
pytest.importorskip("haystack")
from haystack import Pipeline
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError

import csr_st
from csr_st import SparseIndex
from csr_st.frameworks.haystack import CSRDocumentStore
from csr_st.frameworks.haystack_components import (
    CSRDocumentEmbedder,
    CSRRetriever,
    CSRTextEmbedder,
)

TEXTS = ["the cat sat on the mat", "a dog ran in the house", "blue fish", "bird flew", "sea"]
# Since version 3, Haystack makes objects of its own classes alone unless told.
KNOWN = "allowed_modules" in inspect.signature(Pipeline.loads).parameters
OURS = {"allowed_modules": ["csr_st.frameworks.*"]} if KNOWN else {}
QUERY = "red fish in the sea"


@pytest.fixture
def documents():
    return [
        Document(id=id, content=text, meta={"place": place})
        for place, (id, text) in enumerate(zip("abcde", TEXTS, strict=True))
    ]


@pytest.fixture
def embedded(model, documents):
    return CSRDocumentEmbedder(model).run(documents)["documents"]


@pytest.fixture
def store(embedded):
    store = CSRDocumentStore(hidden_dim=64)
    assert store.write_documents(embedded) == 5
    return store


def exact(model, query_k=32, **options):
    """Ids and scores of all texts by the index of this package."""
    documents = csr_st.encode(model, TEXTS, role="document")
    query = csr_st.encode(model, [QUERY], k=query_k, role="query")
    words = TEXTS if "words" in options else None
    found = SparseIndex.build(documents, list("abcde"), words=words).search(query, 5, **options)
    return found.ids[0].tolist(), found.scores[0]


def same(found, wanted):
    assert [document.id for document in found] == wanted[0]
    assert np.allclose([document.score for document in found], wanted[1], atol=1e-5)


def asking(store, model, **options):
    pipeline = Pipeline()
    pipeline.add_component("embedder", CSRTextEmbedder(model))
    pipeline.add_component("retriever", CSRRetriever(store, **options))
    pipeline.connect("embedder.sparse_embedding", "retriever.query_sparse_embedding")
    return pipeline


def test_pipelines_write_and_find(saved, model, documents, tmp_path):
    """From documents to results, through the text in which Haystack saves pipelines."""
    folder = str(tmp_path / "store")
    store = CSRDocumentStore(hidden_dim=64, path=folder)
    writing = Pipeline()
    writing.add_component("embedder", CSRDocumentEmbedder(saved, batch_size=2))
    writing.add_component("writer", DocumentWriter(store))
    writing.connect("embedder", "writer")
    assert writing.run({"embedder": {"documents": documents}})["writer"]["documents_written"] == 5
    assert all(document.sparse_embedding is None for document in documents)
    again = Pipeline.loads(writing.dumps(), **OURS)
    assert again.dumps() == writing.dumps()

    store.save()
    text = asking(store, saved, top_k=5).dumps()
    asked = Pipeline.loads(text, **OURS)  # opens what was saved
    found = asked.run({"embedder": {"text": QUERY}})["retriever"]["documents"]
    same(found, exact(model))
    assert [document.content for document in found] == [
        TEXTS["abcde".index(document.id)] for document in found
    ]


def test_paths_of_classes_stand_in_saved_pipelines(saved, store):
    """They never move."""
    retriever = CSRRetriever(store).to_dict()
    rooms = "csr_st.frameworks.haystack", "csr_st.frameworks.haystack_components"
    assert retriever["type"] == f"{rooms[1]}.CSRRetriever"
    assert retriever["init_parameters"]["document_store"]["type"] == f"{rooms[0]}.CSRDocumentStore"
    for kind in (CSRDocumentEmbedder, CSRTextEmbedder):
        assert kind(saved).to_dict()["type"] == f"{rooms[1]}.{kind.__name__}"


def test_filters_of_a_retriever_and_of_a_run(store, model):
    few = {"field": "meta.place", "operator": "<", "value": 3}
    last = {"field": "content", "operator": "in", "value": TEXTS[2:]}
    run = {"embedder": {"text": QUERY}, "retriever": {"filters": last, "top_k": 4}}
    for policy, wanted in (("replace", "cde"), ("merge", "c")):
        pipeline = asking(store, model, filters=few, filter_policy=policy)
        found = pipeline.run(run)["retriever"]["documents"]
        assert sorted(document.id for document in found) == list(wanted)


def test_words(model, embedded, tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    folder = str(tmp_path)
    store = CSRDocumentStore(hidden_dim=64, words=True, weight=0.4, path=folder)
    store.write_documents([*embedded, Document(id="x", content="the seas"), Document(id="y")])
    query = CSRTextEmbedder(model).run(QUERY)["sparse_embedding"]
    words = {"words": ["fishes"], "weight": 0.4}
    # Documents without an embedding count for the words, in their statistics too.
    index = SparseIndex.build(
        csr_st.encode(model, TEXTS, role="document"), list("abcde"), words=TEXTS
    )
    assert len(index) == 5
    same(store.search(query), exact(model))
    store.delete_documents(["x", "y"])
    same(store.search(query, "fishes"), exact(model, **words))
    store.write_documents([Document(id="x", content="the seas"), Document(id="y")])
    found = store.search(query, "seas", top_k=9)
    assert sorted(document.id for document in found) == list("abcdex")
    assert {hit.id for hit in store.search(None, "seas", top_k=2)} == {"e", "x"}
    store.save()
    opened = CSRDocumentStore(hidden_dim=64, words=True, weight=0.4, path=folder)
    assert opened.search(query, "seas", top_k=9) == found
    with pytest.raises(ValueError, match="words=True, language='english', not words=False"):
        CSRDocumentStore(hidden_dim=64, path=folder)


def test_documents_without_embedding_are_kept_and_not_found(store, model):
    store.write_documents([Document(id="x", content="fish")])
    query = CSRTextEmbedder(model).run(QUERY)["sparse_embedding"]
    assert len(store.search(query, top_k=9)) == 5
    assert store.count_documents() == 6
    embedded = CSRDocumentEmbedder(model).run([Document(id="x", content="fish")])["documents"]
    store.write_documents(embedded, DuplicatePolicy.OVERWRITE)
    assert len(store.search(query, top_k=9)) == 6
    assert store.search(SparseEmbedding([], [])) == []


def test_one_id_twice_in_one_call():
    both = [Document(id="a", content="first"), Document(id="a", content="second")]
    for policy, written, content in (
        (DuplicatePolicy.SKIP, 1, "first"),
        (DuplicatePolicy.OVERWRITE, 2, "second"),
    ):
        store = CSRDocumentStore(hidden_dim=64)
        assert store.write_documents(both, policy) == written
        assert [document.content for document in store.filter_documents()] == [content]


def test_every_field_of_a_document_survives_a_round_trip(tmp_path):
    store = CSRDocumentStore(hidden_dim=8, path=str(tmp_path))
    given = [
        Document(
            id="ß",
            content="ü",
            blob=ByteStream(b"\x00\xff", meta={"a": 1}, mime_type="x/y"),
            meta={"deep": {"list": [1, None, "ü"]}},
            embedding=[0.1, 0.2],
            sparse_embedding=SparseEmbedding([7, 2], [0.1, 0.7]),
        ),
        Document(id="b"),
    ]
    store.write_documents(given)
    store.save()
    opened = CSRDocumentStore.from_dict(store.to_dict())
    assert opened.filter_documents() == given
    assert opened.search(SparseEmbedding([7], [1.0]))[0].id == "ß"


def test_dot_products_of_raw_values():
    store = CSRDocumentStore(hidden_dim=8, k=2, similarity="dot")
    store.write_documents(
        [
            Document(id="a", sparse_embedding=SparseEmbedding([1, 2], [3.0, 4.0])),
            Document(id="b", sparse_embedding=SparseEmbedding([1], [2.0])),
        ]
    )
    found = store.search(SparseEmbedding([2, 1], [0.5, 10.0]))
    assert [(document.id, document.score) for document in found] == [("a", 32.0), ("b", 20.0)]


def test_haystack_s_own_embedders_load_our_models(saved, model, documents):
    """They ask for neither prompts nor k: both sides have the head's k."""
    name = "haystack_integrations.components.embedders.sentence_transformers"
    theirs = pytest.importorskip(name)
    embedder = theirs.SentenceTransformersSparseDocumentEmbedder(model=saved, progress_bar=False)
    embedder.warm_up()
    store = CSRDocumentStore(hidden_dim=64)
    store.write_documents(embedder.run(documents)["documents"])
    asked = theirs.SentenceTransformersSparseTextEmbedder(model=saved)
    asked.warm_up()
    codes = csr_st.encode(model, TEXTS), csr_st.encode(model, [QUERY])
    wanted = SparseIndex.build(codes[0], list("abcde")).search(codes[1], 5)
    found = store.search(asked.run(QUERY)["sparse_embedding"])
    same(found, (wanted.ids[0].tolist(), wanted.scores[0]))


def test_embedders(model, saved, documents):
    found = CSRDocumentEmbedder(saved, k=3, meta_fields_to_embed=["place"]).run(documents[:2])
    wanted = csr_st.encode(model, [f"0\n{TEXTS[0]}", f"1\n{TEXTS[1]}"], k=3, role="document")
    for document, row in zip(found["documents"], wanted.to_dense(), strict=True):
        dense = np.zeros(64)
        dense[document.sparse_embedding.indices] = document.sparse_embedding.values
        assert np.allclose(dense, row, atol=1e-6)
    assert CSRDocumentEmbedder(model).run([]) == {"documents": []}
    assert (
        len(CSRTextEmbedder(SparseEncoder(saved), k=2).run("cat")["sparse_embedding"].indices) <= 2
    )


def test_components_say_what_they_lack(model, backbone, store, documents):
    with pytest.raises(ValueError, match="0 SparseCSRHead"):
        CSRTextEmbedder(backbone).run("cat")
    with pytest.raises(TypeError, match="CSRDocumentEmbedder takes documents"):
        CSRTextEmbedder(model).run(documents)
    with pytest.raises(TypeError, match="CSRTextEmbedder takes a text"):
        CSRDocumentEmbedder(model).run("cat")
    with pytest.raises(ValueError, match="this one is a SentenceTransformer"):
        CSRTextEmbedder(model).to_dict()
    with pytest.raises(TypeError, match="pass a CSRDocumentStore"):
        CSRRetriever(object())


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([64], [1.0], r"document 'x' has indices 64\.\.64, the store hidden_dim=64"),
        ([1, 1], [1.0, 2.0], "has an index twice"),
        ([1], [-1.0], "negative or no numbers"),
        ([1], [float("nan")], "negative or no numbers"),
        (list(range(9)), [1.0] * 9, "has 9 values, the store k=8; make the store with k=9"),
    ],
)
def test_embeddings_that_do_not_fit_are_named_and_nothing_is_written(indices, values, message):
    store = CSRDocumentStore(hidden_dim=64, k=8)
    wrong = Document(id="x", sparse_embedding=SparseEmbedding(indices, values))
    with pytest.raises(ValueError, match=message):
        store.write_documents([Document(id="a"), wrong])
    assert store.count_documents() == 0


def test_an_overwrite_that_is_refused_keeps_the_old_document():
    store = CSRDocumentStore(64, 4, similarity="dot")
    store.write_documents(
        [Document(id="a", content="old", sparse_embedding=SparseEmbedding([1], [1.0]))]
    )
    too_large = Document(id="a", content="new", sparse_embedding=SparseEmbedding([1], [1e30]))
    with pytest.raises(ValueError, match="norm 1e\\+30"):
        store.write_documents([too_large], DuplicatePolicy.OVERWRITE)
    found = store.search(SparseEmbedding([1], [2.0]))
    assert [(document.content, document.score) for document in found] == [("old", 2.0)]


def test_documents_are_copied_on_the_way_in_and_out():
    def made():
        blob = ByteStream(b"x", meta={"a": 1})
        codes = SparseEmbedding([1], [1.0])
        return Document(id="a", meta={"deep": {"n": 1}}, blob=blob, sparse_embedding=codes)

    given = made()
    store = CSRDocumentStore(hidden_dim=8)
    store.write_documents([given])
    query = SparseEmbedding([1], [1.0])
    entry = {"list": [1]}
    for changed in (given, store.filter_documents()[0], store.search(query)[0]):
        changed.meta["deep"]["n"] = 2
        changed.blob.meta["a"] = 2
        assert store.filter_documents() == [made()]
    store.get_metadata_field_unique_values("deep")[0][0]["n"] = 2
    assert store.filter_documents() == [made()]
    store.update_by_filter({}, entry)
    entry["list"].append(2)
    assert store.filter_documents()[0].meta == {"deep": {"n": 1}, "list": [1]}


def test_filters_are_checked_also_where_there_is_no_document():
    wrong = {"field": "meta.a", "operator": "=~", "value": 1}
    right = {"field": "meta.a", "operator": "==", "value": 1}
    many = {"operator": "AND", "conditions": [right, {"operator": "OR", "conditions": [wrong]}]}
    store = CSRDocumentStore(hidden_dim=8)
    for filters in (wrong, many, {"operator": "XOR", "conditions": []}, [right]):
        for call in (store.filter_documents, store.delete_by_filter):
            with pytest.raises(FilterError):
                call(filters)
        with pytest.raises(FilterError):
            store.search(SparseEmbedding([1], [1.0]), filters=filters)
    assert store.filter_documents(right) == []


def test_a_document_that_loses_its_embedding_meanwhile_is_not_found(embedded):
    """As when another thread changes it while the filter of a search is looked at."""
    store, changes = CSRDocumentStore(hidden_dim=64), []

    class Value:
        def __eq__(self, other):
            if not changes:
                changes.append("a")
                bare = Document(id="a", meta=embedded[0].meta)
                store.write_documents([bare], DuplicatePolicy.OVERWRITE)
            return True

        __hash__ = None

    for document in embedded[:2]:
        document.meta["x"] = Value()
    store.write_documents(embedded)
    query = embedded[0].sparse_embedding
    assert len(store.search(query)) == 5
    filters = {"field": "meta.x", "operator": "==", "value": 1}
    assert [document.id for document in store.search(query, filters=filters)] == ["b"]
    assert changes == ["a"]


def test_what_cannot_be_is_said(store, tmp_path):
    query = SparseEmbedding([1], [1.0])
    with pytest.raises(ValueError, match="this store has no words"):
        store.search(query, "cat")
    with pytest.raises(ValueError, match="pass query_sparse_embedding or query"):
        store.search(None)
    with pytest.raises(ValueError, match="the store has no path"):
        store.save()
    with pytest.raises(TypeError, match="policy='overwrite'; pass one such as"):
        store.write_documents([Document(id="a")], "overwrite")
    with pytest.raises(TypeError, match="ids are the str 'abc'"):
        store.delete_documents("abc")
    assert store.count_documents() == 5
    store.save(tmp_path)
    with pytest.raises(ValueError, match="was saved with hidden_dim=64, not hidden_dim=65"):
        CSRDocumentStore(hidden_dim=65, path=str(tmp_path))


def test_values_of_metadata_of_several_kinds():
    store = CSRDocumentStore(hidden_dim=8)
    metas = [{"x": [1, 2]}, {"x": [1, 2]}, {"x": {"a": 1}}, {"x": "b"}, {"x": 3}, {"x": None}, {}]
    store.write_documents([Document(id=f"{n}", meta=meta) for n, meta in enumerate(metas)])
    assert store.get_metadata_field_unique_values("x") == ([3, [1, 2], "b", {"a": 1}], 4)
    assert store.count_unique_metadata_by_filter({}, ["x", "y"]) == {"x": 4, "y": 0}
    assert store.get_metadata_field_min_max("x") == {"min": None, "max": None}
    assert store.get_metadata_fields_info() == {"x": {"type": "int"}}


def test_asynchronous_calls_do_the_same(store, model):
    async def calls():
        component = CSRRetriever(store, top_k=2)
        query = CSRTextEmbedder(model).run(QUERY)["sparse_embedding"]
        found = await component.run_async(query)
        assert found == component.run(query)
        place = {"field": "meta.place", "operator": "<", "value": 2}
        assert await store.count_documents_by_filter_async(place) == 2
        assert await store.update_by_filter_async(place, {"new": 1}) == 2
        assert (
            len(
                await store.filter_documents_async(
                    {"field": "meta.new", "operator": "==", "value": 1}
                )
            )
            == 2
        )
        assert await store.delete_by_filter_async(place) == 2
        await store.delete_documents_async(["c"])
        assert await store.write_documents_async([Document(id="new")]) == 1
        assert await store.count_documents_async() == 3
        await store.delete_all_documents_async()
        assert await store.count_documents_async() == 0

    asyncio.run(calls())
