"""What the app refuses, each in one sentence with value, bound and fix."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("numba")

from fastapi.testclient import TestClient
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import SparseIndex
from csr_st.serving import Limits, create_app
from csr_st.vectors import VectorInput


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


WRONG = [  # path, body, status, what the message has
    ("/embed_sparse", {}, 422, ["inputs", "required"]),
    ("/embed_sparse", {"inputs": []}, 422, ["inputs", "empty", "one text"]),
    ("/embed_sparse", {"inputs": 3}, 422, ["inputs", "3", "a list of texts"]),
    ("/embed_sparse", {"inputs": ["a", None]}, 422, ["[1] is None", "must be a text"]),
    ("/embed_sparse", {"inputs": ["a"] * 5}, 413, ["5 texts", "4 is the most", "several"]),
    ("/embed_sparse", {"inputs": ["a", "b" * 101]}, 413, ["inputs[1]", "101", "100", "shorten"]),
    ("/embed_sparse", {"inputs": "b" * 3000}, 413, ["3,013 bytes", "2,000 is the most"]),
    ("/embed_sparse", {"inputs": "a", "k": 0}, 422, ["k=0", "1 <= k <= 64"]),
    ("/embed_sparse", {"inputs": "a", "k": 65}, 422, ["k=65", "hidden_dim=64"]),
    ("/embed_sparse", {"inputs": "a", "k": "8"}, 422, ["k: ", "integer", "'8'"]),
    ("/embed_sparse", {"inputs": "a", "k": True}, 422, ["k: ", "integer", "True"]),
    ("/embed_sparse", {"inputs": "a", "role": "x"}, 422, ["role", "'query' or 'document'", "'x'"]),
    ("/embed_sparse", {"inputs": "a", "prompt_name": "x"}, 422, ["'x'", "'query', 'document'"]),
    ("/embed_sparse", {"inputs": "a", "truncation_direction": "left"}, 422, ["right", "'left'"]),
    ("/embed_sparse", {"inputs": "a", "top_k": 3}, 422, ["top_k", "no such field"]),
    ("/embed_sparse", [], 422, ["JSON object"]),
    ("/search", {"query": "a", "top_k": 6}, 422, ["top_k=6", "1..5"]),
    ("/search", {"query": "a", "top_k": 0}, 422, ["top_k=0", "1..5"]),
    ("/search", {"query": "a", "k": 9}, 422, ["k=9", "8"]),
    ("/search", {"query": "a", "query_k": 65}, 422, ["query_k=65", "64"]),
    ("/search", {"query": "a", "rescore": -1}, 422, ["rescore", "-1"]),
    ("/search", {"query": "a", "weight": 0.2}, 422, ["weight=0.2", "words"]),
    ("/search", {"query": "a", "approximate": 2}, 422, ["approximate=2"]),
    ("/search", {"query": "a", "filter": [77]}, 422, ["77"]),
    ("/search", {"query": "a", "filter": ["x"]}, 422, ["x"]),
    ("/search", {"query": "a", "filter": [0.5]}, 422, ["filter", "0.5"]),
    ("/search", {"query": "a", "filter": [1, "x"]}, 422, ["filter", "[1] is 'x'", "all texts"]),
    ("/search", {"query": "a", "filter": [1, True]}, 422, ["[1] is True"]),
    ("/search", {"query": "a", "rescore": 51}, 422, ["rescore=51", "0..50"]),
    (
        "/search",
        {"query": ["a"] * 4, "top_k": 5},
        422,
        ["20 hits", "18 is the most", "lower top_k"],
    ),
    ("/search", {"query": "a", "boost": {"1": True}}, 422, ["boost", "1 is True", "finite number"]),
    ("/search", {"query": "a", "boost": [1]}, 422, ["boost", "latents to factors"]),
    ("/search", {"query": "a", "boost": {"64": 2.0}}, 422, ["64"]),
    ("/search", {"query": "a", "boost": {"x": 2.0}}, 422, ["boost", "'x'"]),
    ("/search", {"query": "a", "boost": {"1": 2.0}, "rescore": 3}, 422, ["boost", "rescore"]),
    ("/search", {"query": "a", "explain": True, "rescore": 3}, 422, ["explain", "rescore=3"]),
    (
        "/search",
        {"query": ["a"] * 3, "top_k": 3, "explain": True},
        422,
        ["9 hits", "6 is the most"],
    ),
]


def test_a_long_name_of_a_field_is_shortened(client):
    message = error_of(client.post("/search", json={"query": "a", "n" * 1000: 1}), 422)
    assert "no such field" in message
    assert len(message) < 200


@pytest.mark.parametrize(("path", "body", "status", "parts"), WRONG)
def test_what_is_wrong_is_named_with_its_bound(client, path, body, status, parts):
    message = error_of(client.post(path, json=body), status)
    for part in parts:
        assert part in message, message
    assert client.post("/embed_sparse", json={"inputs": "cat"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ({"input": "a", "dimensions": 8}, ["dimensions=8", "have 16", "/embed_sparse"]),
        ({"input": [[1, 2, 3]], "model": "m"}, ["input", "[0] is [1, 2, 3]", "text"]),
        ({"input": "a", "encoding_format": "hex"}, ["'float' or 'base64'", "'hex'"]),
        ({"input": "a", "prompt_name": "x"}, ["'x' is no prompt"]),
    ],
)
def test_errors_of_the_openai_form_have_its_form(client, body, parts):
    error = error_of(client.post("/v1/embeddings", json=body), 422)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    for part in parts:
        assert part in error["message"], error


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "JSON object"),
        (b'{"inputs": ', "at character 11"),
        (b'{"inputs": "\xff"}', "UTF-8"),
        (b"[" * 1999, "not JSON"),
        (b'{"inputs": ' + b"1" * 1500 + b"}", "inputs"),
        (b'{"inputs": "a", "k": NaN}', "k: "),
        (b'{"inputs": "a", "k": 1e400}', "k: "),
        (rb'{"inputs": ["a", "half \ud800"]}', "inputs[1] has half of a surrogate pair"),
        (b'"text"', "JSON object"),
        (b"null", "JSON object"),
    ],
)
def test_bodies_that_are_no_request_are_refused(client, content, part):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/embed_sparse", content=content, headers=headers)
    assert answer.status_code in (400, 422), answer.text
    assert part in answer.json()["error"], answer.text


def test_other_paths_methods_and_types_are_refused(client):
    assert "/openapi.json" in error_of(client.get("/nothing"), 404)
    answer = client.get("/embed_sparse")
    assert "use POST" in error_of(answer, 405)
    assert answer.headers["Allow"] == "POST"
    headers = {"Content-Type": "text/plain"}
    answer = client.post("/embed_sparse", content=b'{"inputs": "a"}', headers=headers)
    assert "text/plain" in error_of(answer, 415)
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/embed_sparse", "/v1/embeddings", "/search", "/health", "/info"} <= set(paths)


def test_without_an_index_search_says_how_to_get_one(model):
    client = TestClient(create_app(model))
    assert "--index" in error_of(client.post("/search", json={"query": "cat"}), 404)
    assert client.get("/info").json()["index"] is None


def test_without_a_decoder_rescoring_says_how_to_get_one(model, texts):
    plain = SparseIndex.build(csr_st.encode(model, texts))
    client = TestClient(create_app(model, plain))
    message = error_of(client.post("/search", json={"query": "cat", "rescore": 3}), 422)
    assert "csr-st index CODES --model MODEL" in message


def test_only_the_token_opens_all_but_health(model):
    client = TestClient(create_app(model, token="s3cret-Token"))
    assert client.get("/health").status_code == 200
    wrong = ["", "Bearer", "Bearer ", "Bearer s3cret-Toke", "Bearer s3cret-Tokens", "s3cret-Token",
             "Basic s3cret-Token", "Bearer S3CRET-TOKEN", "Bearer \xff\xfe"]  # fmt: skip
    for header in wrong:
        for path in ("/embed_sparse", "/v1/embeddings", "/search"):
            headers = {"Authorization": header.encode("latin-1")}
            answer = client.post(path, json={"inputs": "a"}, headers=headers)
            assert answer.status_code == 401, header
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "s3cret" not in answer.text
    for path in ("/info", "/metrics", "/openapi.json", "/nothing"):
        assert client.get(path).status_code == 401
    headers = {"Authorization": "bearer s3cret-Token"}
    answer = client.post("/embed_sparse", json={"inputs": "cat"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("token", ["", "two words", "line\n", "ümlaut"])
def test_a_token_that_no_header_can_have_is_refused(model, token):
    with pytest.raises(ValueError, match="visible ASCII") as error:
        create_app(model, token=token)
    assert token == "" or token not in str(error.value)


def test_only_the_hosts_are_answered(model):
    app = create_app(model, hosts=["localhost", "127.0.0.1", "[::1]"])
    client = TestClient(app)
    for host in ("localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:80"):
        assert client.get("/info", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:80", "[::2]", ""):
        assert client.get("/info", headers={"Host": host}).status_code == 421


def test_a_model_that_fails_is_a_500_and_the_next_request_works(model, monkeypatch, caplog):
    app = create_app(model)
    with TestClient(app) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(model), "encode", _fails)
            answer = client.post("/embed_sparse", json={"inputs": "private words"})
            assert "RuntimeError" in error_of(answer, 500)
            assert "out of memory" not in answer.text
        assert "out of memory" in caplog.text
        assert "private words" not in caplog.text
        assert client.post("/embed_sparse", json={"inputs": "cat"}).status_code == 200


def _fails(*_, **__):
    raise RuntimeError("out of memory")


def test_an_error_of_ours_is_a_500_too(client, monkeypatch):
    monkeypatch.setattr("csr_st.serving.searching._rendered", _fails)
    quiet = TestClient(client.app, raise_server_exceptions=False)
    answer = quiet.post("/search", json={"query": "cat"})
    assert error_of(answer, 500).startswith("RuntimeError")


def test_what_cannot_be_served_is_refused_at_once(model, backbone, index, texts):
    with pytest.raises(ValueError, match="attach"):
        create_app(backbone)
    with pytest.raises(ValueError, match="texts are for hits of an index"):
        create_app(model, texts=texts)
    with pytest.raises(ValueError, match="5 documents"):
        create_app(model, index, texts[:2])
    with pytest.raises(ValueError, match="inputs=0"):
        Limits(inputs=0)
    with pytest.raises(ValueError, match="queue=10 is less than inputs=128"):
        Limits(queue=10)


def test_a_model_of_vectors_is_refused(head):
    vectors = SentenceTransformer(modules=[VectorInput(16), head], device="cpu")
    with pytest.raises(ValueError, match="takes vectors"):
        create_app(vectors)
