"""Rows of data of any type (data sets, tables, lists, streams) as tuples of the needed columns."""

from __future__ import annotations

import datetime
import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import numpy as np

from csr_st.data.images import EncodedImage, image_columns, undecoded
from csr_st.data.labels import check_numbers
from csr_st.data.loading import chosen_column, item_column
from csr_st.data.mixing import unmixed

READ_AT_ONCE = 1000
# What no model embeds, and a column of a table may hold
NO_ITEMS = (bool, int, float, Decimal, datetime.date, datetime.time, datetime.timedelta)


@dataclass(frozen=True)
class Columns:
    """Which columns are embedded and which go with them; see `EmbeddingStore.embed`.

    Attributes:
        text: Column to embed, or None for bare items or the only text column.
        label: Column of classes, or None.
        pair: Two columns whose rows belong together, or None.
        score: Column of a number for each pair, or None.
    """

    text: str | None = None
    label: str | None = None
    pair: tuple[str, str] | None = None
    score: str | None = None

    def __post_init__(self) -> None:
        if self.pair is not None:
            if isinstance(self.pair, str) or len(self.pair) != 2:
                raise ValueError(f"pair_columns={self.pair!r}; pass two column names")
            if self.text is not None or self.label is not None:
                raise ValueError(
                    "pair_columns embeds both its columns as rows; it does not go with text_column "
                    "or label_column"
                )
        elif self.score is not None:
            raise ValueError(f"score_column={self.score!r} needs pair_columns, which it grades")

    @property
    def items(self) -> tuple[str | None, ...]:
        """The columns that are embedded."""
        return self.pair or (self.text,)

    @property
    def named(self) -> list[str]:
        """Every column that is named, in the order of an example's tuple."""
        return [name for name in (*self.items, self.label, self.score) if name is not None]

    def with_text(self, choose: Callable[[], str]) -> Columns:
        """The same columns, the text column as `choose` gives it if it is needed and not named."""
        if self.text is None and self.pair is None:
            return replace(self, text=choose())
        return self

    def check(self, there: Collection[str]) -> None:
        """Raise a ValueError if a named column is not there."""
        if missing := [name for name in self.named if name not in there]:
            raise ValueError(
                f"column {missing[0]!r} is not in the data; its columns are {list(there)}"
            )


@dataclass(frozen=True)
class Examples:
    """Data as tuples: (item,), (item, label), (one, other) or (one, other, score).

    Attributes:
        columns: The columns, the text column found where it was not named.
        source: An iterator over all entries; or a function that reads those from one number to
            another, where ``length`` is known.
        textual: Whether the items are text.
        bare: Whether an entry is the item itself, not a dict of columns.
        length: Number of entries, or None for a stream.
        pictures: Columns of undecoded images.
        name: Name of the data, or None.
        fingerprint: Identity of the content, or None.
        label_names: Names of the classes, where the data declares them.
    """

    columns: Columns
    source: Any
    textual: bool
    bare: bool
    length: int | None = None
    pictures: list[str] = field(default_factory=list)
    name: str | None = None
    fingerprint: str | None = None
    label_names: list[str] | None = None

    def read(self, begin: int, end: int) -> list[tuple[Any, ...]]:
        """The examples from one number to another, where ``length`` is known.

        Raises:
            ValueError: If an item is missing, or a score is not a number.
            TypeError: If an item is of a type that cannot be embedded, or types are mixed.
        """
        entries = self.source(begin, min(end, self.length or 0))
        return [self._example(entry, place) for place, entry in enumerate(entries, begin)]

    def stream(self) -> Iterator[tuple[Any, ...]]:
        """All examples, one after the other; raises as `read` does."""
        if self.length is None:
            for place, entry in enumerate(self.source):
                yield self._example(entry, place)
        for begin in range(0, self.length or 0, READ_AT_ONCE):
            yield from self.read(begin, begin + READ_AT_ONCE)

    def _example(self, entry: Any, place: int) -> tuple[Any, ...]:
        values = [entry] if self.bare else _values(entry, self.columns.named, place)
        for number, column in enumerate(self.columns.items):
            if column in self.pictures and values[number] is not None:
                values[number] = EncodedImage.of(values[number], place, str(column))
            self._check(values[number], place, column)
        if self.columns.score is not None:
            values[2] = _as_score(values[2], place, self.columns.score)
        return tuple(values)

    def _check(self, item: Any, place: int, column: str | None) -> None:
        if item is None:
            partner = " The other side of the pair is there: pairs must be even."
            raise ValueError(
                f"{_locate(place, column)} is None; drop or fill such entries first."
                f"{partner * (self.columns.pair is not None)}"
            )
        if isinstance(item, NO_ITEMS) or isinstance(item, str) != self.textual:
            expected = "text" if self.textual else "anything that the model takes"
            raise TypeError(
                f"{_locate(place, column)} is {item!r:.60} ({type(item).__name__}), not {expected};"
                " convert or drop such entries first"
            )


