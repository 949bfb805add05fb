"""A server in a process of its own: what clients send it, how it ends, workers that are killed."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time

import psutil
import pytest
from serving_process import serving

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("uvicorn")
pytest.importorskip("numba")

import csr_st

# A model that takes a while, so that requests are in work when something happens.
SLOW = """
import time, csr_st.serving.work as work
encode = work.encode
def slow(*args, **kwargs):
    time.sleep(1.5)
    return encode(*args, **kwargs)
work.encode = slow
"""
CAT = b'{"inputs": "cat"}'


@pytest.fixture
def folder(model, texts, tmp_path):
    csr_st.save(model, tmp_path / "m")
    codes = csr_st.encode(model, texts, role="document")
    csr_st.SparseIndex.build(codes, decoder=csr_st.Decoder.from_head(csr_st.find_head(model))).save(
        tmp_path / "i.csr"
    )
    rows = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    return tmp_path


def head(*lines: str, body: bytes = b"", length: bool = True) -> bytes:
    first = ["POST /embed_sparse HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    if length:
        first.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*first, *lines, "", ""]).encode() + body


def parsed(answer: bytes):
    """Status and message of a raw answer."""
    first, _, body = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body)["error"]


def test_clients_that_send_what_they_should_not(folder, model, texts):
    """One server, and all of them after each other: it answers each and goes on."""
    options = ["--max-body", "1000", "--max-inputs", "4", "--timeout", "1"]
    with serving(folder, "m", "--index", "i.csr", "--texts", "texts.jsonl", *options) as server:
        # No HTTP, and heads that break it.
        for what in (b"\x00\xff\x13 what\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/x\r\n\r\n"):
            assert server.raw(what).startswith(b"HTTP/1.1 400"), what
        assert server.raw(head("X: " + "y" * 200_000)).startswith(b"HTTP/1.1 400")
        assert server.raw(head("Content-Length: x", length=False)).startswith(b"HTTP/1.1 400")
        both = head("Content-Length: 5", "Transfer-Encoding: chunked", length=False)
        assert b" 500 " not in server.raw(both + b"0\r\n\r\n").partition(b"\r\n")[0]
        # JSON that is none.
        status, message = parsed(server.raw(head("Connection: close", body=b'{"inputs": "cat')))
        assert status == 400
        assert "not JSON" in message
        # Bodies that are too long: by their length, and while they arrive in chunks.
        status, message = parsed(server.raw(head("Content-Length: 5000000000", length=False)))
        assert status == 413
        assert "5,000,000,000 bytes, and 1,000 is the most" in message
        chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        chunked = head("Transfer-Encoding: chunked", length=False)
        status, message = parsed(server.raw(chunked, *[chunk] * 300))
        assert status == 413
        assert "over 1,000 bytes" in message
        # The sender of a long body hears why, though it reads only once all is sent.
        status, text = server.ask(
            "POST", "/embed_sparse", b"x" * 3_000_000, Content_Type="application/json"
        )
        assert status == 413
        assert "3,000,000 bytes" in text
        # Who asks first is told before sending anything.
        asks = server.raw(head("Expect: 100-continue", "Content-Length: 2000", length=False))
        assert parsed(asks)[0] == 413
        # Clients that are slow: with the head, with the body, with the head of a second request.
        began = time.monotonic()
        status, message = parsed(server.raw(b"POST /embed_sparse HTTP/1.1\r\nHost:"))
        assert status == 408
        assert "within 1 s" in message
        status, message = parsed(server.raw(head("Content-Length: 900", length=False) + b"{"))
        assert status == 408
        assert "1 bytes of it did" in message
        two = server.raw(head(body=CAT), b"GET /he", pause=0.1)
        assert two.count(b"HTTP/1.1") == 2
        assert b"HTTP/1.1 408" in two
        assert server.raw(head(body=CAT)).startswith(b"HTTP/1.1 200")  # silent after it: closed
        assert time.monotonic() - began >= 4
        # A drop at a time, for longer than the limit in all.
        drops = [bytes([byte]) for byte in CAT * 2]
        status, message = parsed(
            server.raw(head("Content-Length: 34", length=False), *drops, pause=0.1)
        )
        assert status == 408
        # A name that points here, from a page in a browser.
        status, _ = server.ask("GET", "/info", None, Host="evil.example")
        assert status == 421
        # And everyone else.
        status, found = server.post("/embed_sparse", {"inputs": texts[:2], "k": 4})
        assert status == 200
        expected = csr_st.encode(model, texts[:2], k=4)
        assert [[one["index"] for one in row] for row in found] == expected.indices.tolist()
        status, found = server.post("/search", {"query": texts[1], "top_k": 1})
        (hit,) = found["results"][0]["hits"]
        assert (status, hit["id"], hit["text"]) == (200, 1, texts[1])
        assert "Traceback" not in server.err
        assert server.end(signal.SIGTERM) == 0
        assert texts[1] not in server.out + server.err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_requests_in_work_are_answered_before_it_ends(folder, number, code):
    with serving(folder, "m", code=SLOW) as server:
        asked = [server.in_background("/embed_sparse", {"inputs": "cat", "k": k}) for k in (3, 4)]
        end = time.monotonic() + 60
        while server.get("/metrics")[1].count("waiting_texts 1.0") == 0:  # one waits, one is done
            assert time.monotonic() < end
            time.sleep(0.05)
        assert server.end(number) == code
        for thread, answers in asked:
            thread.join(60)
            ((status, found),) = answers
            assert status == 200
            assert len(found[0]) in (3, 4)
        with pytest.raises(ConnectionRefusedError):
            server.get("/health")
        if code:
            lines = server.err.strip().split("\n")
            assert lines[-2].startswith("csr-st: interrupted; requests in work were answered")
            assert lines[-1] == "    csr-st serve m --port 0"
        assert "Traceback" not in server.err


@pytest.mark.slow
def test_a_queue_that_is_full_says_when_to_come_again(folder):
    with serving(folder, "m", "--max-queue", "2", "--max-inputs", "2", code=SLOW) as server:
        asked = [
            server.in_background("/embed_sparse", {"inputs": ["a"] * 2, "k": k})
            for k in range(1, 7)
        ]
        for thread, _ in asked:
            thread.join(60)
        found = [status for _, [(status, _)] in asked]
        # One is in work, and one waits; which they are is up to the threads.
        assert sorted(set(found)) == [200, 429]
        assert found.count(200) >= 2
        refused = next(answer for _, [(status, answer)] in asked if status == 429)
        assert refused["error_type"] == "Overloaded"
        assert "over 2; try again" in refused["error"]
        assert server.post("/embed_sparse", {"inputs": "cat"})[0] == 200


@pytest.mark.slow
def test_the_token_is_read_from_a_file_or_the_environment_and_is_shown_nowhere(folder):
    secret = "aB3-very-secret-token"
    (folder / "token").write_text(f"{secret}\n")
    for arguments, environment in (
        (["--token-file", "token"], {}),
        ([], {"CSR_ST_TOKEN": secret}),
    ):
        with serving(folder, "m", *arguments, **environment) as server:
            for given in ("Bearer wrong", f"Bearer {secret}x", secret):
                status, answer = server.post(
                    "/embed_sparse", {"inputs": "cat"}, Authorization=given
                )
                assert status == 401
                assert "Authorization: Bearer" in answer["error"]
            status, _ = server.post(
                "/embed_sparse", {"inputs": "cat"}, Authorization=f"Bearer {secret}"
            )
            assert status == 200
            # With a wrong token not even the body is waited for.
            status, _ = parsed(server.raw(head("Content-Length: 9", "Expect: x", length=False)))
            assert status == 401
            assert secret not in " ".join(psutil.Process(server.process.pid).cmdline())
            server.end(signal.SIGTERM)
            assert secret not in server.out + server.err


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_server_goes_on(folder, model):
    expected = csr_st.encode(model, ["cat"]).indices[0].tolist()
    with serving(folder, "m", "--index", "i.csr", "--workers", "2") as server:
        parent = psutil.Process(server.process.pid)
        answered = 0
        for _ in range(2):
            first = json.loads(server.get("/info")[1])["process"]
            assert first in {child.pid for child in parent.children()}
            psutil.Process(first).kill()
            end, other = time.monotonic() + 120, None
            while other in (None, first) or not replaced(parent, first):
                assert time.monotonic() < end, server.err
                try:  # a connection that the dead one had taken is lost, and no other
                    status, found = server.post("/embed_sparse", {"inputs": "cat"})
                    other = json.loads(server.get("/info")[1])["process"]
                except OSError:
                    continue
                assert status == 200
                assert [one["index"] for one in found[0]] == expected
                answered += 1
            assert server.process.poll() is None
        assert answered
        # The metrics are of all workers, of the killed ones too.
        counted = server.get("/metrics")[1]
        line = 'csr_st_requests_total{route="/embed_sparse",status="200"} '
        assert float(counted.split(line)[1].split("\n")[0]) >= answered
        assert server.end(signal.SIGTERM) == 0
        assert not psutil.pid_exists(first)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_their_parent(folder, number, code):
    with serving(folder, "m", "--workers", "2") as server:
        workers = psutil.Process(server.process.pid).children()
        assert server.end(number) == code
        assert not psutil.wait_procs(workers, timeout=60)[1]
        if code == 130:
            assert "interrupted; requests in work" in server.err
            assert "Traceback" not in server.err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_right_after_the_start_ends_it(folder, workers):
    with serving(folder, "m", "--workers", str(workers), ready=False) as server:
        assert server.end(signal.SIGTERM) == 0  # it has said "Serving", and not more


def replaced(parent, killed) -> bool:
    """Whether two workers live, neither of them the killed one."""
    alive = set()
    for child in parent.children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                alive.add(child.pid)
    return len(alive) == 2 and killed not in alive


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_server(folder):
    (folder / "m" / "modules.json").write_text("[]")
    with serving(folder, "m", "--workers", "2", ready=False) as server:
        assert server.process.wait(120) == 1
        assert server.err.count("csr-st: error: ") >= 2
        assert "the workers could not start" in server.err
        assert "Traceback" not in server.err


@pytest.mark.slow
def test_a_slow_reader_does_not_hold_up_others(folder):
    """A client that asks and never reads: its connection costs no one else anything."""
    with serving(folder, "m", "--timeout", "2") as server:
        body = json.dumps({"input": ["cat"] * 128}).encode()
        request = (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
            b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            sender = threading.Thread(target=_send_until_closed, args=[deaf, request])
            sender.start()
            for _ in range(10):
                assert server.post("/embed_sparse", {"inputs": "cat"})[0] == 200
            sender.join(60)  # the server ends the connection
            assert not sender.is_alive()
        assert server.post("/embed_sparse", {"inputs": "cat"})[0] == 200


def _send_until_closed(opened, request) -> None:
    end = time.monotonic() + 50
    opened.settimeout(50)
    try:
        while time.monotonic() < end:
            opened.sendall(request)
    except ConnectionError:
        return
    raise AssertionError("the connection was never closed")
