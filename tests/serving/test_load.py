"""64 clients at once for half a minute: every answer right, none lost, no memory kept."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time

import numpy as np
import psutil
import pytest
from conftest import WORDS
from serving_process import serving

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("numba")

import csr_st
from csr_st import Searcher, SparseIndex

CLIENTS, SECONDS, WARM_UP = 64, 30, 8
CLOSE = 1e-5  # a text's neighbours in a batch may change the last bits of its values
MEGABYTES = 32  # that memory may grow after the warm-up


def requests_and_answers(model, folder, rng):
    """Requests of every kind, each with the answer that the calls from Python give."""
    documents = sorted({" ".join(rng.choice(WORDS, 6)) for _ in range(400)})
    codes = csr_st.encode(model, documents, role="document")
    head = csr_st.find_head(model)
    index = SparseIndex.build(codes, decoder=csr_st.Decoder.from_head(head))
    index.save(folder / "i.csr")
    for number in range(60):
        texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(number % 4 + 1)]
        k = (2, 5, 8, 33)[number % 4]
        found = csr_st.encode(model, texts, k=k)
        yield "/embed_sparse", {"inputs": texts, "k": k}, _pairs(found)
        vectors = csr_st.encode_dense(model, texts)
        yield "/v1/embeddings", {"input": texts}, [list(enumerate(row)) for row in vectors.tolist()]
        rescore = (0, 50)[number % 2]
        hits = Searcher(model, index, rescore=rescore)(texts, 5)
        yield (
            "/search",
            {"query": texts, "top_k": 5, "rescore": rescore},
            [[(hit.id, hit.score) for hit in one] for one in hits],
        )


def _pairs(codes):
    return [
        [(index, value) for index, value in zip(*row, strict=True) if value > 0]
        for row in zip(codes.indices.tolist(), codes.values.tolist(), strict=True)
    ]


def answer_of(path, content):
    """An answer as lists of (number, value), one for each text."""
    if path == "/embed_sparse":
        return [[(one["index"], one["value"]) for one in row] for row in content]
    if path == "/search":
        return [[(hit["id"], hit["score"]) for hit in one["hits"]] for one in content["results"]]
    return [list(enumerate(one["embedding"])) for one in content["data"]]


def equal(found, expected) -> bool:
    if [[number for number, _ in row] for row in found] != [
        [number for number, _ in row] for row in expected
    ]:
        return False
    pairs = zip(itertools.chain(*found), itertools.chain(*expected), strict=True)
    return all(abs(one - other) < CLOSE for (_, one), (_, other) in pairs)


class Client(threading.Thread):
    """Asks again and again over one connection, and keeps what was not as it should be."""

    def __init__(self, port, asked, seed, until):
        super().__init__()
        self.port, self.asked, self.until = port, asked, until
        self.rng = np.random.default_rng(seed)
        self.sent, self.right, self.wrong = 0, 0, []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            while time.monotonic() < self.until:
                path, body, expected = self.asked[self.rng.integers(len(self.asked))]
                self.sent += 1
                try:
                    headers = {"Content-Type": "application/json"}
                    connection.request("POST", path, json.dumps(body), headers)
                    answer = connection.getresponse()
                    content = json.loads(answer.read())
                    if answer.status == 200 and equal(answer_of(path, content), expected):
                        self.right += 1
                    else:
                        self.wrong.append((answer.status, path, body, content))
                except (OSError, http.client.HTTPException, ValueError) as error:
                    self.wrong.append((path, body, repr(error)))


@pytest.mark.slow
def test_64_clients_for_30_seconds(model, tmp_path, rng):
    csr_st.save(model, tmp_path / "m")
    asked = list(requests_and_answers(model, tmp_path, rng))
    with serving(tmp_path, "m", "--index", "i.csr") as server:
        process = psutil.Process(server.process.pid)
        until = time.monotonic() + WARM_UP + SECONDS
        clients = [Client(server.port, asked, seed, until) for seed in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(WARM_UP)
        before = process.memory_info().rss
        for client in clients:
            client.join()
        after = process.memory_info().rss
        wrong = [one for client in clients for one in client.wrong]
        sent = sum(client.sent for client in clients)
        assert not wrong, (len(wrong), sent, wrong[:3])
        assert sum(client.right for client in clients) == sent
        assert min(client.right for client in clients) > 0  # none is left waiting
        assert after - before < MEGABYTES * 2**20, (before, after)
        metrics = server.get("/metrics")[1]
        lines = [line for line in metrics.splitlines() if line.startswith("csr_st_requests_total")]
        counted = sum(float(line.split()[-1]) for line in lines if "health" not in line)
        assert counted == sent
        # Requests shared passes: there were fewer of these.
        passes = float(metrics.split("csr_st_batch_texts_count ")[1].split("\n")[0])
        assert passes < sent
        assert server.err == ""
