"""What is written for other engines, by hand, by their clients, and by the real thing if installed.

Elasticsearch, OpenSearch and Vespa cannot be installed by pip: documents, mappings and queries are
compared with the forms of their documentation, and with what their Python clients make of them, see
also test_formats_clients.py. Lucene, which does the work of the first two, is in test_lucene.py.
"""

import json
import math

import numpy as np
import pytest
import scipy.sparse
from stores import CLIENT_WARNINGS, HIDDEN_DIM, random_codes

import csr_st
from csr_st.codes import SparseCodes
from csr_st.search import HybridVectors, SparseIndex
from csr_st.search.formats import chroma, elasticsearch, lancedb, lucene, opensearch, vespa

pytestmark = CLIENT_WARNINGS

# Two documents of 5 latents, the second without an active one; a query.
CODES = SparseCodes(
    np.array([[3, 0], [1, 2]]), np.array([[4, 3], [0, 0]], np.float32), hidden_dim=5
)
QUERY = SparseCodes(np.array([[0, 3]]), np.array([[1, 0]], np.float32), hidden_dim=5)
PAYLOADS = [{"text": "Flügel"}, {}]


class Parts:
    """Codes in shards of 7."""

    def __init__(self, codes):
        self.codes = codes

    def __len__(self):
        return len(self.codes)

    def shards(self):
        return (self.codes[first : first + 7] for first in range(0, len(self.codes), 7))


def test_elasticsearch_has_the_documented_form():
    assert elasticsearch.mapping("v")["mappings"]["properties"]["v"] == {"type": "sparse_vector"}
    documents = list(elasticsearch.documents(CODES, "docs", ids=[7, 8], payloads=PAYLOADS))
    assert documents == [
        {
            "_op_type": "index", "_index": "docs", "_id": "7",
            "code": {"0": 0.6, "3": 0.8}, "payload": {"text": "Flügel"},
        },
        {"_op_type": "index", "_index": "docs", "_id": "8"},
    ]  # fmt: skip
    asked = {"field": "code", "query_vector": {"0": 1.0}, "prune": False}
    assert elasticsearch.queries(QUERY, top_k=3) == [
        {"size": 3, "query": {"sparse_vector": asked}, "_source": ["payload"]}
    ]
    [filtered] = elasticsearch.queries(QUERY, filter=[7, 8])
    assert filtered["query"]["bool"] == {
        "must": [{"sparse_vector": asked}],
        "filter": [{"ids": {"values": ["7", "8"]}}],
    }
    [nothing] = elasticsearch.queries(CODES[1])
    assert nothing["query"] == {"match_none": {}}


def test_opensearch_has_the_documented_form():
    assert opensearch.mapping()["mappings"]["properties"]["code"] == {"type": "rank_features"}
    assert "settings" not in opensearch.mapping()
    options = opensearch.Seismic(n_postings=4000, cluster_ratio=0.1, summary_prune_ratio=0.4)
    body = opensearch.mapping("sparse_embedding", options)
    assert body["settings"] == {"index": {"sparse": True}}
    assert body["mappings"]["properties"]["sparse_embedding"] == {
        "type": "sparse_vector",
        "method": {
            "name": "seismic",
            "parameters": {
                "n_postings": 4000, "cluster_ratio": 0.1, "summary_prune_ratio": 0.4,
                "quantization_ceiling_ingest": 1.0, "quantization_ceiling_search": 1.0,
            },
        },
    }  # fmt: skip
    assert opensearch.queries(QUERY)[0]["query"] == {
        "neural_sparse": {"code": {"query_tokens": {"0": 1.0}}}
    }
    [body] = opensearch.queries(CODES[0], top_k=5, seismic=opensearch.SeismicSearch())
    assert body["query"]["neural_sparse"]["code"] == {
        "query_tokens": {"0": 0.6, "3": 0.8},
        "method_parameters": {"k": 5, "top_n": 2, "heap_factor": 1.0},
    }
    among = {"ids": {"values": ["7", "a b"]}}
    search = opensearch.SeismicSearch(top_n=9, heap_factor=1.5)
    [body] = opensearch.queries(QUERY, filter=["7", "a b"], seismic=search)
    assert body["query"]["neural_sparse"]["code"]["method_parameters"] == {
        "k": 10, "top_n": 9, "heap_factor": 1.5, "filter": among,
    }  # fmt: skip
    [body] = opensearch.queries(QUERY, filter=["7", "a b"])
    assert body["query"]["bool"]["filter"] == [among]


