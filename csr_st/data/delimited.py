"""Tables of separated fields (.csv, .tsv): separator, quotes, first line, and types of columns.

No field is read as missing but an empty one, and a column is read as numbers only where distinct
texts are distinct numbers. Rows are never merged by a quote that stands for itself.
"""

from __future__ import annotations

import csv
import itertools
import logging
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information
import pyarrow.compute as pc  # type: ignore[import-untyped]

from csr_st.data.header import NUMBER, has_header, is_known
from csr_st.data.spool import BATCH_CHARACTERS, BATCH_ROWS, spooled
from csr_st.data.streams import ending_of, raw_lines

SAMPLE = 200  # lines from which the separator is found
LONGEST_FIELD = 1 << 27  # characters; csv's own limit is 131,072
WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,18})$"
DECIMAL = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
SEPARATORS = (",", ";", "\t", "|")
EXCELS_SEPARATOR = re.compile(r"sep=(.)\r?\n")

logger = logging.getLogger(__name__)


class _RowError(ValueError):
    """A line that does not fit a way to read a table; another way may fit."""


def read_delimited(path: Path, wanted: Collection[str] = ()) -> Any:
    """A .csv or .tsv file as a pyarrow Table.

    Without a line of names, columns are called column_1, column_2, ...; a single one "text".

    Args:
        path: The file.
        wanted: Names of columns that the caller will ask for: if the first line has them, it holds
            names.

    Raises:
        ValueError: If a row has more fields than the first line, a quote is not closed, it is
            unknown whether the first line holds names, or a name occurs twice.
    """
    first, columns = _read(path, _separator(path))
    try:
        named = has_header(first, columns, wanted)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; name a column to read if it has names, else put a line of names "
            "before it, such as label and text"
        ) from None
    if named:
        names = [name.strip() or f"column_{i}" for i, name in enumerate(first, start=1)]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{path} has two columns {repeated!r}; rename one in its first line")
    else:
        names = [f"column_{i}" for i in range(1, len(first) + 1)] if len(first) > 1 else ["text"]
        logger.warning("%s has no line of names; its columns are %s", path, ", ".join(names))
        columns = [
            pa.chunked_array([pa.array([field or None], pa.string()), *column.chunks])
            for field, column in zip(first, columns, strict=True)
        ]
    return pa.table([as_numbers(column) for column in columns], names)


def _read(path: Path, separator: str) -> tuple[list[str], list[Any]]:
    """The first row, and the others as columns of strings; empty fields are None."""
    try:
        return _columns(lambda: _quoted(path, separator))
    except _RowError as error:
        try:  # quotes that are not closed, or inside words, stand for themselves
            return _columns(lambda: _literal(path, separator))
        except _RowError:
            raise ValueError(f"{path} cannot be read as {ending_of(path)}: {error}") from error


def _columns(read: Callable[[], Iterator[list[str]]]) -> tuple[list[str], list[Any]]:

    rows = read()
    first = next(rows, None)
    if first is None:
        raise _RowError("it has no row")
    names = [str(place) for place in range(len(first))]

    def tables() -> Iterator[Any]:
        batch: list[list[str]] = []
        size = 0
        for row in rows:
            batch.append(row)
            size += sum(map(len, row))
            if len(batch) == BATCH_ROWS or size > BATCH_CHARACTERS:
                yield _table(batch, names)
                batch, size = [], 0
        yield _table(batch, names)

    return first, spooled(tables()).columns


def _table(rows: list[list[str]], names: list[str]) -> Any:

    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    arrays = [pa.array([field or None for field in column], pa.string()) for column in columns]
    return pa.table(arrays, names)


