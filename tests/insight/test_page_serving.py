"""A served page answers this machine only, and only requests that are its own."""

from __future__ import annotations

import http.client
import json
import threading

import numpy as np
import pytest

import csr_st
from csr_st.insight.page import PageServer
from csr_st.insight.page.serving import MAX_REQUEST


def encode(text):
    if text == "fail":
        raise ValueError("no such word")
    return csr_st.SparseCodes(np.array([[4, 2]]), np.array([[3.0, 4.0]], np.float32), 8)


@pytest.fixture
def server():
    with PageServer("<p>the page</p>", encode) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()
        yield started
        started.shutdown()


@pytest.fixture
def ask(server):
    def answered(method="GET", path="/", body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        if method == "POST":
            headers.setdefault("Content_Type", "application/json")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        return answer.status, content

    return answered


def posted(text):
    return json.dumps({"text": text})


def test_the_page_and_the_codes_of_a_text_are_served(server, ask):
    assert server.server_address[0] == "127.0.0.1"
    assert ask() == (200, "<p>the page</p>")
    status, content = ask("POST", "/encode", posted("some words"))
    assert status == 200
    found = json.loads(content)  # 3 and 4 at unit length
    assert dict(zip(found["latents"], np.round(found["values"], 6), strict=True)) == {
        4: 0.6,
        2: 0.8,
    }


def test_a_name_of_another_host_is_refused(server, ask):
    """As a site does that lets its name lead to 127.0.0.1 (DNS rebinding)."""
    for name in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1:1"):
        assert ask(Host=name)[0] == 403
        assert ask("POST", "/encode", posted("words"), Host=name)[0] == 403
    assert ask(Host=f"localhost:{server.server_port}")[0] == 200


def test_a_page_of_another_origin_cannot_post(server, ask):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask("POST", "/encode", posted("words"), Origin=origin)[0] == 403
    assert ask("POST", "/encode", posted("words"), Origin=server.url.rstrip("/"))[0] == 200


def test_a_form_of_another_site_cannot_post(ask):
    """A form may send only these types without asking the server first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask("POST", "/encode", posted("words"), Content_Type=kind)[0] == 415


def test_a_large_request_is_refused_unread(ask):
    status, content = ask("POST", "/encode", None, Content_Length=str(MAX_REQUEST + 1))
    assert status == 413
    assert "1,048,576 is the most; shorten it" in content
    assert ask("POST", "/encode", posted("a" * (MAX_REQUEST - 20)))[0] == 200


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"text": 1}', posted("  "), "[" * 100_000])
def test_a_request_without_a_text_is_refused(ask, body):
    status, content = ask("POST", "/encode", body)
    assert status == 400
    assert json.loads(content)["error"].startswith("post {")


def test_only_what_exists_is_served(ask):
    assert ask("GET", "/etc/passwd")[0] == 404
    assert ask("GET", "/../../etc/passwd")[0] == 404
    assert ask("POST", "/", posted("words"))[0] == 404


def test_an_error_of_the_model_is_told_and_the_server_goes_on(ask):
    status, content = ask("POST", "/encode", posted("fail"))
    assert (status, json.loads(content)["error"]) == (500, "ValueError: no such word")
    assert ask()[0] == 200


def test_a_port_in_use_is_named(server):
    with pytest.raises(OSError, match=f"port {server.server_port} cannot be served .*another one"):
        PageServer("", encode, server.server_port)


def test_the_model_encodes_one_text_at_a_time():
    """A model need not be safe for threads."""
    inside, most = [], []

    def slow(text):
        inside.append(text)
        most.append(len(inside))
        threading.Event().wait(0.1)
        inside.remove(text)
        return encode(text)

    with PageServer("", slow) as started:
        threading.Thread(target=started.serve_forever, daemon=True).start()

        def post(text):
            connection = http.client.HTTPConnection("127.0.0.1", started.server_port, timeout=20)
            connection.request(
                "POST", "/encode", posted(text), {"Content-Type": "application/json"}
            )
            assert connection.getresponse().status == 200
            connection.close()

        threads = [threading.Thread(target=post, args=(f"text {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        started.shutdown()
    assert len(most) == 4
    assert max(most) == 1
