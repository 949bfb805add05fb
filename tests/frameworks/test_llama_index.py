"""The vector store of LlamaIndex, by itself and through VectorStoreIndex.

LlamaIndex publishes no tests that a vector store could be put to.
"""

from __future__ import annotations

import asyncio
import datetime
import threading

import numpy as np
import pytest

pytest.importorskip("numba")
pytest.importorskip("llama_index.core")
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode

import csr_st
from csr_st import SparseIndex
from csr_st.frameworks.llama_index import CSRVectorStore

TEXTS = ["the cat sat on the mat", "a dog ran in the house", "blue fish", "bird flew", "sea"]


class Backbone(BaseEmbedding):
    """Dense vectors of a SentenceTransformer, as LlamaIndex asks for them."""

    _model: object = PrivateAttr()

    def __init__(self, model):
        super().__init__()
        self._model = model

    def _get_text_embedding(self, text):
        return self._model.encode_document(text).tolist()

    def _get_query_embedding(self, query):
        return self._model.encode_query(query).tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


def node(id, text, parent=None, **metadata):
    found = TextNode(id_=id, text=text, metadata=metadata)
    found.excluded_embed_metadata_keys = list(metadata)
    if parent:
        found.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=parent)
    return found


@pytest.fixture
def nodes():
    return [
        node("a", TEXTS[0], "first", year=1950, kind=["pet", "land"]),
        node("b", TEXTS[1], "first", year=1960),
        node("c", TEXTS[2], "second", year=1970, kind=["pet", "water"]),
        node("d", TEXTS[3], "second", year=1980, note=""),
        node("e", TEXTS[4]),
    ]


@pytest.fixture
def store(model, nodes):
    store = CSRVectorStore(model, query_k=16)
    assert store.add(nodes) == list("abcde")
    return store


def asked(text="red fish in the sea", top_k=5, **options):
    return VectorStoreQuery(query_str=text, similarity_top_k=top_k, **options)


def exact(model, text="red fish in the sea", query_k=16):
    """Ids and scores of all texts by the index of this package."""
    documents = csr_st.encode(model, TEXTS, role="document")
    query = csr_st.encode(model, [text], k=query_k, role="query")
    found = SparseIndex.build(documents, list("abcde")).search(query, 5)
    return found.ids[0].tolist(), found.scores[0]


def test_finds_what_the_index_finds(store, model):
    found = store.query(asked())
    ids, scores = exact(model)
    assert found.ids == ids
    assert np.allclose(found.similarities, scores, atol=1e-6)
    assert [node.get_content() for node in found.nodes] == [TEXTS["abcde".index(i)] for i in ids]
    assert store.query(asked(top_k=2)).ids == ids[:2]


def test_nodes_come_back_as_they_were_and_as_copies(store, nodes):
    found = store.get_nodes(["c", "a", "unknown"])
    assert {node.node_id: node for node in found} == {"a": nodes[0], "c": nodes[2]}
    found[0].metadata["year"] = 0
    assert store.get_nodes(["a"]) == [nodes[0]]


def test_adding_a_known_id_replaces_the_node(store, model):
    store.add([node("a", TEXTS[2])])
    assert len(store.client) == 5
    best = store.query(asked(TEXTS[2], 2))
    assert set(best.ids) == {"a", "c"}
    assert best.similarities[0] == pytest.approx(best.similarities[1])


def test_delete(store):
    store.delete("first")
    assert set(store.query(asked()).ids) == set("cde")
    store.delete("unknown")
    store.delete_nodes(["c", "unknown"])
    assert set(store.query(asked()).ids) == set("de")
    year = MetadataFilters(filters=[MetadataFilter(key="year", value=1980)])
    store.delete_nodes(["e"], year)
    assert len(store.client) == 2
    store.delete_nodes(filters=year)
    assert set(store.query(asked()).ids) == {"e"}
    with pytest.raises(ValueError, match=r"clear\(\) removes all"):
        store.delete_nodes()
    store.clear()
    assert store.query(asked()).ids == []
    store.add([node("a", "blue fish")])
    assert store.query(asked()).ids == ["a"]


