"""What the app answers: equal to the calls from Python."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("numba")

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

import csr_st
from csr_st import Searcher, SparseIndex
from csr_st.serving import create_app


def codes_of(answer):
    assert answer.status_code == 200, answer.text
    return [[(one["index"], one["value"]) for one in row] for row in answer.json()]


def rows_of(codes):
    """Offline codes, as pairs of latents and values above 0."""
    return [
        [(index, value) for index, value in zip(*row, strict=True) if value > 0]
        for row in zip(codes.indices.tolist(), codes.values.tolist(), strict=True)
    ]


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


@pytest.mark.parametrize("options", [{}, {"k": 3}, {"role": "query"}, {"prompt_name": "query"}])
def test_sparse_embeddings_are_those_of_encode(client, model, texts, options):
    answer = client.post("/embed_sparse", json={"inputs": texts[:4], **options})
    expected = csr_st.encode(model, texts[:4], **options)
    assert codes_of(answer) == rows_of(expected)
    one = client.post("/embed_sparse", json={"inputs": texts[2], "truncate": True, **options})
    # Alone it is computed in another batch, which may change the last bit of a value.
    assert codes_of(one) == rows_of(csr_st.encode(model, texts[2:3], **options))


def test_truncate_false_refuses_what_the_model_would_not_read(token_backbone, head, model):
    """Three words of the prompt, ten of the text and two special tokens are 15; 12 are read."""
    deep = csr_st.attach(token_backbone, head)
    most = deep.max_seq_length
    client = TestClient(create_app(deep))
    long = " ".join(["cat"] * most)
    assert len(codes_of(client.post("/embed_sparse", json={"inputs": long}))) == 1
    form = {"inputs": ["cat", long], "truncate": False}
    message = error_of(client.post("/embed_sparse", json=form), 413)
    tokens = len(deep.tokenizer(long)["input_ids"])
    assert tokens > most
    assert f"inputs[1] has {tokens} tokens, and the model reads {most}" in message
    form = {"inputs": ["cat", "dog"], "truncate": False}
    assert len(codes_of(client.post("/embed_sparse", json=form))) == 2
    # What reads everything refuses nothing.
    everything = TestClient(create_app(model))
    assert codes_of(everything.post("/embed_sparse", json={"inputs": long, "truncate": False}))


def test_dense_embeddings_are_those_of_the_backbone(client, model, texts):
    expected = csr_st.encode_dense(model, texts[:3])
    answer = client.post("/v1/embeddings", json={"input": texts[:3], "model": "any"}).json()
    assert answer["model"] == "tiny"
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert [one["embedding"] for one in answer["data"]] == expected.tolist()
    # "the cat sat on the mat", "a dog ran in the house", "blue fish"
    assert answer["usage"] == {"prompt_tokens": 14, "total_tokens": 14}
    form = {"input": texts[0], "encoding_format": "base64", "role": "query", "dimensions": 16}
    answer = client.post("/v1/embeddings", json=form).json()
    found = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    assert found.tolist() == csr_st.encode_dense(model, texts[:1], role="query")[0].tolist()
    assert answer["usage"]["prompt_tokens"] == 8  # and the two of the prompt


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 2, "query_k": 5},
        {"rescore": 4},
        {"rescore": 2, "k": 4},
        {"filter": [3, 1]},
        {"boost": {"7": 3.0, "8": 0}},
        {"approximate": 0.9},
    ],
    ids=str,
)
def test_searches_are_those_of_a_searcher(client, model, index, texts, options):
    queries = ["cat", "the blue sea"]
    mine = dict(options)
    call = {name: mine.pop(name) for name in ("filter", "boost") if name in mine}
    if "boost" in call:
        call["boost"] = {int(latent): factor for latent, factor in call["boost"].items()}
    expected = Searcher(model, index, texts, **mine)(queries, 3, **call)
    answer = client.post("/search", json={"query": queries, "top_k": 3, **options})
    assert answer.status_code == 200, answer.text
    found = [[(hit["id"], hit["score"], hit["text"]) for hit in one["hits"]] for one in
             answer.json()["results"]]  # fmt: skip
    assert found == [[tuple(hit) for hit in hits] for hits in expected]
    one = client.post("/search", json={"query": "cat", "top_k": 3, **options}).json()
    (hits,) = one["results"]
    assert [hit["id"] for hit in hits["hits"]] == [hit.id for hit in expected[0]]


def test_explanations_add_up_to_the_scores(model, texts):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    codes = csr_st.encode(model, texts, role="document")
    ids = ["a", "b", "c", "d", "e"]
    both = SparseIndex.build(codes, ids, words=texts)
    named = [csr_st.LatentName(latent, (f"name{latent}",)) for latent in range(64)]
    names = csr_st.LatentNames(named, hidden_dim=64, k=8, n_texts=5)
    client = TestClient(create_app(model, both, names=names))
    for extra in ({}, {"weight": 0.5}, {"boost": {"3": 2.0}}, {"k": 3}):
        form = {"query": ["a cat sat", "fish"], "top_k": 2, "explain": True, **extra}
        for result in client.post("/search", json=form).json()["results"]:
            for hit in result["hits"]:
                shares = hit["explanation"]
                total = sum(one["share"] for one in shares["latents"])
                total += sum(shares["words"].values())
                assert total == pytest.approx(hit["score"], abs=1e-6)
                for one in shares["latents"]:
                    assert one["label"] == f"name{one['latent']}"
                assert "text" not in hit
    form = {"query": "a cat sat", "filter": ["a"], "explain": True}
    (hit,) = client.post("/search", json=form).json()["results"][0]["hits"]
    assert hit["id"] == "a"
    assert set(hit["explanation"]["words"]) == {"cat", "sat"}


def test_a_sparse_encoder_without_a_head_is_served(splade, texts):
    client = TestClient(create_app(splade))
    expected = rows_of(csr_st.encode(splade, texts[:2]))
    assert codes_of(client.post("/embed_sparse", json={"inputs": texts[:2]})) == expected
    assert client.get("/info").json()["model_type"] == "sparse_encoder"
    answer = client.post("/v1/embeddings", json={"input": "cat"})
    assert answer.status_code == 422
    assert "/embed_sparse" in answer.json()["error"]["message"]


def test_info_says_what_is_served(client):
    info = client.get("/info").json()
    assert {name: info[name] for name in ("model_id", "k", "hidden_dim", "input_dim")} == {
        "model_id": "tiny", "k": 8, "hidden_dim": 64, "input_dim": 16,
    }  # fmt: skip
    assert info["limits"]["characters"] == 100
    assert info["index"]["documents"] == 5
    assert info["index"]["rescores"]
    assert info["index"]["words"] is None


def test_metrics_count_requests_and_texts(client):
    client.post("/embed_sparse", json={"inputs": ["cat", "dog"]})
    client.post("/embed_sparse", json={"inputs": 3})
    client.get("/x" * 10)
    client.get("/y")
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = {
        (one.name, *sorted(one.labels.values())): one.value
        for family in families
        for one in family.samples
    }
    assert found["csr_st_requests_total", "/embed_sparse", "200"] == 1
    assert found["csr_st_requests_total", "/embed_sparse", "422"] == 1
    assert found["csr_st_requests_total", "404", "other"] == 2
    assert found["csr_st_request_seconds_count", "/embed_sparse"] == 2
    assert found["csr_st_batch_texts_sum",] == 2
    assert found["csr_st_waiting_texts",] == 0


def test_an_app_can_be_mounted_in_another(model, index, texts):
    outer = FastAPI()
    outer.mount("/csr", create_app(model, index, texts, token="abc"))
    client = TestClient(outer, headers={"Authorization": "Bearer abc"})
    assert client.get("/csr/health", headers={"Authorization": ""}).status_code == 200
    answer = client.post("/csr/embed_sparse", json={"inputs": texts[0], "k": 4})
    assert codes_of(answer) == rows_of(csr_st.encode(model, texts[:1], k=4))
    answer = client.post("/csr/v1/embeddings", json={"input": 1})
    assert "message" in answer.json()["error"]
    metrics = client.get("/csr/metrics").text
    assert 'csr_st_requests_total{route="/embed_sparse",status="200"} 1.0' in metrics


def test_json_has_every_digit_of_the_values(client, model):
    answer = client.post("/embed_sparse", json={"inputs": "cat"})
    values = [one["value"] for one in json.loads(answer.content)[0]]
    expected = csr_st.encode(model, ["cat"]).values[0]
    assert np.array_equal(np.array(values, np.float32), expected[expected > 0])


def test_an_index_in_a_folder_is_searched_as_others_change_it(model, texts, tmp_path):
    codes = csr_st.encode(model, texts, role="document")
    csr_st.SegmentedIndex.create(tmp_path / "i", codes).close()
    with TestClient(create_app(model, tmp_path / "i", texts)) as client:
        found = client.post("/search", json={"query": "cat", "top_k": 3}).json()["results"]
        expected = Searcher(model, SparseIndex.build(codes), texts)("cat", 3)
        assert [hit["id"] for hit in found[0]["hits"]] == [hit.id for hit in expected]
        asked = {"query": "cat", "explain": True, "top_k": 1}
        hit = client.post("/search", json=asked).json()["results"][0]["hits"][0]
        shares = [latent["share"] for latent in hit["explanation"]["latents"]]
        assert sum(shares) == pytest.approx(hit["score"], abs=1e-5)
        other = csr_st.SegmentedIndex.open(tmp_path / "i")
        other.add(csr_st.encode(model, ["cat"], role="document"), [77])
        other.remove([expected[0].id])
        hits = client.post("/search", json={"query": "cat", "top_k": 5}).json()["results"][0][
            "hits"
        ]
        found = {hit["id"]: hit.get("text") for hit in hits}
        assert found.pop(77) is None  # the server was given no text of it
        assert sorted(found) == sorted({0, 1, 2, 3, 4} - {expected[0].id})
        assert client.get("/info").json()["index"]["documents"] == 5