def test_vespa_has_the_documented_form(tmp_path):
    text = vespa.schema("passage")
    assert text.startswith("schema passage {\n    document passage {")
    assert "field code type tensor<float>(latent{}) {" in text
    assert "expression: sum(query(q) * attribute(code))" in text
    assert text.count("{") == text.count("}")
    documents = list(vespa.documents(CODES, ids=["a", "b"], payloads=PAYLOADS, name="passage"))
    assert documents == [
        {
            "put": "id:csr-st:passage::a",
            "fields": {
                "id": "a",
                "payload": '{"text": "Flügel"}',
                "code": {"cells": {"0": 0.6, "3": 0.8}},
                "latents": {"0": 600, "3": 800},
            },
        },
        {"put": "id:csr-st:passage::b", "fields": {"id": "b"}},
    ]
    assert vespa.write_feed(tmp_path / "feed.jsonl", documents) == 2
    lines = (tmp_path / "feed.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == documents
    [body] = vespa.queries(CODES[0], top_k=3, name="passage", candidates=50)
    assert body == {
        "yql": "select id, payload from passage where "
        '({targetHits: 50}wand(latents, {"0": 600, "3": 800}))',
        "ranking.profile": "codes",
        "input.query(q)": {"0": 0.6, "3": 0.8},
        "hits": 3,
    }
    [body] = vespa.queries(CODES[0], candidates=None)
    assert body["yql"] == "select id, payload from doc where true"
    [nothing] = vespa.queries(CODES[1])
    assert nothing["yql"] == "select id, payload from doc where false"
    assert nothing["input.query(q)"] == {}
    with pytest.raises(ValueError, match="name='x where true' is none"):
        vespa.queries(QUERY, name="x where true")
    for wrong in ("", "a\x01", "\0"):
        with pytest.raises(ValueError, match=r"id .* (is empty|has a control character), which"):
            list(vespa.documents(CODES, ids=["a\tb", wrong]))


def test_lucene_has_whole_numbers(tmp_path):
    documents = list(lucene.documents(CODES, ids=["a", "b"], payloads=PAYLOADS, scale=10))
    assert documents == [
        {"id": "a", "contents": "", "vector": {"0": 6, "3": 8}, "payload": {"text": "Flügel"}},
        {"id": "b", "contents": "", "vector": {}},
    ]
    assert lucene.queries(CODES, scale=3) == ["0\t0 0 3 3"]
    small = scipy.sparse.csr_matrix([[0.001, 1]])
    assert next(lucene.documents(small))["vector"] == {"0": 1, "1": 100}
    for wrong in ("", "a b"):
        with pytest.raises(ValueError, match=f"id '{wrong}' is empty or has white space"):
            list(lucene.documents(CODES, ids=["a", wrong]))
    with pytest.raises(ValueError, match=r"latent 1 has the value 1\.0, 20000000 at scale=2"):
        list(lucene.documents(small, scale=20_000_000))


def dot(query, document):
    return math.fsum(query[token] * document.get(token, 0) for token in query)


SIDES = {
    "elasticsearch": (
        lambda source: [d["code"] for d in elasticsearch.documents(source, "docs")],
        lambda q: [b["query"]["sparse_vector"]["query_vector"] for b in elasticsearch.queries(q)],
    ),
    "opensearch": (
        lambda source: [d["code"] for d in opensearch.documents(source, "docs")],
        lambda q: [
            b["query"]["neural_sparse"]["code"]["query_tokens"] for b in opensearch.queries(q)
        ],
    ),
    "vespa": (
        lambda source: [d["fields"]["code"]["cells"] for d in vespa.documents(source)],
        lambda q: [b["input.query(q)"] for b in vespa.queries(q)],
    ),
}


@pytest.mark.parametrize("form", SIDES)
def test_products_are_the_scores_of_the_index(form):
    documents_of, queries_of = SIDES[form]
    documents, queries = random_codes(0, 60), random_codes(1, 6)
    expected = SparseIndex.build(documents).search(queries, top_k=60)
    for source in (documents, Parts(documents), documents.raw()):
        rows = documents_of(source)
        for query, ids, scores in zip(queries_of(queries), *expected, strict=True):
            found = [dot(query, rows[row]) for row in ids]
            np.testing.assert_allclose(found, scores, atol=1e-6)
    # Codes and words of one sparse vector.
    texts = [f"word{n % 7} word{n % 5}" for n in range(60)]
    index = SparseIndex.build(documents, words=texts, language=str.split)
    vectors = HybridVectors.of(index)
    expected = index.search(queries, words=["word3"] * 6, top_k=60)
    rows = documents_of(vectors.documents(documents, texts))
    asked = queries_of(vectors.queries(queries, ["word3"] * 6))
    for query, ids, scores in zip(asked, *expected, strict=True):
        found = [dot(query, rows[row]) for row in ids]
        np.testing.assert_allclose(found, scores, atol=1e-6, rtol=1e-6)


def test_a_code_store_is_written_shard_by_shard(model, texts, tmp_path):
    store = csr_st.CodeStore.encode(model, texts * 4, tmp_path / "codes", k=4, shard_rows=8)
    written = list(vespa.documents(store))
    assert written == list(vespa.documents(store.codes()))
    assert [document["fields"]["id"] for document in written] == [str(n) for n in range(20)]
    table = lancedb.documents(store).read_all()
    found = lancedb.read(table)
    np.testing.assert_array_equal(found.codes.to_dense(), store.codes().normalize().to_dense())
    packed = csr_st.CodeStore.encode(model, texts, tmp_path / "packed", k=4, value_bits=4)
    assert list(lucene.documents(packed)) == list(lucene.documents(packed.codes()))


ALL = {
    "elasticsearch": lambda *a, **k: elasticsearch.documents(a[0], "docs", **k),
    "opensearch": lambda *a, **k: opensearch.documents(a[0], "docs", **k),
    "vespa": vespa.documents,
    "lucene": lucene.documents,
    "lancedb": lancedb.documents,
}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        (CODES, {"ids": [1]}, ValueError, "there are 1 ids for 2 documents"),
        (CODES, {"ids": [1, 1]}, ValueError, "id 1 is given twice"),
        (CODES, {"ids": [1.5, 2]}, TypeError, "ids are of type float"),
        (CODES, {"payloads": [{}]}, ValueError, "there are 1 payloads for 2 documents"),
        (CODES, {"payloads": [{}] * 3}, ValueError, "payloads for 2 documents"),
        (CODES, {"payloads": {}}, TypeError, "payloads are one dict"),
        (CODES, {"payloads": [{}, {"a": math.nan}]}, ValueError, "row 1, 'a' is nan"),
        (CODES.to_dense(), {}, TypeError, "codes are ndarray; pass SparseCodes"),
        (CODES.pack(), {}, TypeError, "codes are PackedCodes; pass .*unpack"),
    ],
)
def test_bad_input_is_named(form, source, options, error, message):
    with pytest.raises(error, match=message):
        list(ALL[form](source, **options))