@pytest.mark.parametrize(
    ("key", "operator", "value", "wanted"),
    [
        ("year", FilterOperator.EQ, 1960, "b"),
        ("year", FilterOperator.NE, 1960, "acde"),
        ("year", FilterOperator.GT, 1960, "cd"),
        ("year", FilterOperator.LTE, 1960, "ab"),
        ("year", FilterOperator.IN, [1950, 1980], "ad"),
        ("year", FilterOperator.NIN, [1950, 1980], "bce"),
        ("kind", FilterOperator.CONTAINS, "water", "c"),
        ("kind", FilterOperator.ANY, ["land", "water"], "ac"),
        ("kind", FilterOperator.ALL, ["pet", "water"], "c"),
        ("note", FilterOperator.IS_EMPTY, None, "abcde"),
        ("ref_doc_id", FilterOperator.EQ, "second", "cd"),
    ],
)
def test_filters(store, key, operator, value, wanted):
    filters = MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])
    assert sorted(store.query(asked(filters=filters)).ids) == list(wanted)
    assert [node.node_id for node in store.get_nodes(filters=filters)] == list(wanted)


def test_filters_within_filters(store):
    early = MetadataFilter(key="year", value=1960, operator=FilterOperator.LTE)
    pet = MetadataFilter(key="kind", value="pet", operator=FilterOperator.CONTAINS)
    both = MetadataFilters(filters=[early, pet])
    either = MetadataFilters(filters=[early, pet], condition=FilterCondition.OR)
    neither = MetadataFilters(filters=[either], condition=FilterCondition.NOT)
    for filters, wanted in ((both, "a"), (either, "abc"), (neither, "de")):
        assert sorted(store.query(asked(filters=filters)).ids) == list(wanted)


def test_ids_of_nodes_and_documents_limit_a_query(store):
    assert sorted(store.query(asked(node_ids=["a", "e", "x"])).ids) == ["a", "e"]
    assert sorted(store.query(asked(doc_ids=["second"])).ids) == ["c", "d"]
    assert sorted(store.query(asked(doc_ids=["second"], node_ids=["d", "a"])).ids) == ["d"]
    assert store.query(asked(doc_ids=["unknown"])).ids == []


def test_mmr_chooses_nodes_that_are_unlike_each_other(model, nodes):
    store = CSRVectorStore(model, query_k=16)
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(1))
    index.insert_nodes([*nodes, node("f", TEXTS[2])])  # "f" is as "c"
    best = store.query(asked("blue fish", 3)).ids
    assert best[:2] == ["c", "f"]

    def found(**options):
        retriever = index.as_retriever(
            vector_store_query_mode="mmr", similarity_top_k=3, vector_store_kwargs=options
        )
        return [hit.node_id for hit in retriever.retrieve("blue fish")]

    assert found(mmr_threshold=1.0) == best
    assert found()[0] == "c"
    assert "f" not in found()
    assert sorted(found(mmr_prefetch_k=3)) == sorted(best)


def test_words(model, nodes):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    store = CSRVectorStore(model, query_k=16, words=True, weight=0.5)
    store.add(nodes)
    documents = csr_st.encode(model, TEXTS, role="document")
    query = csr_st.encode(model, ["birds"], k=16, role="query")
    index = SparseIndex.build(documents, list("abcde"), words=TEXTS, weight=0.5)

    def same(mode, codes, alpha=None, **options):
        wanted = index.search(codes, 5, **options)
        found = store.query(asked("birds", mode=mode, alpha=alpha))
        assert found.ids == wanted.ids[0].tolist()
        assert np.allclose(found.similarities, wanted.scores[0], atol=1e-6)

    same(VectorStoreQueryMode.DEFAULT, query)
    same(VectorStoreQueryMode.SPARSE, query)
    same(VectorStoreQueryMode.HYBRID, query, words=["birds"])
    same(VectorStoreQueryMode.HYBRID, query, alpha=0.8, words=["birds"], weight=0.25)
    same(VectorStoreQueryMode.HYBRID, query, alpha=1.0)
    same(VectorStoreQueryMode.TEXT_SEARCH, None, words=["birds"])
    assert store.query(asked("birds", 1, mode=VectorStoreQueryMode.TEXT_SEARCH)).ids == ["d"]
    with pytest.raises(ValueError, match=r"alpha=1e-09 is too small: words would weigh 1e\+09"):
        store.query(asked(mode=VectorStoreQueryMode.HYBRID, alpha=1e-9))
    with pytest.raises(ValueError, match=r"alpha=2 is not within 0\.\.1"):
        store.query(asked(mode=VectorStoreQueryMode.HYBRID, alpha=2))


