"""A page served on this machine, with a box whose text the model encodes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from csr_st.codes import SparseCodes

MAX_REQUEST = 1 << 20  # bytes
MAX_DISCARDED = 1 << 26  # bytes of a longer one, read so that its sender hears why it is refused
SECONDS = 30  # for a request to arrive
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Serves a page to programs on this machine only, and encodes what its user types.

    A request must name this machine in its Host header, so that no site can reach the server
    through a name of its own (DNS rebinding), and no page of another origin can post to it. For
    example::

        html = render_page(codes, texts, live=True)
        with PageServer(html, lambda text: csr_st.encode(model, [text], k=32)) as server:
            print(server.url)
            server.serve_forever()

    Args:
        page: The HTML, made with ``live=True``.
        encode: Gives the code of one text.
        port: On 127.0.0.1; 0 for one that is free.

    Raises:
        OSError: If the port is in use, or needs rights that this user has not.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, page: str, encode: Callable[[str], SparseCodes], port: int = 0) -> None:
        self.page, self.encode = page.encode(errors="replace"), encode
        self.encoding = threading.Lock()  # a model need not be safe for threads
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"port {port} cannot be served ({reason}); name another one, or 0 for any"
            ) from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes its connection is no error to report."""


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SECONDS
    server_version, sys_version = "csr-st", ""

    def do_GET(self) -> None:
        """The page."""
        try:
            self._check_origin()
            if self.path.partition("?")[0] != "/":
                raise _Refused(HTTPStatus.NOT_FOUND, "there is only the page, at /")
        except _Refused as error:
            return self._answer(error.status, "text/plain", str(error).encode())
        return self._answer(HTTPStatus.OK, "text/html", self.server.page)

    def do_POST(self) -> None:
        """The code of a text: {"text": ...} gives {"latents": [...], "values": [...]}."""
        try:
            body = self._body()
            self._check_origin()
            status, found = HTTPStatus.OK, self._encoded(self._text(body))
        except _Refused as error:
            status, found = error.status, {"error": str(error)}
        except Exception as error:  # of the model: the user reads it in the page
            message = f"{type(error).__name__}: {error}"
            status, found = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": message}
        self._answer(status, "application/json", json.dumps(found).encode())

    def _check_origin(self) -> None:
        port = self.server.server_port
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if self.headers.get("Host", "").lower() not in hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, f"open {self.server.url}")
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://").lower() not in hosts:
            raise _Refused(HTTPStatus.FORBIDDEN, "this page belongs to another origin")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        size = int(length)
        if size <= MAX_REQUEST:
            return self.rfile.read(size)
        for start in range(0, min(size, MAX_DISCARDED), MAX_REQUEST):
            self.rfile.read(min(MAX_REQUEST, size - start))
        raise _Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the text has {size:,} bytes, and {MAX_REQUEST:,} is the most; shorten it",
        )

    def _text(self, body: bytes) -> str:
        if self.path != "/encode":
            raise _Refused(HTTPStatus.NOT_FOUND, "texts are posted to /encode")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "post application/json")
        try:
            text = json.loads(body)["text"]
        except (ValueError, KeyError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str) or not text.strip():
            raise _Refused(HTTPStatus.BAD_REQUEST, 'post {"text": "some words"}')
        return text

    def _encoded(self, text: str) -> dict[str, Any]:
        with self.server.encoding:
            codes = self.server.encode(text).normalize()
        active = codes.values[0] > 0
        return {
            "latents": codes.indices[0][active].tolist(),
            "values": codes.values[0][active].tolist(),
        }

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: what is typed is the user's."""
