"""How much a server takes: bounds of requests, of batches and of waiting."""

from __future__ import annotations

from dataclasses import dataclass, fields

from csr_st.model.settings import integer


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. A request beyond one is refused with an error that names it.

    Attributes:
        inputs: Texts in a request.
        characters: In one text. The model itself reads only the beginning of a long one.
        body: Bytes in the body of a request.
        top_k: Documents for one query.
        hits: In the answer to one request.
        rescore: Documents that are ranked again for one query.
        explained: Hits in a request that asks for explanations.
        requests: In work at the same time, over all connections; more are answered with 503.
        queue: Texts that wait for the model; more are answered with 429.
        batch: Texts in one forward pass.
        batch_characters: In the texts of several requests that share a forward pass.
        seconds: In which a request must arrive, and in which a client must go on reading.

    Raises:
        TypeError: If one is no integer.
        ValueError: If one is below 1.
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
