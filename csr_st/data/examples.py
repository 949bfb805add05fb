"""One face for every kind of data: examples as tuples of the columns that are needed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from csr_st.data.images import encoded, image_columns, undecoded

if TYPE_CHECKING:
    from typing import TypeGuard

RowsOfData = Callable[[int, int], list[tuple[Any, ...]]]
READ_AT_ONCE = 1000


@dataclass(frozen=True)
class Columns:
    """Which columns of the data are embedded and which ride along; see `EmbeddingStore.embed`.

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
    def named(self) -> list[str]:
        """Every column that is named, in the order of an example's tuple."""
        names = self.pair if self.pair is not None else (self.text,)
        return [name for name in (*names, self.label, self.score) if name is not None]


@dataclass(frozen=True)
class Examples:
    """Data as tuples: (item,), (item, label), (one, other) or (one, other, score).

    Attributes:
        columns: The columns, the text column found where it was not named.
        stream: Begins to iterate over all examples.
        textual: Whether the items are text.
        length: Number of examples, or None for a stream.
        read: Examples from one number to another, or None for a stream.
        name: Name of the data, or None.
        fingerprint: Identity of the content, or None.
        label_names: Names of the classes, where the data declares them.
    """

    columns: Columns
    stream: Callable[[], Iterator[tuple[Any, ...]]]
    textual: bool
    length: int | None = None
    read: RowsOfData | None = None
    name: str | None = None
    fingerprint: str | None = None
    label_names: list[str] | None = None


def locate(place: int, column: str | None) -> str:
    """Words for one entry of the data."""
    return f"entry {place}" if column is None else f"entry {place} of column {column!r}"


def read_examples(data: Any, columns: Columns) -> Examples:
    """Data of any kind as examples.

    Raises:
        TypeError: If the data is a single string, a table of a kind that is not known, or cannot be
            iterated.
        ValueError: If it is empty, has splits, or a column is missing.
    """
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise TypeError(
            f"data is {type(data).__name__}; pass a datasets.Dataset or an iterable of items"
        )
    if isinstance(data, Mapping):
        _refuse_splits(data)
        data = _as_records(data)
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _of_dataset(data, columns)
    if hasattr(data, "iloc"):  # pandas, which need not be installed
        return _of_iterable(_of_pandas(data), columns, records=hasattr(data, "columns"))
    if hasattr(data, "columns") and (hasattr(data, "to_dicts") or hasattr(data, "to_pylist")):
        # Going through a table of polars or pyarrow gives columns, not rows.
        raise TypeError(
            f"data is a {type(data).__module__}.{type(data).__qualname__}; pass its rows as dicts, "
            "or a datasets.Dataset or pandas.DataFrame"
        )
    return _of_iterable(data, columns)


def _of_dataset(data: Any, columns: Columns) -> Examples:
    """A datasets.Dataset, or an IterableDataset with known or unknown features."""
    counted = hasattr(data, "__len__")
    if data.features is None:
        return _of_iterable(data, columns, records=True, name=_name_of(data))
    texts = [n for n, kind in data.features.items() if getattr(kind, "dtype", "") in STRINGS]
    pictures = image_columns(data.features)
    columns = _complete(columns, list(data.features), texts or pictures)
    named = columns.named
    asked = [name for name in pictures if name in named]
    label = data.features[columns.label] if columns.label else None
    label_names = getattr(label, "names", None)
    fingerprint = getattr(data, "_fingerprint", None)
    about: dict[str, Any] = {
        "name": _name_of(data),
        "fingerprint": fingerprint,
        "label_names": label_names,
    }
    data = undecoded(data.select_columns(list(dict.fromkeys(named))).with_format(None))
    if not counted:
        return _of_stream(_with_images(iter(data), asked), columns, **about)
    if not len(data):
        _refuse_empty()

    def read(begin: int, end: int) -> list[tuple[Any, ...]]:
        found = data[begin:end]
        for name in asked:
            found[name] = [encoded(v, place, name) for place, v in enumerate(found[name], begin)]
        return list(zip(*(found[name] for name in named), strict=True))

    return _counted(len(data), read, columns, **about)


STRINGS = ("string", "large_string")


def _with_images(records: Iterator[Any], names: list[str]) -> Iterator[Any]:
    for place, record in enumerate(records):
        yield {**record, **{name: encoded(record[name], place, name) for name in names}}


