"""uvicorn's HTTP/1.1 with bounds on how long a client may take: to send a head, and to read.

uvicorn bounds only the pause between two requests. `csr_st.serving.guard` bounds bodies.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from csr_st.serving.limits import Limits


class TimedProtocol(H11Protocol):
    """A connection that ends where its client is too slow.

    Attributes:
        seconds: For the head of a request to arrive, and for a client to go on reading.
    """

    seconds: float = Limits.seconds
    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._head = self._reading = _stopped(self._head, self._reading)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """Give the client its time: it has not read what was sent."""
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on, as the client has read."""
        super().resume_writing()
        self._reading = _stopped(self._reading)

    def _watch_head(self) -> None:
        if not self._awaits_head():
            self._head = _stopped(self._head)
        elif self._head is None:
            self._head = self.loop.call_later(self.seconds, self._refuse_slow_head)

    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse_slow_head(self) -> None:
        self._head = None
        if not self._awaits_head() or self.transport.is_closing():
            return
        message = f"the head of the request did not arrive within {self.seconds} s; send it faster"
        body = json.dumps({"error": message, "error_type": "Timeout"}).encode()
        status = HTTPStatus.REQUEST_TIMEOUT
        head = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        try:
            for event in (
                h11.Response(status_code=status, headers=head, reason=status.phrase),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # in the middle of something else: close without a word
            pass
        self.transport.close()


def _stopped(*timers: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Stop timers; None, to put in their place."""
    for timer in timers:
        if timer is not None:
            timer.cancel()
    return None
