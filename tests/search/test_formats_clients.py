"""The real clients of Elasticsearch and OpenSearch send what we write for them, and bad input.

In the place of a server: one on loopback that keeps the documents of ``_bulk`` and scores a search
as the documentation of both says, by the product of the weights that document and query share.
"""

import json
import math
import re
import shutil
import subprocess
import threading
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.sparse
from stores import CLIENT_WARNINGS, random_codes

from csr_st.search import SparseIndex
from csr_st.search.formats import elasticsearch, opensearch

pytestmark = CLIENT_WARNINGS
ROW = random_codes(0, 1)


class Documented(BaseHTTPRequestHandler):
    """As much of both engines as a client of ours asks for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        path = self.path.split("?")[0]
        if path.endswith("_bulk"):
            answer = self.bulk([json.loads(line) for line in body.splitlines()])
        elif path == "/docs/_search":
            answer = self.search(json.loads(body))
        else:
            assert path == "/docs"
            self.server.created = json.loads(body)
            answer = {"acknowledged": True, "shards_acknowledged": True, "index": "docs"}
        self.answer(answer)

    do_PUT = do_POST

    def do_GET(self):
        self.answer({"version": {"number": "9.0.0"}, "tagline": "You Know, for Search"})

    def answer(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        kind = re.sub("x-ndjson", "json", self.headers.get("Accept", "application/json"))
        self.send_header("Content-Type", kind if "json" in kind else "application/json")
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def bulk(self, lines):
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            ((kind, about),) = action.items()
            assert kind == "index"
            assert about["_index"] == "docs"
            self.server.documents[about["_id"]] = document
            items.append({kind: {"_id": about["_id"], "_index": "docs", "status": 201}})
        return {"took": 1, "errors": False, "items": items}

    def search(self, body):
        query, allowed = body["query"], None
        if "bool" in query:
            (condition,) = query["bool"]["filter"]
            (query,) = query["bool"]["must"]
            allowed = condition["ids"]["values"]
        if "sparse_vector" in query:
            assert query["sparse_vector"]["field"] == "code"
            weights = query["sparse_vector"]["query_vector"]
        else:
            weights = query["neural_sparse"]["code"]["query_tokens"]
        hits = []
        for key, document in self.server.documents.items():
            shared = weights.keys() & document.get("code", {}).keys()
            if shared and (allowed is None or key in allowed):
                score = sum(weights[token] * document["code"][token] for token in shared)
                source = {name: document[name] for name in body["_source"] if name in document}
                hits.append({"_index": "docs", "_id": key, "_score": score, "_source": source})
        hits.sort(key=lambda hit: -hit["_score"])
        about = {"total": {"value": len(hits), "relation": "eq"}, "max_score": None}
        return {"took": 1, "timed_out": False, "hits": {**about, "hits": hits[: body["size"]]}}

    def log_message(self, *arguments): ...


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Documented) as server:
        server.documents, server.created = {}, None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("engine", ["elasticsearch", "opensearch"])
def test_a_client_creates_loads_and_searches(engine, server):
    address = f"http://127.0.0.1:{server.server_port}"
    documents, queries = random_codes(0, 300), random_codes(1, 6)
    ids, payloads = [f"d{n}" for n in range(300)], [{"n": n} for n in range(300)]
    if engine == "elasticsearch":
        package = pytest.importorskip("elasticsearch")
        from elasticsearch import helpers

        form, client = elasticsearch, package.Elasticsearch(address)
        client.indices.create(index="docs", **elasticsearch.mapping())
    else:
        package = pytest.importorskip("opensearchpy")
        from opensearchpy import helpers

        form, client = opensearch, package.OpenSearch(address)
        client.indices.create(index="docs", body=opensearch.mapping())
    assert server.created == form.mapping()
    loaded, errors = helpers.bulk(
        client, form.documents(documents, "docs", ids=ids, payloads=payloads), chunk_size=100
    )
    assert (loaded, errors) == (300, [])
    index = SparseIndex.build(documents, ids)
    for allowed in (None, ids[::3]):
        expected = index.search(queries, top_k=5, filter=allowed)
        for row, body in enumerate(form.queries(queries, top_k=5, filter=allowed)):
            if engine == "elasticsearch":
                hits = client.search(index="docs", **body)["hits"]["hits"]
            else:
                hits = client.search(index="docs", body=body)["hits"]["hits"]
            assert [hit["_id"] for hit in hits] == expected.ids[row].tolist()
            scores = [hit["_score"] for hit in hits]
            np.testing.assert_allclose(scores, expected.scores[row], atol=1e-6)
            assert [hit["_source"]["payload"]["n"] for hit in hits] == [
                int(key[1:]) for key in expected.ids[row]
            ]
    client.close()


@pytest.mark.parametrize(
    ("form", "client"), [(elasticsearch, "elasticsearch"), (opensearch, "opensearchpy")]
)
def test_bulk_lines_are_those_of_the_client(form, client, tmp_path):
    expand = pytest.importorskip(f"{client}.helpers").expand_action
    documents = list(form.documents(random_codes(0, 9), "docs", payloads=[{"n": 1}] * 9))
    assert form.write_bulk(tmp_path / "bulk.ndjson", documents) == 9
    lines = (tmp_path / "bulk.ndjson").read_text(encoding="utf-8")
    assert lines.endswith("\n")
    written = [json.loads(line) for line in lines.splitlines()]
    expected = []
    for document in documents:
        expected += expand(document)
    assert written == expected


@pytest.mark.parametrize("form", [elasticsearch, opensearch])
@pytest.mark.parametrize("wrong", ["", "x" * 513])
def test_ids_that_the_engine_refuses_are_named(form, wrong):
    with pytest.raises(ValueError, match=r"id .* has (0|513) bytes; the engine takes 1 to 512"):
        list(form.documents(random_codes(0, 2), "docs", ids=["a", wrong]))


@pytest.mark.skipif(shutil.which("split") is None, reason="no program split")
def test_a_large_file_is_sent_in_parts(server, tmp_path):
    documents = elasticsearch.documents(random_codes(0, 50), "docs", payloads=[{"n": 1}] * 50)
    assert elasticsearch.write_bulk(tmp_path / "bulk.ndjson", documents) == 50
    command = ["split", "-l", "40", "bulk.ndjson", "part-"]
    subprocess.run(command, cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("part-*"))
    assert len(parts) == 3
    for part in parts:
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.server_port}/_bulk", part.read_bytes()
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["errors"] is False
    assert server.documents.keys() == {str(n) for n in range(50)}


@pytest.mark.parametrize("form", [elasticsearch, opensearch])
@pytest.mark.parametrize("field", ["", "payload", "payload.code", "_id", "_code"])
def test_fields_with_another_use_are_refused(form, field):
    for call in (form.mapping, partial(form.documents, ROW, "docs"), partial(form.queries, ROW)):
        with pytest.raises(ValueError, match=f"field='{field}' cannot hold the code"):
            call(field=field)


@pytest.mark.parametrize("form", [elasticsearch, opensearch])
def test_values_that_lucene_refuses_are_left_out(form):
    small = scipy.sparse.csr_matrix([[1e-39, 2**-126, 1], [1e-39, 0, 0]])
    one, none = form.documents(small, "docs")
    assert one["code"] == {"1": 1.1754944e-38, "2": 1.0}
    assert "code" not in none
    assert [body["query"] == {"match_none": {}} for body in form.queries(small)] == [False, True]


def test_opensearch_takes_query_weights_up_to_64():
    vectors = scipy.sparse.csr_matrix([[1.0, 0], [64, 1], [65, 0]])
    assert len(opensearch.queries(vectors[:2])) == 2
    assert len(elasticsearch.queries(vectors)) == 3
    for search in (None, opensearch.SeismicSearch()):
        message = "query 2 has the value 65.0; OpenSearch takes at most 64: divide"
        with pytest.raises(ValueError, match=message):
            opensearch.queries(vectors, seismic=search)
        assert len(opensearch.queries(vectors / 2, seismic=search)) == 3


def test_seismic_refuses_latents_that_it_would_confuse():
    """OpenSearch takes them for the remainder by 32,768."""
    wide = scipy.sparse.csr_matrix(([1.0, 1.0], ([0, 1], [32_767, 32_768 + 5])), (2, 40_000))
    written = opensearch.documents(wide, "docs", ids=["a", "b"], seismic=opensearch.Seismic())
    assert next(written)["code"] == {"32767": 1.0}
    message = r"id 'b' has latent 32773, which SEISMIC would take for 5: .* below 32768; search"
    with pytest.raises(ValueError, match=message):
        next(written)
    with pytest.raises(ValueError, match="query 1 has latent 32773"):
        opensearch.queries(wide, seismic=opensearch.SeismicSearch())
    assert len(list(opensearch.documents(wide, "docs"))) == len(opensearch.queries(wide)) == 2


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("n_postings", 0, ValueError, "is not within 1..2147483647"),
        ("n_postings", 0.5, TypeError, "is a float; pass an integer"),
        ("n_postings", 2**31, ValueError, "is not within 1..2147483647"),
        ("approximate_threshold", -5, ValueError, "is not within 0..2147483647"),
        ("approximate_threshold", False, TypeError, "is a bool; pass an integer"),
        ("cluster_ratio", 0, ValueError, "must be above 0 and below 1"),
        ("cluster_ratio", 1.0, ValueError, "must be above 0 and below 1"),
        ("cluster_ratio", "0.1", TypeError, "is a str; pass a number"),
        ("summary_prune_ratio", 1.1, ValueError, "must be above 0 and at most 1"),
        ("quantization_ceiling_ingest", math.inf, ValueError, "must be above 0 and finite"),
        ("quantization_ceiling_search", math.nan, ValueError, "must be above 0 and finite"),
        ("top_n", 2.5, TypeError, "is a float; pass an integer"),
        ("heap_factor", 0, ValueError, "must be above 0 and finite"),
    ],
)
def test_settings_of_seismic_that_opensearch_refuses_are_named(name, value, error, message):
    kind = opensearch.SeismicSearch if name in ("top_n", "heap_factor") else opensearch.Seismic
    with pytest.raises(error, match=f"{name}=.* {message}"):
        kind(**{name: value})


def test_settings_of_seismic_may_be_of_numpy():
    options = opensearch.Seismic(
        n_postings=np.int64(9), summary_prune_ratio=np.float32(1), approximate_threshold=0
    )
    written = json.loads(json.dumps(opensearch.mapping(seismic=options)))
    parameters = written["mappings"]["properties"]["code"]["method"]["parameters"]
    assert parameters["n_postings"] == 9
    assert parameters["summary_prune_ratio"] == 1
    assert parameters["approximate_threshold"] == 0
