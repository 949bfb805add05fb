"""Data cut into chunks of rows, each of which becomes one shard."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from csr_st.data.examples import Examples
from csr_st.data.item_bytes import content_of


class Chunk(NamedTuple):
    """The items of one shard.

    Attributes:
        number: Number of the shard.
        first: Row number of the first item.
        items: What the model takes.
        labels: One per row, as the data has them, or None.
    """

    number: int
    first: int
    items: list[Any]
    labels: list[Any] | None

    def digest(self) -> str:
        """Identity of the items and labels; a TypeError if an item cannot be compared later."""
        state = hashlib.blake2b(digest_size=16)
        for row, item in enumerate(self.items, self.first):
            try:
                content = content_of(item)
            except TypeError as error:
                raise TypeError(f"row {row}: {error}") from error
            state.update(len(content).to_bytes(8, "little"))
            state.update(content)
        state.update(json.dumps(self.labels, default=repr).encode())
        return state.hexdigest()


@dataclass
class Chunks:
    """The rows of some data in a fixed order, cut into chunks.

    Attributes:
        examples: The data.
        count: Number of rows; known when there is one row per example and examples are counted,
            else at the end of `read`.
        pairs: (2m,) row numbers of the pairs, at the end of `read`.
        scores: (m,) score of each pair, at the end of `read`.
    """

    examples: Examples
    count: int | None = None
    pairs: array[int] = field(default_factory=lambda: array("q"))
    scores: array[float] = field(default_factory=lambda: array("f"))

    def __post_init__(self) -> None:
        if self.examples.columns.pair is None:
            self.count = self.examples.length

    def read(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks of ``size`` rows whose number is wanted, in rising order.

        Raises as `Examples.read` does.
        """
        columns = self.examples.columns
        if columns.pair is None and self.examples.length is not None:
            for number, first in enumerate(range(0, self.examples.length, size)):
                if wanted(number):
                    yield _chunk(number, first, self.examples.read(first, first + size))
            return
        stream = self.examples.stream() if columns.pair is None else self._distinct_items()
        self.count = 0
        for number in itertools.count():
            rows = list(itertools.islice(stream, size))
            if not rows:
                return
            first, self.count = self.count, self.count + len(rows)
            if wanted(number):
                yield _chunk(number, first, rows)

    def _distinct_items(self) -> Iterator[tuple[Any]]:
        """Distinct texts of both columns, in order of first occurrence; fills pairs and scores.

        Stores an 8-byte digest of every distinct text (about 100 bytes each in a dict). Two of 20
        million texts have the same digest with a probability of 1 in 100,000.
        """
        del self.pairs[:], self.scores[:]
        row_of: dict[int, int] = {}
        count = 0
        for example in self.examples.stream():
            for item in example[:2]:
                row = row_of.setdefault(_key(item), count) if isinstance(item, str) else count
                self.pairs.append(row)
                if row == count:
                    count += 1
                    yield (item,)
            self.scores.extend(example[2:])


def _chunk(number: int, first: int, rows: list[tuple[Any, ...]]) -> Chunk:
    labels = [row[1] for row in rows] if len(rows[0]) > 1 else None
    return Chunk(number, first, [row[0] for row in rows], labels)


def _key(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
