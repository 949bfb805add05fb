"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

# Several workers add up their figures in files of this folder; prometheus-client reads the name.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one app, in a registry of its own: a process may have several apps."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "csr_st_requests", "Answered requests", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "csr_st_request_seconds",
            "From the head of a request to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "csr_st_batch_texts", "Texts per forward pass", buckets=TEXTS, registry=self._registry
        )
        self._waiting = Gauge(
            "csr_st_waiting_texts",
            "Texts that wait for the model",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, texts: int) -> None:
        """Count a forward pass."""
        self._batch.observe(texts)

    def rendered(self, waiting: int) -> bytes:
        """All figures; of all workers where there are several."""
        self._waiting.set(waiting)
        registry = self._registry
        if os.environ.get(SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