def test_an_index_of_documents_by_a_model(model, tmp_path):
    """Splits, adds, retrieves, deletes, persists and opens again as LlamaIndex' manual says."""
    documents = [
        Document(text=text, id_=id, metadata={"place": place})
        for place, (id, text) in enumerate(zip("abcde", TEXTS, strict=True))
    ]
    for each in documents:
        each.excluded_embed_metadata_keys = ["place"]
    store = CSRVectorStore(model, query_k=16)
    index = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=MockEmbedding(1),
        transformations=[SentenceSplitter()],
    )
    ids, scores = exact(model)
    found = index.as_retriever(similarity_top_k=5).retrieve("red fish in the sea")
    assert [hit.node.ref_doc_id for hit in found] == ids
    assert np.allclose([hit.score for hit in found], scores, atol=1e-6)
    later = asyncio.run(index.as_retriever(similarity_top_k=5).aretrieve("red fish in the sea"))
    assert [hit.node_id for hit in later] == [hit.node_id for hit in found]
    index.delete_ref_doc(ids[0])
    assert [hit.node.ref_doc_id for hit in index.as_retriever(similarity_top_k=5).retrieve("sea")]
    index.storage_context.persist(tmp_path)
    path = tmp_path / "default__vector_store.json"
    opened = VectorStoreIndex.from_vector_store(
        CSRVectorStore.from_persist_path(path, model), embed_model=MockEmbedding(1)
    )
    again = opened.as_retriever(similarity_top_k=5).retrieve("red fish in the sea")
    assert [hit.node.ref_doc_id for hit in again] == ids[1:]
    assert [hit.node for hit in again] == [hit.node for hit in found[1:]]


def test_an_index_of_dense_vectors_by_a_head(model, backbone, head):
    """Codes of the vectors of an embedding model are those of the model with the head."""
    store = CSRVectorStore(head=head, query_k=16)
    index = VectorStoreIndex(
        [node(id, text) for id, text in zip("abcde", TEXTS, strict=True)],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=Backbone(backbone),
    )
    ids, scores = exact(model)
    found = index.as_retriever(similarity_top_k=5).retrieve("red fish in the sea")
    assert [hit.node_id for hit in found] == ids
    assert np.allclose([hit.score for hit in found], scores, atol=1e-5)
    with pytest.raises(ValueError, match="needs query_embedding in a store with a head"):
        store.query(asked())
    with pytest.raises(ValueError, match="node 'f' has no embedding"):
        store.add([node("f", "sea")])
    assert len(store.client) == 5


def test_rescoring_ranks_by_the_decoder(model, head, nodes):
    store = CSRVectorStore(model, rescore=5)
    store.add(nodes)
    documents = csr_st.encode(model, TEXTS, role="document")
    dense = csr_st.encode_dense(model, ["red fish"], role="query")
    rebuilt = csr_st.Decoder.from_head(head).decode(documents)
    rebuilt /= np.linalg.norm(rebuilt, axis=1, keepdims=True)
    wanted = rebuilt @ (dense[0] / np.linalg.norm(dense[0]))
    found = store.query(asked("red fish"))
    assert found.ids == [list("abcde")[place] for place in np.argsort(-wanted)]
    assert np.allclose(found.similarities, -np.sort(-wanted), atol=1e-5)


def test_every_kind_of_node_survives_a_round_trip(model, tmp_path):
    given = [
        node("a", "the cat", "first", year=1950),
        IndexNode(id_="b", text="a dog", index_id="other"),
        ImageNode(id_="c", text="blue fish", image_url="https://example.org/fish.png"),
        Node(id_="d", text_resource=MediaResource(text="bird flew"), metadata={"n": None}),
    ]
    store = CSRVectorStore(model)
    store.add(given)
    store.persist(str(tmp_path / "nodes.json"))
    opened = CSRVectorStore.from_persist_path(tmp_path / "nodes.json", model)
    assert opened.get_nodes() == given
    assert opened.query(asked("blue fish", 1)).ids == ["c"]
    opened.add([node("e", "sea")])
    assert len(opened.client) == 5


