"""Data to embed as chunks of rows, whatever it comes as: each chunk becomes one shard."""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from csr_st.data.examples import Columns, Examples, RowsOfData, locate
from csr_st.data.item_bytes import content_of


class Chunk(NamedTuple):
    """The items of one shard.

    Attributes:
        number: Number of the shard.
        first: Row number of the first item.
        items: What the model takes.
        labels: One a row, as the data has them, or None.
    """

    number: int
    first: int
    items: list[Any]
    labels: list[Any] | None

    def digest(self) -> str:
        """Identity of the items and labels.

        Raises:
            TypeError: If an item's content cannot be compared, naming its row.
        """
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
class Rows:
    """The rows that some data gives, in a fixed order, cut into chunks.

    Attributes:
        examples: The data.
        columns: What is asked of it.
        count: Number of rows; known when there is one row an example and examples are counted,
            else once `chunks` came to its end.
        pairs: Flat row numbers (2m) of the pairs, once `chunks` came to its end.
        scores: (m,) score of each pair, once `chunks` came to its end.
    """

    examples: Examples
    columns: Columns
    count: int | None = None
    pairs: array[int] = field(default_factory=lambda: array("q"))
    scores: array[float] = field(default_factory=lambda: array("f"))

    def __post_init__(self) -> None:
        if self.columns.pair is None:
            self.count = self.examples.length

    def chunks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks of ``size`` rows whose number is wanted, in rising order.

        Raises:
            ValueError: If an item or a partner is missing, or a score is no number.
            TypeError: If an item is of a kind that cannot be embedded, or kinds are mixed.
        """
        if self.columns.pair is not None:
            return self._pair_chunks(size, wanted)
        if self.examples.read is not None:
            return self._counted_chunks(size, wanted, self.examples.read)
        return self._streamed_chunks(size, wanted)

    def _counted_chunks(
        self, size: int, wanted: Callable[[int], bool], read: RowsOfData
    ) -> Iterator[Chunk]:
        length = self.examples.length or 0
        for number, first in enumerate(range(0, length, size)):
            if wanted(number):
                yield self._chunk(number, first, read(first, min(first + size, length)))

    def _streamed_chunks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        stream = self.examples.stream()
        self.count = 0
        for number in itertools.count():
            rows = list(itertools.islice(stream, size))
            if not rows:
                return
            first, self.count = self.count, self.count + len(rows)
            if wanted(number):
                yield self._chunk(number, first, rows)

    def _chunk(self, number: int, first: int, rows: list[tuple[Any, ...]]) -> Chunk:
        items = [row[0] for row in rows]
        self._check(items, range(first, first + len(items)), self.columns.text)
        labels = None if self.columns.label is None else [row[1] for row in rows]
        return Chunk(number, first, items, labels)

    def _pair_chunks(self, size: int, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """Distinct texts of both columns, in order of first occurrence; fills pairs and scores.

        Remembers an 8-byte digest of every distinct text (about 100 bytes each in a dict). Two of
        20 million texts share a digest with a chance of 1 in 100,000.
        """
        del self.pairs[:], self.scores[:]
        row_of: dict[int, int] = {}
        waiting: list[Any] = []
        number = self.count = 0
        for place, example in enumerate(self.examples.stream()):
            for side, item in enumerate(example[:2]):
                self._check([item], [place], (self.columns.pair or ())[side])
                key = _text_key(item) if isinstance(item, str) else -1 - self.count
                row = row_of.setdefault(key, self.count)
                self.pairs.append(row)
                if row == self.count:
                    waiting.append(item)
                    self.count += 1
                    if len(waiting) == size:
                        if wanted(number):
                            yield Chunk(number, number * size, waiting, None)
                        number, waiting = number + 1, []
            if self.columns.score is not None:
                self.scores.append(_as_score(example[2], place, self.columns.score))
        if waiting and wanted(number):
            yield Chunk(number, number * size, waiting, None)

    def _check(self, items: list[Any], places: Iterable[int], column: str | None) -> None:
        for item, place in zip(items, places, strict=False):
            if item is None:
                partner = " The other side of the pair is there: pairs must be even." * (
                    self.columns.pair is not None
                )
                raise ValueError(
                    f"{locate(place, column)} is None; drop or fill such entries first.{partner}"
                )
            textual = isinstance(item, str)
            if isinstance(item, bool | int | float) or textual != self.examples.textual:
                kind = "text" if self.examples.textual else "anything that the model takes"
                raise TypeError(
                    f"{locate(place, column)} is {item!r:.60} ({type(item).__name__}), not {kind}; "
                    "convert or drop such entries first"
                )


def _text_key(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _as_score(score: Any, place: int, column: str) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = float("nan")
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{locate(place, column)} is {score!r}; a score must be a finite number")
    return value