def read_examples(data: Any, columns: Columns) -> Examples:
    """Data of any type as examples.

    Raises:
        TypeError: If the data is a single string, a table of an unknown type, or cannot be
            iterated.
        ValueError: If it is empty, has splits, or a column is missing; or a column of a mixture is
            named.
    """
    data = unmixed(data, columns.named)
    if isinstance(data, str | bytes | set | frozenset) or not isinstance(data, Iterable):
        raise TypeError(
            f"data is {type(data).__name__}; pass a datasets.Dataset or an iterable of items in an "
            "order that stays, such as a list"
        )
    if isinstance(data, Mapping):
        data = _rows_of_dict(data)
    about: dict[str, Any] = {}
    records = False
    if _is_dataset(data):
        records = True
        about["name"] = _name_of(data)
        if data.features is not None:
            about["fingerprint"] = getattr(data, "_fingerprint", None)
            label, features = columns.label, data.features
            columns = columns.with_text(lambda: item_column(features, [label]))
            columns.check(features)
            about["pictures"] = [n for n in image_columns(features) if n in columns.named]
            about["label_names"] = getattr(features[label], "names", None) if label else None
            data = undecoded(data.select_columns(sorted(set(columns.named))).with_format(None))
    elif hasattr(data, "iloc"):  # pandas, which need not be installed
        records = hasattr(data, "columns")
        data = _rows_of_frame(data)
    elif hasattr(data, "columns") and (hasattr(data, "to_dicts") or hasattr(data, "to_pylist")):
        # Iterating over a table of polars or pyarrow gives columns, not rows.
        raise TypeError(
            f"data is a {type(data).__module__}.{type(data).__qualname__}; pass its rows as dicts, "
            "or a datasets.Dataset or pandas.DataFrame"
        )
    elif hasattr(data, "to_pylist"):  # an array of pyarrow, whose items are its own scalars
        data = data.to_pylist()
    examples = _of_iterable(data, columns, records or bool(columns.named), about)
    if examples.columns.label is not None and examples.label_names is None:
        _check_labels(data, examples.columns.label)
    return examples


def _rows_of_frame(data: Any) -> list[Any]:
    """Items of a Series, or rows of a DataFrame, of pandas; missing ones are None."""
    filled = data.astype(object).where(data.notna(), None)
    if not hasattr(data, "columns"):
        return list(filled.tolist())
    if not data.columns.is_unique:
        raise ValueError(f"two columns have the same name: {list(data.columns)}; rename one")
    return list(filled.to_dict("records"))


def _check_labels(data: Any, name: str) -> None:
    """Check numbers of classes before hours of embedding, where data can be read twice."""
    if _is_dataset(data) and hasattr(data, "__len__"):
        values = data.select_columns([name])[name]
    elif isinstance(data, list):
        values = [entry[name] for entry in data if isinstance(entry, Mapping) and name in entry]
    else:
        return
    numbers = [value for value in values if isinstance(value, int | float)]
    whole = [int(value) for value in numbers if math.isfinite(value) and value == int(value)]
    check_numbers(np.array(whole, np.int64))


def _is_dataset(data: Any) -> bool:
    """Whether this is a Dataset or IterableDataset of `datasets`."""
    return hasattr(data, "column_names") and hasattr(data, "features")


def _of_iterable(data: Any, columns: Columns, records: bool, about: dict[str, Any]) -> Examples:
    """Examples of anything with items by number, or that can be iterated over once."""
    counted = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if counted:
        about["length"] = len(data)
    entries = iter(_between(data, 0, min(1, len(data)))) if counted else iter(data)
    first = list(itertools.islice(entries, 1))
    if not first:
        raise ValueError("the data is empty: there is nothing to embed")
    # The first entry of a stream is put back, as a stream is read once.
    source = functools.partial(_between, data) if counted else itertools.chain(first, entries)
    item = first[0]
    if records:
        if not isinstance(item, Mapping):
            raise ValueError(
                f"column {columns.named[0]!r} was requested, but entry 0 is a "
                f"{type(item).__name__} without columns; pass dicts or a datasets.Dataset"
            )
        types = {name: type(value).__name__ for name, value in item.items()}
        texts = [n for n, value in item.items() if isinstance(value, str) and n != columns.label]
        columns = columns.with_text(lambda: chosen_column(types, texts, []))
        columns.check(types)
        item = item[columns.items[0]]
    return Examples(columns, source, isinstance(item, str), not records, **about)


def _between(data: Any, begin: int, end: int) -> Iterable[Any]:
    """Entries begin..end-1, read at once where the data is known to allow that."""
    if _is_dataset(data):
        found = data[begin:end]
        return (dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True))
    if isinstance(data, Sequence) and not isinstance(data, deque):
        return data[begin:end]
    return (data[place] for place in range(begin, end))


def _values(entry: Any, names: list[str], place: int) -> list[Any]:
    try:
        return [entry[name] for name in names]
    except (KeyError, TypeError, IndexError) as error:
        there = list(entry) if isinstance(entry, Mapping) else type(entry).__name__
        raise ValueError(
            f"entry {place} has not every one of the columns {names}: it is {there}"
        ) from error


def _locate(place: int, column: str | None) -> str:
    return f"entry {place}" if column is None else f"entry {place} of column {column!r}"


def _as_score(score: Any, place: int, column: str) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{_locate(place, column)} is {score!r}; a score must be a finite number")
    return value


def _rows_of_dict(data: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A dict of columns as rows; refuses a dict of splits, and columns of different length."""
    if any(hasattr(part, "column_names") for part in data.values()):
        splits = list(data)
        raise ValueError(
            f"data is a {type(data).__name__} with the splits {splits}; pass one of them, such as "
            f"data[{splits[0]!r}]"
        )
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns have different lengths: {lengths}; pairs must be even")
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def _name_of(data: Any) -> str | None:
    info = getattr(data, "info", None)
    parts = [getattr(info, "dataset_name", None), getattr(info, "config_name", None)]
    parts.append(str(data.split) if getattr(data, "split", None) else None)
    return "/".join(part for part in parts if part) or None