def _quoted(path: Path, separator: str) -> Iterator[list[str]]:
    """Rows by RFC 4180: a field in quotes may have separators, line ends and doubled quotes.

    Raises a `_RowError` where this does not fit the file, and a ValueError where all lines that it
    merges look like rows: in a .tsv, or in another table with numbers, where the numbers are.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_FIELD))
    lines: list[str] = []  # of the present row
    reader = csv.reader(_watched(path, lines), delimiter=separator, strict=True)
    width, number, merged = 0, 1, 0
    shapes: set[tuple[bool, ...]] = set()  # of lines that are merged
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _RowError(
                f"the row from line {number} on has a quote that is not closed or not doubled "
                f"({error})"
            ) from None
        if row is None:
            break
        if row:
            width = width or len(row)
            if len(row) > width:
                raise _RowError(
                    f"line {number} has {len(row)} fields, the first line has {width}; put quotes "
                    f"around a field with {separator!r} in it"
                )
            if len(lines) > 1:
                merged = merged or number
                shapes |= {_shape(_split(line, separator, width)) for line in lines}
            yield row + [""] * (width - len(row))
        number += len(lines)
        lines.clear()
    if merged and width > 1 and {len(shape) for shape in shapes} == {width}:
        what = (
            f"{path}: from line {merged} on a quote joins lines, each of which is a row by itself"
        )
        if separator == "\t" or (len(shapes) == 1 and any(*shapes)):
            raise ValueError(
                f"{what}; remove such a quote or double it, or write the rows as .jsonl"
            )
        logger.warning("%s", what)


def _shape(fields: list[str]) -> tuple[bool, ...]:
    """Which fields of a line are numbers."""
    return tuple(bool(NUMBER.fullmatch(field)) for field in fields)


def _watched(path: Path, seen: list[str]) -> Iterator[str]:
    for line in _lines(path):
        seen.append(line)
        yield line


def _lines(path: Path) -> Iterator[str]:
    """The lines with their ends; one by which Excel is told the separator is left blank."""
    for number, line in enumerate(raw_lines(path)):
        yield line if number or not EXCELS_SEPARATOR.fullmatch(line) else "\n"


def _literal(path: Path, separator: str) -> Iterator[list[str]]:
    """One row a line: a quote that is not closed in its own field stands for itself.

    Raises a `_RowError` for a line with more or fewer fields than the first.
    """
    width = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip("\r\n"):
            continue
        fields = _split(line, separator, width)
        width = width or len(fields)
        if len(fields) != width:
            raise _RowError(f"line {number} has {len(fields)} fields, the first line has {width}")
        yield fields


def _split(line: str, separator: str, width: int) -> list[str]:
    """The fields of one line; those that begin and end with a quote without these quotes."""
    line = line.rstrip("\r\n")
    plain = line.split(separator)
    if not line.startswith('"') and f'{separator}"' not in line:
        return plain
    s = re.escape(separator)
    found = re.findall(rf'(?:^|{s})(?:"((?:[^"]|"")*)"(?={s}|$)|([^{s}]*))', line)
    fields = [quoted.replace('""', '"') or other for quoted, other in found]
    return plain if len(plain) == width != len(fields) else fields


def _separator(path: Path) -> str:
    """The separator of a table: the first of the usual ones by which its first lines are even."""
    tabs = ending_of(path) == ".tsv"
    if marked := EXCELS_SEPARATOR.fullmatch(next(raw_lines(path), "")):
        return marked[1]
    sample = [line for line in itertools.islice(_lines(path), SAMPLE) if line.strip("\r\n")]
    if not sample:
        raise ValueError(f"{path} has only blank lines; it must have at least one row")
    first = sample[0].rstrip("\r\n")
    if tabs:
        other = next((s for s in SEPARATORS if s in first and is_known(first.split(s))), None)
        if "\t" not in first and other:
            raise ValueError(
                f"{path} has no tab in its first line, {first!r:.80}; name it .csv, where other "
                "separators are found"
            )
        return "\t"
    for separator in SEPARATORS:
        raw = {line.count(separator) for line in sample}
        rows = [row for row in csv.reader(sample, delimiter=separator) if row]
        even = {len(row) for row in (rows[:-1] or rows)}  # the last may be cut
        if (len(raw) == 1 and raw != {0}) or (len(even) == 1 and even != {1}):
            return separator
    # Some rows are shorter, or have a stray quote: what the first line has most of
    return max(SEPARATORS, key=lambda separator: len(_split(first, separator, 0)))


def as_numbers(column: Any) -> Any:
    """A column of strings as whole or floating-point numbers, where no text gets lost by it.

    All of its texts must be plain numbers, and distinct texts distinct numbers: "007", "+1", and
    "1.0" beside "1" stay text.
    """
    for pattern, kind in ((WHOLE_NUMBER, pa.int64()), (DECIMAL, pa.float64())):
        if pc.all(pc.match_substring_regex(column, pattern)).as_py():  # None: it is empty
            texts = pc.unique(column.drop_null())
            try:
                numbers = texts.cast(kind)
            except pa.ArrowInvalid:  # beyond 64 bits
                continue
            if len(pc.unique(numbers)) == len(texts) and pc.all(pc.is_finite(numbers)).as_py():
                return column.cast(kind)
    return column
