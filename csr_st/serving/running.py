"""A server on this machine: its socket, its processes, its end."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from csr_st._io.interrupts import noted_signals
from csr_st.serving.limits import Limits
from csr_st.serving.metrics import SHARED
from csr_st.serving.protocol import TimedProtocol

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
END_SECONDS = 30  # for requests in work when the server ends
START_SECONDS = 300  # for a worker to load its model, in which it may not answer its parent


@dataclass(frozen=True)
class Served:
    """What a server runs: how each worker makes its app, and the bounds of connections.

    Attributes:
        app: Makes the app; with several workers it must be picklable.
        limits: As the app has them.
        workers: Processes, each with a model of its own.
    """

    app: Callable[[], Any]
    limits: Limits = field(default_factory=Limits)
    workers: int = 1

    def __call__(self) -> Any:
        """The app, in a worker.

        An error ends the worker in a way by which its parent does not try again.
        """
        TimedProtocol.seconds = self.limits.seconds
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.workers))
        try:
            return self.app()
        except Exception as error:
            print(f"csr-st: error: {error}", file=sys.stderr)  # noqa: T201 - a process of its own
            sys.exit(STARTUP_FAILURE)


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
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
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
    opened.set_inheritable(True)
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
        started: Called when an app is made, before the first request.

    Raises:
        KeyboardInterrupt: After Ctrl-C, at the end.
        ValueError: If the workers could not start.
    """
    # Warnings only: uvicorn says at each start and end what `csr-st serve` says in its words, and
    # an access log of a server of texts has nothing but paths.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    options: dict[str, Any] = {
        "http": TimedProtocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_level": "warning",
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": served.limits.seconds,
        "timeout_graceful_shutdown": END_SECONDS,
    }
    with opened:
        app = served.app() if served.workers == 1 else None  # Ctrl-C ends it while it loads
        with noted_signals() as signals:
            if app is None:
                _serve_with_workers(served, opened, started, options)
            else:
                TimedProtocol.seconds = served.limits.seconds
                started()
                uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[opened])
    if signal.SIGINT in signals:
        raise KeyboardInterrupt
    if not signals and os.name == "posix":
        raise ValueError("the workers could not start; the lines above say why")


def _serve_with_workers(
    served: Served,
    opened: socket.socket,
    started: Callable[[], None],
    options: dict[str, Any],
) -> None:
    """Serve by processes, of which one that is killed is started again."""
    with tempfile.TemporaryDirectory(prefix="csr-st-metrics-") as folder:
        os.environ[SHARED] = folder  # of the workers, which are started with it
        try:
            config = uvicorn.Config(
                served,
                factory=True,
                workers=served.workers,
                timeout_worker_healthcheck=START_SECONDS,
                **options,
            )
            started()
            Multiprocess(config, sockets=[opened]).run()
        finally:
            del os.environ[SHARED]