@pytest.mark.parametrize("ids", [np.arange(50) * 3 + 1, [f"document {n}" for n in range(50)]])
def test_lancedb_keeps_codes_and_the_index_searches_them(ids, tmp_path):
    connect = pytest.importorskip("lancedb").connect
    documents, queries = random_codes(0, 50), random_codes(1, 4)
    payloads = [{"n": n, "text": "ü"} for n in range(50)]
    few = SparseCodes(np.array([[9, 8]]), np.array([[2, 0]], np.float32), HIDDEN_DIM)
    with_few = SparseCodes.concatenate([documents[:40].prefix(2), few.normalize()])
    database = connect(str(tmp_path))
    written = lancedb.documents(documents[:30], ids[:30], payloads[:30])
    table = database.create_table("docs", written)
    table.add(lancedb.documents(documents[30:], ids[30:], payloads[30:]))
    assert table.count_rows() == 50

    found = lancedb.read(connect(str(tmp_path)).open_table("docs").to_arrow())
    assert found.ids.tolist() == list(ids)
    assert found.payloads == payloads
    np.testing.assert_array_equal(found.codes.to_dense(), documents.to_dense())
    np.testing.assert_array_equal(found.codes.norms, documents.norms)
    assert found.codes.hidden_dim == HIDDEN_DIM
    index = SparseIndex.build(found.codes, found.ids)
    expected = SparseIndex.build(documents, ids)

    condition = "id >= 100" if isinstance(ids, np.ndarray) else "id LIKE '%1%'"
    rows = table.search().where(condition).select(["id"]).limit(None).to_arrow()
    chosen = [key for key in ids if (key >= 100 if condition == "id >= 100" else "1" in key)]
    assert sorted(rows["id"].to_pylist()) == sorted(chosen)
    results = index.search(queries, 5, filter=rows["id"])
    np.testing.assert_array_equal(results.ids, expected.search(queries, 5, filter=chosen).ids)

    table.delete(condition)
    left = lancedb.read(table.to_arrow())
    assert left.ids.tolist() == [key for key in ids if key not in set(chosen)]

    # Rows of fewer latents than the others keep theirs.
    short = database.create_table("short", lancedb.documents(with_few)).to_arrow()
    np.testing.assert_array_equal(lancedb.read(short).codes.to_dense(), with_few.to_dense())
    with pytest.raises(ValueError, match="the table has no latents"):
        lancedb.read(short.select(["id", "norm"]))
    with pytest.raises(ValueError, match="the table has no hidden_dim"):
        lancedb.read(short.replace_schema_metadata())


