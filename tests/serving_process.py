"""`csr-st serve` in a process of its own, and requests to it over raw sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

SECONDS = 120  # for a busy machine to start


class Process:
    """A running server: its process, its port and what it printed."""

    def __init__(self, process: subprocess.Popen, out, err) -> None:
        self.process, self._out, self._err = process, out, err
        self.port = int(self._until(r"Serving .* at http://127\.0\.0\.1:(\d+) "))

    def _until(self, pattern: str) -> str:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if found := re.search(pattern, self.out):
                return found[1]
            assert self.process.poll() is None, self.err
            time.sleep(0.05)
        raise AssertionError(self.out + self.err)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def ready(self) -> None:
        """Return when it answers."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/health")[0] == 200:
                    return
            assert self.process.poll() is None, self.err
            time.sleep(0.1)
        raise AssertionError(self.out + self.err)

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        return self.ask("GET", path, None, **headers)

    def post(self, path: str, content, **headers: str):
        """Status and parsed answer."""
        headers.setdefault("Content_Type", "application/json")
        status, text = self.ask("POST", path, json.dumps(content), **headers)
        return status, json.loads(text)

    def ask(self, method: str, path: str, body, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def raw(self, *parts: bytes, pause: float = 0) -> bytes:
        """Everything that is answered to these bytes, sent as they are, until the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as opened:
            for part in parts:
                with contextlib.suppress(ConnectionError):
                    opened.sendall(part)
                time.sleep(pause)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while more := opened.recv(65536):
                    answer += more
        return answer

    def in_background(self, path: str, content) -> tuple[threading.Thread, list]:
        """A request in a thread, and the list that gets its answer."""
        answers: list = []

        def ask() -> None:
            answers.append(self.post(path, content))

        thread = threading.Thread(target=ask)
        thread.start()
        return thread, answers

    def end(self, number: int) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(folder, *arguments: str, code: str = "", ready: bool = True, **environment: str):
    """Run ``csr-st serve`` in a folder, with Python code before it; ended at the end."""
    run = f"import sys\n{code}\nfrom csr_st.cli import main\nif __name__ == '__main__': main()"
    command = [sys.executable, "-c", run] if code else [sys.executable, "-m", "csr_st.cli"]
    out, err = folder / "out", folder / "err"
    with out.open("w") as first, err.open("w") as second:
        process = subprocess.Popen(
            [*command, "serve", *arguments, "--port", "0"],
            cwd=folder,
            stdout=first,
            stderr=second,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )
    try:
        running = Process(process, out, err)
        if ready:
            running.ready()
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
