"""What every request passes before the app sees it: its token, host, size and speed.

The body is read here as a whole, so that a longer one is refused while it arrives, with or without
a Content-Length, and a slow one when its time is over.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Collection

import anyio
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csr_st.serving.errors import Refused, error_response, path_of
from csr_st.serving.limits import Limits
from csr_st.serving.metrics import Metrics

OPEN = "/health"  # needs no token: whoever looks after processes has none
OTHER = "other"  # route of unknown paths in the metrics, whose number must stay small
DISCARDED = 1 << 26  # bytes of a body that is too long, read so that its sender hears the answer
DISCARD_SECONDS = 5


class Guard:
    """ASGI middleware: refuses what the app should not see, and counts all requests.

    Args:
        app: The app.
        limits: Its limits.
        metrics: Where requests are counted.
        token: What ``Authorization: Bearer`` must have; None for no token.
        hosts: Names that the Host header may have, without port; None for any.
        routes: The app's paths, by which requests are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        token: str | None,
        hosts: Collection[str] | None,
        routes: Collection[str],
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._token = None if token is None else token.encode()
        self._hosts, self._routes = hosts, frozenset(routes)
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        path = path_of(scope)

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted, path)
        finally:
            route = path if path in self._routes else OTHER
            self._metrics.answered(route, status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        try:
            self._check(scope, path)
        except Refused as error:
            await self._refuse(error, scope, receive, send, path)
            return
        if path == OPEN:  # it reads no body, and counts for nothing: anybody may ask
            await self._app(scope, _no_body, send)
            return
        self._in_work += 1
        try:
            await self._take(scope, receive, send, path)
        finally:
            self._in_work -= 1

    async def _refuse(
        self, error: Refused, scope: Scope, receive: Receive, send: Send, path: str
    ) -> None:
        response = error_response(path, error.status, str(error))
        await _send_and_discard(response, scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        """Read the body of a request that passed, and have the app answer it."""
        try:
            body = await self._body(scope, receive)
        except Refused as error:
            await self._refuse(error, scope, receive, send, path)
            return
        if body is None:  # the client is gone
            return
        replayed = False

        async def again() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    def _check(self, scope: Scope, path: str) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._hosts is not None and _host(headers.get(b"host", b"")) not in self._hosts:
            raise Refused(
                421,
                f"this server answers to {', '.join(sorted(set(self._hosts)))}; call it so",
            )
        if path == OPEN:
            return
        if self._token is not None and not _bears(headers.get(b"authorization"), self._token):
            raise Refused(
                401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN"
            )
        if self._in_work >= self._limits.requests:
            raise Refused(
                503,
                f"there are {self._limits.requests:,} requests in work, the most at a time; try "
                "again in a moment",
            )
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"application/json":
                raise Refused(
                    415,
                    f"the body is {kind.decode('latin-1')[:60] or 'of no type'}; post JSON with "
                    "Content-Type: application/json",
                )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, None if the client left."""
        most = self._limits.body
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > most:
                raise Refused(413, f"the body has {int(value[:20]):,} bytes{self._too_long()}")
        parts, size = [], 0
        try:
            with anyio.fail_after(self._limits.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise Refused(413, f"the body has over {most:,} bytes{self._too_long()}")
                    parts.append(part)
                    more = message.get("more_body", False)
        except TimeoutError:
            raise Refused(
                408,
                f"the body did not arrive within {self._limits.seconds} s, {size:,} bytes of it "
                "did; send it faster, or in smaller requests",
            ) from None
        return b"".join(parts)

    def _too_long(self) -> str:
        return f", and {self._limits.body:,} is the most; send fewer or shorter texts"


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send_and_discard(
    response: JSONResponse, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send an error at once, and read on for a while: who still sends would not hear it else."""
    head = [*response.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": head})
    body = bytes(response.body)
    await send({"type": "http.response.body", "body": body, "more_body": True})
    left, more = DISCARDED, _has_body(scope) and response.status_code != 408
    with anyio.move_on_after(DISCARD_SECONDS):
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _has_body(scope: Scope) -> bool:
    """Whether a body is on its way; a client that asks first (Expect) gets the answer instead."""
    headers = {name for name, _ in scope["headers"]}
    return b"expect" not in headers and bool(headers & {b"content-length", b"transfer-encoding"})


def _bears(header: bytes | None, token: bytes) -> bool:
    """Whether a header has the token, compared in a time that does not depend on where it ends."""
    kind, _, given = (header or b"").partition(b" ")
    return hmac.compare_digest(given.strip(), token) and kind.lower() == b"bearer"


def _host(header: bytes) -> str:
    """The name in a Host header, without the port."""
    name = header.decode("latin-1").lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]