def _of_iterable(
    data: Iterable[Any], columns: Columns, records: bool = False, name: str | None = None
) -> Examples:
    """Bare items, or dicts when a column is named or ``records`` says so."""
    sequence = data if _is_counted(data) else None
    if sequence is not None:
        if not len(sequence):
            _refuse_empty()
        first = sequence[0]
    else:
        iterator, nothing = iter(data), object()
        first = next(iterator, nothing)
        if first is nothing:
            _refuse_empty()
        data = itertools.chain([first], iterator)
    records = records or bool(columns.named)
    if records:
        if not isinstance(first, Mapping):
            raise ValueError(
                f"column {columns.named[0]!r} was asked for, but entry 0 is a "
                f"{type(first).__name__} without columns; pass dicts or a datasets.Dataset"
            )
        columns = _complete(columns, list(first), [k for k, v in first.items() if _is_text(v)])
    if sequence is None:
        return _of_stream(iter(data), columns, bare=not records, name=name)

    def read(begin: int, end: int) -> list[tuple[Any, ...]]:
        return [
            _pick(item, columns, place) if records else (item,)
            for place, item in enumerate(_between(sequence, begin, end), begin)
        ]

    return _counted(len(sequence), read, columns, name=name)


def _is_counted(data: Any) -> TypeGuard[Sequence[Any]]:
    """Whether there is a number of items, each to be had by its place: a list, an array."""
    return hasattr(data, "__len__") and hasattr(data, "__getitem__")


def _between(sequence: Sequence[Any], begin: int, end: int) -> Iterable[Any]:
    """Items begin..end-1, at once where the data is known to understand that."""
    if isinstance(sequence, Sequence) and not isinstance(sequence, deque):
        return sequence[begin:end]
    return (sequence[place] for place in range(begin, end))


def _counted(length: int, read: RowsOfData, columns: Columns, **about: Any) -> Examples:
    def stream() -> Iterator[tuple[Any, ...]]:
        for begin in range(0, length, READ_AT_ONCE):
            yield from read(begin, min(begin + READ_AT_ONCE, length))

    textual = _is_text(read(0, 1)[0][0])
    return Examples(columns, stream, textual, length=length, read=read, **about)


def _of_stream(
    iterator: Iterator[Any], columns: Columns, bare: bool = False, **about: Any
) -> Examples:
    rows = ((item,) if bare else _pick(item, columns, n) for n, item in enumerate(iterator))
    first = next(rows, None)
    if first is None:
        _refuse_empty()
    # The first example is put back: a stream is gone through once.
    whole = itertools.chain([first], rows)
    return Examples(columns, lambda: whole, _is_text(first[0]), **about)


def _pick(record: Any, columns: Columns, place: int) -> tuple[Any, ...]:
    try:
        return tuple(record[name] for name in columns.named)
    except (KeyError, TypeError, IndexError) as error:
        there = list(record) if isinstance(record, Mapping) else type(record).__name__
        raise ValueError(
            f"entry {place} has not every one of the columns {columns.named}: it is {there}"
        ) from error


def _complete(columns: Columns, there: list[str], texts: list[str]) -> Columns:
    """The same columns, the text column found; refuses one that is not there."""
    if columns.text is None and columns.pair is None:
        found = "text" if "text" in texts else texts[0] if len(texts) == 1 else None
        if found is None:
            raise ValueError(
                f"text_column must be named: the data has the columns {there}, of which "
                f"{texts or 'none'} hold text or images"
            )
        columns = Columns(found, columns.label, columns.pair, columns.score)
    missing = [name for name in columns.named if name not in there]
    if missing:
        raise ValueError(f"column {missing[0]!r} is not in the data; its columns are {there}")
    return columns


def _as_records(data: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A dict of columns as rows; refuses columns of different length."""
    lengths = {name: len(values) for name, values in data.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns have different lengths: {lengths}; pairs must be even")
    return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]


def _refuse_splits(data: Mapping[str, Any]) -> None:
    if any(hasattr(part, "column_names") for part in data.values()):
        splits = list(data)
        raise ValueError(
            f"data is a {type(data).__name__} with the splits {splits}; pass one of them, such as "
            f"data[{splits[0]!r}]"
        )


def _of_pandas(data: Any) -> list[Any]:
    """The values of a series, or the rows of a frame as dicts; None where a value is missing."""
    whole = data.astype(object).where(data.notna(), None)
    return list(whole.to_dict("records") if hasattr(data, "columns") else whole.tolist())


def _name_of(data: Any) -> str | None:
    info = getattr(data, "info", None)
    parts = [getattr(info, "dataset_name", None), getattr(info, "config_name", None)]
    parts.append(str(data.split) if getattr(data, "split", None) else None)
    return "/".join(part for part in parts if part) or None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _refuse_empty() -> NoReturn:
    raise ValueError("the data is empty: there is nothing to embed")
