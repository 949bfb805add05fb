"""What every format is written from: ids, rows and payloads, a part of them at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from csr_st._io.files import atomic_path
from csr_st.codes import SparseCodes
from csr_st.search.engines.keys import Key
from csr_st.search.engines.payloads import checked_payload, refuse_one
from csr_st.search.engines.rows import Row, Vectors, checked_rows, row_of
from csr_st.search.ids import Ids, as_new_ids

Payload: TypeAlias = Mapping[str, Any]


@runtime_checkable
class Shards(Protocol):
    """Codes in parts, such as a `csr_st.CodeStore`."""

    def __len__(self) -> int:
        """Number of documents."""

    def shards(self) -> Iterator[SparseCodes]:
        """The codes of one part after another."""


Source: TypeAlias = Vectors | Shards


class Entry(NamedTuple):
    """One document."""

    id: Key
    row: Row
    payload: dict[str, Any]


def entries(
    source: Source, ids: Ids | None = None, payloads: Iterable[Payload] | None = None
) -> Iterator[Entry]:
    """The documents of a source; ids are checked at once, codes and payloads as they are read.

    Args:
        source: Codes, a SciPy sparse matrix, or shards of codes.
        ids: One integer or string per document; 0..n-1 if None.
        payloads: One mapping of JSON values per document.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat or values are negative, NaN or infinite.
    """
    n = size(source)
    keys = as_new_ids(ids, n).tolist()
    found = zip(keys, _rows(source), payloads_of(payloads, n), strict=True)
    return (Entry(*one) for one in found)


def size(source: Source) -> int:
    """Number of documents.

    Raises:
        TypeError: If the source is none.
    """
    if isinstance(source, Shards | SparseCodes):
        return len(source)
    shape = getattr(source, "shape", None)
    if not shape or not hasattr(source, "tocsr"):
        raise TypeError(
            f"codes are {type(source).__name__}; pass SparseCodes (the unpack() of packed ones), a "
            "sparse matrix or a CodeStore"
        )
    return int(shape[0])


def parts(source: Source) -> Iterator[Vectors]:
    """The source, a shard at a time."""
    return source.shards() if isinstance(source, Shards) else iter([source])


def _rows(source: Source) -> Iterator[Row]:
    for part in parts(source):
        matrix = checked_rows(part, "codes")
        for row in range(matrix.shape[0]):
            yield row_of(matrix, row)


def payloads_of(payloads: Iterable[Payload] | None, n: int) -> Iterator[dict[str, Any]]:
    """The payloads of n documents, checked as they are read; empty ones if None.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If there are not n, said at once where they have a length, or one cannot be
            stored.
    """
    refuse_one(payloads)
    if isinstance(payloads, Collection) and len(payloads) != n:
        raise ValueError(f"there are {len(payloads)} payloads for {n} documents")
    return _payloads(itertools.repeat({}, n) if payloads is None else iter(payloads), n)


def _payloads(given: Iterator[Payload], n: int) -> Iterator[dict[str, Any]]:
    for row in range(n):
        try:
            payload = next(given)
        except StopIteration:
            raise ValueError(f"there are {row} payloads for {n} documents") from None
        yield checked_payload(payload, row)
    if next(given, None) is not None:
        raise ValueError(f"there are more than {n} payloads for {n} documents")


def tokens(row: Row) -> dict[str, float]:
    """A row by the names of its latents, with the shortest decimals that are its float32 values."""
    return {str(latent): float(str(np.float32(value))) for latent, value in row.items()}


def query_rows(codes: Vectors) -> Iterator[Row]:
    """The rows of queries.

    Raises:
        TypeError: If they are neither codes nor a sparse matrix.
        ValueError: If a value is negative, NaN or infinite.
    """
    matrix = checked_rows(codes, "query codes")
    return (row_of(matrix, row) for row in range(matrix.shape[0]))


def write_lines(path: str | Path, lines: Iterable[Any]) -> int:
    """Write JSON values, or strings as they are, one a line, completely or not at all.

    Returns:
        The number of lines.

    Raises:
        OSError: If the file cannot be written.
    """
    count = 0
    with atomic_path(Path(path)) as part, part.open("wb") as file:
        for line in lines:
            text = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            file.write(f"{text}\n".encode())
            count += 1
    return count