def test_what_is_given_is_copied(model):
    given = node("a", "the cat", deep={"n": 1})
    store = CSRVectorStore(model)
    store.add([given])
    given.metadata["deep"]["n"] = 2
    given.metadata["new"] = 1
    assert store.get_nodes(["a"])[0].metadata == {"deep": {"n": 1}}


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2020, 1, 1),
        (1, 2),
        {1, 2},
        float("nan"),
        b"x",
        {1: 2},
        {"a": [(1,)]},
        object(),
    ],
)
def test_metadata_that_json_would_change_are_named_and_leave_the_files(store, value, tmp_path):
    store.persist(str(tmp_path / "x.json"))
    before = sorted(tmp_path.iterdir())
    store.add([node("odd", "cat", x=value)])
    with pytest.raises((TypeError, ValueError), match=r"node 'odd' .* keep text, numbers"):
        store.persist(str(tmp_path / "x.json"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_storage_context_is_persisted_and_opened(model, tmp_path):
    store = CSRVectorStore(model, query_k=16)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(
        [node("a", TEXTS[0]), node("b", TEXTS[1])],
        storage_context=context,
        embed_model=MockEmbedding(1),
        store_nodes_override=True,
    )
    index.storage_context.persist(tmp_path)
    with pytest.raises(ValueError, match=r"open this with CSRVectorStore\.from_persist_dir"):
        StorageContext.from_defaults(persist_dir=str(tmp_path))
    opened = CSRVectorStore.from_persist_dir(tmp_path, model)
    context = StorageContext.from_defaults(persist_dir=str(tmp_path), vector_store=opened)
    again = load_index_from_storage(context, embed_model=MockEmbedding(1))
    found = again.as_retriever(similarity_top_k=2).retrieve("dog")
    assert [hit.node_id for hit in found] == store.query(asked("dog", 2)).ids
    with pytest.raises(FileNotFoundError):
        CSRVectorStore.from_persist_dir(tmp_path, model, namespace="other")


def test_an_ingestion_pipeline_needs_a_vector_of_each_node(model):
    """Ours to know, as the module says: LlamaIndex leaves other nodes out without a word."""
    documents = [Document(text=text) for text in TEXTS]
    for last, stored in (([], 0), ([MockEmbedding(1)], 5)):
        store = CSRVectorStore(model)
        steps = [SentenceSplitter(), *last]
        pipeline = IngestionPipeline(transformations=steps, vector_store=store)
        assert len(pipeline.run(documents=documents)) == 5
        assert len(store.client) == stored


def test_asynchronous_calls_do_the_same_in_other_threads(model, nodes):
    threads = set()

    class Watched(CSRVectorStore):
        def add(self, nodes, **options):
            threads.add(threading.get_ident())
            return super().add(nodes, **options)

        def query(self, query, **options):
            threads.add(threading.get_ident())
            return super().query(query, **options)

    async def calls():
        store = Watched(model)
        assert await store.async_add(nodes) == list("abcde")
        assert (await store.aquery(asked())).ids == store.query(asked()).ids
        threads.discard(threading.get_ident())
        assert threads
        assert await store.aget_nodes(["c", "a"]) == [nodes[2], nodes[0]]
        await store.adelete("first")
        await store.adelete_nodes(["e"])
        assert sorted(each.node_id for each in store.get_nodes()) == ["c", "d"]
        await store.aclear()
        assert store.get_nodes() == []

    asyncio.run(calls())


def test_a_node_that_goes_to_another_document_meanwhile_is_not_deleted(model):
    """As when another thread adds it while the nodes of the document are looked for."""
    store, changed = CSRVectorStore(model), []

    class Moving(TextNode):
        @property
        def ref_doc_id(self):
            if not changed:
                thread = threading.Thread(target=store.add, args=([node("a", "sea", "new")],))
                thread.start()
                thread.join(0.2)  # it waits for the end of the deletion
                changed.append(thread)
            return "old"

    store.add([Moving(id_="a", text="the cat")])
    changed.clear()
    store.delete("old")
    changed[0].join()
    assert [each.ref_doc_id for each in store.get_nodes()] == ["new"]


def test_what_cannot_be_is_said(model, head, store, tmp_path):
    for options in ({}, {"model": model, "head": head}):
        with pytest.raises(ValueError, match="pass a model, which encodes texts, or head="):
            CSRVectorStore(**options)
    with pytest.raises(ValueError, match="make the store with words=True"):
        store.query(asked(mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(ValueError, match="mode 'svm': use default"):
        store.query(asked(mode=VectorStoreQueryMode.SVM))
    with pytest.raises(ValueError, match="mmr_threshold=2 is not within"):
        store.query(asked(mode=VectorStoreQueryMode.MMR, mmr_threshold=2))
    with pytest.raises(ValueError, match="pass the text of the query"):
        store.query(asked(None))
    with pytest.raises(ValueError, match="local files only"):
        store.persist(str(tmp_path / "x.json"), fs=object())
    with pytest.raises(FileNotFoundError):
        CSRVectorStore.from_persist_path(tmp_path / "x.json", model)
    store.persist(str(tmp_path / "x.json"))
    other = csr_st.SparseCSRHead(16, hidden_dim=32)
    with pytest.raises(ValueError, match="hidden_dim=32, the store 64"):
        CSRVectorStore.from_persist_path(tmp_path / "x.json", head=other)
