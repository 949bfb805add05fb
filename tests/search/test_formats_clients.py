"""The real clients of Elasticsearch and OpenSearch send what we write for them.

In the place of a server: one on loopback that keeps the documents of ``_bulk`` and scores a search
as the documentation of both says, by the product of the weights that document and query share.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from stores import CLIENT_WARNINGS, random_codes

from csr_st.search import SparseIndex
from csr_st.search.formats import elasticsearch, opensearch

pytestmark = CLIENT_WARNINGS


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