def test_lancedb_names_wrong_rows(tmp_path):
    connect = pytest.importorskip("lancedb").connect
    table = connect(str(tmp_path)).create_table("docs", lancedb.documents(random_codes(0, 5)))
    other = random_codes(1, 5, hidden_dim=200)
    table.add(lancedb.documents(other, ids=range(5, 10)))
    message = r'hidden_dim=300, but also rows of .*; remove them by .*\("hidden_dim = 200"\)'
    with pytest.raises(ValueError, match=message):
        lancedb.read(table.to_arrow())
    table.delete("hidden_dim = 200")
    assert lancedb.read(table.to_arrow()).ids.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the table has no hidden_dim"):
        lancedb.read(table.to_arrow().drop_columns("hidden_dim"))
    wrong = lancedb.documents(random_codes(1, 2), ids=[5, 6], payloads=[{}, {"a": math.nan}])
    with pytest.raises(RuntimeError, match="row 1, 'a' is nan"):
        table.add(wrong)
    assert table.count_rows() == 5
    nothing = table.search().where("id > 100").limit(None).to_arrow()
    assert lancedb.read(nothing).codes.hidden_dim == HIDDEN_DIM


@pytest.mark.parametrize("form", ALL)
def test_payloads_may_come_from_an_iterator(form):
    read = []

    def payloads(n):
        for number in range(n):
            read.append(number)
            yield {"n": number}

    codes = random_codes(0, 30_000, k=1)
    documents = iter(ALL[form](codes, payloads=payloads(30_000)))
    next(documents)
    assert len(read) <= 10_000  # as many as were written
    list(documents)
    assert len(read) == 30_000
    for n in (29_999, 30_001):
        with pytest.raises(ValueError, match="payloads for 30000 documents"):
            list(ALL[form](codes, payloads=payloads(n)))


def test_chroma_gets_its_own_types():
    chromadb = pytest.importorskip("chromadb")
    batches = list(chroma.documents(CODES, ids=["a", "b"], payloads=PAYLOADS, batch_size=1))
    vector = chromadb.SparseVector(indices=[0, 3], values=[0.6000000238418579, 0.800000011920929])
    assert batches == [
        {"ids": ["a"], "metadatas": [{"text": "Flügel", "code": vector}]},
        {"ids": ["b"], "metadatas": [None]},
    ]
    from chromadb.api.types import validate_metadatas

    validate_metadatas(batches[0]["metadatas"])
    schema = chroma.schema("latents").serialize_to_json()
    assert schema["keys"]["latents"]["sparse_vector"]["sparse_vector_index"]["enabled"] is True
    [search] = chroma.queries(QUERY, top_k=4)
    about = search.to_dict()
    assert about["rank"]["$knn"] == {
        "query": {"#type": "sparse_vector", "indices": [0], "values": [1.0]},
        "key": "code",
        "limit": 4,
    }
    assert about["limit"] == {"offset": 0, "limit": 4}
    with pytest.raises(ValueError, match="query 1 has no active latent"):
        chroma.queries(CODES)
    with pytest.raises(ValueError, match="the payload of id 0 has 'text', where the code goes"):
        list(chroma.documents(CODES, payloads=PAYLOADS, key="text"))


def test_a_local_chroma_still_refuses_sparse_vectors(tmp_path):
    """Fails once Chroma can: then an engine for it is due."""
    chromadb = pytest.importorskip("chromadb")
    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(tmp_path), settings=settings)
    with pytest.raises(Exception, match="Sparse vector indexing is not enabled in local"):
        client.create_collection("documents", schema=chroma.schema(), embedding_function=None)
