"""`Limits`: upper bounds of requests, batches, the queue and waiting times of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields

from csr_st.model.settings import integer


@dataclass(frozen=True)
class Limits:
    """Upper limits of a server; a request beyond one is refused with an error that names it.

    Attributes:
        inputs: Texts per request.
        characters: Characters per text; the model itself reads only the beginning of a long text.
        body: Bytes per request body.
        top_k: Documents per query.
        hits: Hits per request, over all its queries.
        rescore: Candidates per query that are ranked again.
        explained: Hits per request that asks for explanations.
        requests: Concurrent requests, over all connections; more are answered with status 503.
        queue: Texts waiting for the model, at least ``inputs``; more are answered with status 429.
        batch: Texts per forward pass.
        batch_characters: Characters per forward pass that several requests share.
        seconds: Seconds within which a request must arrive, and a client that stopped reading must
            go on.

    Raises:
        TypeError: If a limit is not an integer.
        ValueError: If a limit is below 1, or ``queue`` below ``inputs``.
    """

    inputs: int = 128
    characters: int = 100_000
    body: int = 2 * 2**20
    top_k: int = 1_000
    hits: int = 10_000
    rescore: int = 10_000
    explained: int = 100
    requests: int = 512
    queue: int = 1_024
    batch: int = 32
    batch_characters: int = 65_536
    seconds: int = 30

    def __post_init__(self) -> None:
        for one in fields(self):
            integer(one.name, getattr(self, one.name), 1, 2**40)
        if self.queue < self.inputs:
            raise ValueError(
                f"queue={self.queue} is less than inputs={self.inputs}: a request could never be "
                "taken; pass a longer queue"
            )
