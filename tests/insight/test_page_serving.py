"""The served page: what it answers, what it refuses, and the box in it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading

import numpy as np
import pytest
from browser import Watched, chromium, until
from topics import TOPICS, topic_texts

from csr_st import SparseCodes
from csr_st.insight.page import PageServer, render_page

LATENTS, VALUES = [3, 7], [0.8, 0.6]


@pytest.fixture(scope="module")
def page():
    codes, texts = topic_texts(np.random.default_rng(0))
    return render_page(codes, texts, label="tales", live=True)


@pytest.fixture
def server(page):
    """A running server whose model gives each text the latents of TOPICS whose words it has."""

    def encode(text):
        if "fail" in text:
            raise ValueError("the model refuses")
        found = [latent for latent, words in TOPICS.items() if set(words) & set(text.split())]
        indices = np.array([[*found, *range(12, 20)][:3]])
        values = np.array([[1.0] * len(found) + [0.0] * (3 - len(found))], np.float32)
        return SparseCodes(indices, values, 20)

    with PageServer(page, encode) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(server, method="POST", path="/encode", body=b'{"text": "wing"}', **headers):
    """Status and body of the answer to a request; headers by name, "_" for "-"."""
    given = {"Content-Type": "application/json"} if method == "POST" else {}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, body if method == "POST" else None, given)
        answer = connection.getresponse()
        text = answer.read().decode()
    return answer.status, text


def test_it_serves_the_page_and_codes_of_unit_length(server, page):
    assert ask(server, "GET", "/") == (200, page)
    status, text = ask(server, body=json.dumps({"text": "wing and flour"}).encode())
    assert status == 200
    found = json.loads(text)
    assert found["latents"] == [3, 7]
    assert found["values"] == pytest.approx([0.5**0.5] * 2)


def test_it_listens_on_this_machine_only(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "attacker.example"},
        {"Host": "attacker.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
    ],
)
def test_other_hosts_and_origins_are_refused(server, method, headers):
    headers = {name: value.format(port=server.server_port) for name, value in headers.items()}
    status, text = ask(server, method, "/" if method == "GET" else "/encode", **headers)
    assert status == 403
    assert "<html" not in text
    assert "latents" not in text


def test_its_own_origin_is_served(server):
    for host in ("127.0.0.1", "localhost"):
        name = f"{host}:{server.server_port}"
        assert ask(server, Host=name, Origin=f"http://{name}")[0] == 200


@pytest.mark.parametrize(
    ("status", "message", "request_"),
    [
        (415, "post application/json", {"Content_Type": "text/plain"}),
        (
            413,
            "the text has 2,000,000 bytes, and 1,048,576 is the most",
            {"body": b"x" * 2_000_000},
        ),
        (400, "post ", {"body": b"no json"}),
        (400, "post ", {"body": b'{"text": 3}'}),
        (400, "post ", {"body": b'["text"]'}),
        (400, "post ", {"body": b'{"text": "  "}'}),
        (400, "post ", {"body": b"[" * 100_000}),
        (404, "texts are posted to /encode", {"path": "/other"}),
        (411, "no Content-Length", {"Content_Length": "-3"}),
        (500, "ValueError: the model refuses", {"body": b'{"text": "fail"}'}),
    ],
)
def test_other_requests_are_refused_and_the_next_is_answered(server, status, message, request_):
    found, text = ask(server, **request_)
    assert found == status
    assert message in json.loads(text)["error"]
    assert ask(server)[0] == 200


def test_files_are_not_served(server):
    assert ask(server, "GET", "/../../etc/passwd")[0] == 404
    assert ask(server, "GET", "/encode")[0] == 404


def test_a_silent_client_holds_nobody_up(server):
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert ask(server)[0] == 200


def test_a_typed_text_finds_its_like(server):
    with chromium() as browser:
        tab = Watched(browser)
        page = tab.open(server.url, "#/similar")
        page.get_by_label("Your own text").fill("the wing of an aeroplane")
        page.keyboard.press("Control+Enter")
        until(page, "document.querySelector('.query h3')?.textContent === 'Your text'")
        assert page.locator(".slider").count() == 1
        assert "the wing of an aeroplane" in page.locator(".query").text_content()
        texts = page.locator(".hit .text").all_text_contents()
        assert len(texts) == 10
        assert all(set(TOPICS[3]) & set(text.split()) for text in texts)
        page.get_by_label("Your own text").fill("fail")
        page.get_by_role("button", name="Find similar texts").click()
        page.wait_for_selector("text=the model refuses")
        asked = {url.partition("#")[0] for url in tab.requests}
        assert asked <= {server.url, f"{server.url}encode", "data:,"}
        assert [one for one in tab.complaints if "500" not in one] == []


def test_the_model_encodes_one_text_at_a_time():
    """A model need not be safe for threads."""
    inside, most = [], []

    def encode(text):
        inside.append(text)
        most.append(len(inside))
        threading.Event().wait(0.1)
        inside.remove(text)
        return SparseCodes(np.array([[4, 2]]), np.array([[3.0, 4.0]], np.float32), 8)

    def post(port, text):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"text": text})
        connection.request("POST", "/encode", body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()

    with PageServer("", encode) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        asked = [
            threading.Thread(target=post, args=(started.server_port, f"text {n}")) for n in range(4)
        ]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        started.shutdown()
    assert len(most) == 4
    assert max(most) == 1
