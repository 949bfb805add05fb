"""A server on this machine: its socket, its processes, its end."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvicorn

from csr_st._io.interrupts import noted_signals
from csr_st.serving.limits import Limits
from csr_st.serving.protocol import TimedProtocol
from csr_st.serving.workers import supervise

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # as a Host header has them
END_SECONDS = 30  # for requests in work when the server ends


@dataclass(frozen=True)
class Served:
    """What a server runs.

    Attributes:
        app: Makes the app; with several workers it must be picklable.
        limits: As the app has them: those of time hold for connections too.
        workers: Processes, each with a model of its own.
    """

    app: Callable[[], Any]
    limits: Limits = field(default_factory=Limits)
    workers: int = 1

    def made(self) -> tuple[Any, dict[str, Any]]:
        """The app, and how uvicorn serves it."""
        # Warnings only: of starts and ends `csr-st serve` speaks itself. Requests are not logged:
        # what users send is theirs.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        TimedProtocol.seconds = self.limits.seconds
        options: dict[str, Any] = {
            "http": TimedProtocol,
            "ws": "none",
            "lifespan": "on",
            "access_log": False,
            "log_level": "warning",
            "server_header": False,
            "proxy_headers": False,
            "timeout_keep_alive": self.limits.seconds,
            "timeout_graceful_shutdown": END_SECONDS,
        }
        return self.app(), options


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach a host: an address, or "localhost"."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        OSError: If the port is in use or needs rights that this user has not, or the host is not of
            this machine.
    """
    try:
        tcp = {"type": socket.SOCK_STREAM, "proto": socket.IPPROTO_TCP}
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, **tcp, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol: asyncio sends small answers at once (TCP_NODELAY) only where it is set,
        # and others wait 40 ms for the client's acknowledgement.
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
        except BaseException:
            opened.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"{host} port {port} cannot be served ({reason}); name another --port, 0 for any that "
            "is free, or another --host"
        ) from error
    return opened


def url_of(opened: socket.socket) -> str:
    """The address of a bound socket."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    served: Served, opened: socket.socket, started: Callable[[], None] = lambda: None
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in work are answered first.

    Args:
        served: What to run.
        opened: Of `bound`; it is closed at the end.
        started: Called when requests are about to be taken.

    Raises:
        KeyboardInterrupt: After Ctrl-C, at the end.
        ValueError: If the workers could not start.
    """
    well = True
    with opened:
        if served.workers == 1:
            app, options = served.made()  # Ctrl-C ends it while it loads
            server = uvicorn.Server(uvicorn.Config(app, **options))
            # uvicorn hears signals only once it runs
            with noted_signals(partial(setattr, server, "should_exit", True)) as signals:
                started()
                server.run(sockets=[opened])
        else:
            with noted_signals() as signals:
                started()
                well = supervise(served.made, served.workers, opened, signals)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    if not well:
        raise ValueError("the workers could not start; the lines above say why")
