"""The contract of every engine: codes in a database that is already in use.

`SparseIndex` needs no database and is faster on one machine. An engine is for what a database
adds: servers, replicas, SQL. To add one, write ``engines/NAME.py`` with a subclass of `Engine`:

- its constructor connects, creates or checks the collection, and sets ``hidden_dim``;
- ``__len__``, ``close``, ``_stored``, ``_codes``, ``_payloads``, ``_write`` and ``_search`` are
  required; ``_finish_load``, ``max_k``, ``_stores_empty`` and ``_lost`` where they differ.

`Engine` provides the checks, batches that can be interrupted and run again, the order of ties and
``payloads``. Add the client as an extra in pyproject.toml and the class to ``KINDS`` in
tests/search/test_engines.py: all tests of the contract then run on it.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from typing_extensions import Self

from csr_st.codes import SparseCodes
from csr_st.search.documents import checked_unit_codes
from csr_st.search.ids import Ids, as_id_array, check_new_ids
from csr_st.search.results import SearchResults

Payload: TypeAlias = Mapping[str, Any]
Row: TypeAlias = tuple[list[int], list[float]]  # latents, rising, and their values
Document: TypeAlias = tuple[int, list[int], list[float], dict[str, Any]]  # id, row, payload
Hits: TypeAlias = list[tuple[float, int]]  # scores and ids

QUERIES_PER_REQUEST = 100
_SAME_CODE = 0.9  # cosine; the same text encoded elsewhere may differ in its smallest latents


class Engine(ABC):
    """Sparse codes in a database: `add`, `search`, `payloads`, `close`.

    Ids are integers, at least 0. Documents without an active latent are stored where the database
    can store them and skipped where it cannot; the class says which.

    Attributes:
        hidden_dim: Number of latents of the head whose codes are stored.
        max_k: Most active latents that the database stores per document.
    """

    hidden_dim: int
    max_k: int = 16_000
    _stores_empty = True
    _lost: tuple[type[Exception], ...] = ()  # what the client raises when the connection is lost

    def add(
        self,
        codes: SparseCodes,
        ids: Ids | None = None,
        payloads: Sequence[Payload] | None = None,
        batch_size: int = 1000,
        progress: bool = True,
    ) -> int:
        """Write documents in batches; ids that are stored already are not written again.

        To finish a load that was killed, run it again: each document is written completely or not
        at all, and none is stored twice. A second set of documents needs its own ids.

        Args:
            codes: Documents.
            ids: One integer per document. If None, 0..n-1; documents that are stored under these
                ids must then have these codes.
            payloads: One mapping of JSON values per document, returned by `payloads`.
            batch_size: Documents per write.
            progress: Show a progress bar.

        Returns:
            Number of documents written in this call.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If sizes differ, ids repeat, or values are NaN, or if there are no ids and
                other documents are stored as 0..n-1.
            ConnectionError: If the connection to the server is lost.
        """
        unit = self._checked(codes, "codes")
        array = np.arange(len(unit)) if ids is None else as_id_array(ids)
        if array.dtype == object:
            raise TypeError("engines take integer ids; keep strings in the payload")
        check_new_ids(array, len(unit))
        if payloads is not None and len(payloads) != len(unit):
            raise ValueError(f"there are {len(payloads)} payloads for {len(unit)} documents")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        given: Sequence[Payload] = payloads or [{}] * len(unit)
        written = 0
        starts = range(0, len(unit), batch_size)
        for start in tqdm(starts, desc=f"loading {type(self).__name__}", disable=not progress):
            rows = np.arange(start, min(start + batch_size, len(unit)))
            if not self._stores_empty:
                rows = rows[unit.values[rows, 0] > 0]
            try:
                if ids is None:
                    self._check_same(unit, rows.tolist())
                stored = self._stored(array[rows].tolist()) if len(rows) else set()
                documents = [
                    (int(array[row]), *sparse_row(unit, row), dict(given[row]))
                    for row in rows.tolist()
                    if int(array[row]) not in stored
                ]
                if documents:
                    self._write(documents)
                written += len(documents)
            except self._lost as error:
                raise ConnectionError(
                    f"the connection was lost after {written} documents were written: {error}; "
                    "run the same add again once the server answers, it writes what is missing"
                ) from error
        self._finish_load()
        return written

    def _check_same(self, unit: SparseCodes, rows: list[int]) -> None:
        """Check that documents stored under row numbers have the codes of these rows."""
        for row, stored in (self._codes(rows) if rows else {}).items():
            latents, values = sparse_row(unit, row)
            cosine = sum(
                stored.get(at, 0.0) * value for at, value in zip(latents, values, strict=True)
            )
            if cosine < _SAME_CODE and (latents or stored):
                raise ValueError(
                    f"another document is stored under id {row}, the number of this row; pass ids "
                    "that are not stored"
                )

    def search(self, query_codes: SparseCodes, top_k: int = 10) -> SearchResults:
        """The best documents of each query, by dot product of codes at unit norm.

        Args:
            query_codes: Queries.
            top_k: Documents per query. Rows are padded where fewer share a latent with the query.

        Raises:
            TypeError: If the queries are not SparseCodes.
            ValueError: If hidden_dim differs, or top_k is not within 1..the number of documents.
        """
        unit = self._checked(query_codes, "query codes")
        stored = len(self)
        if not 1 <= top_k <= stored:
            raise ValueError(f"top_k={top_k} is not within 1..{stored}, the documents stored")
        ids = np.full((len(unit), top_k), -1, np.int64)
        scores = np.full((len(unit), top_k), -np.inf, np.float32)
        active = [row for row in range(len(unit)) if unit.values[row, 0] > 0]
        hits = self._search([sparse_row(unit, row) for row in active], top_k)
        for row, found in zip(active, hits, strict=True):
            # Databases order ties differently; here lower ids come first, as in SparseIndex.
            for rank, (score, document) in enumerate(sorted(found, key=lambda h: (-h[0], h[1]))):
                ids[row, rank], scores[row, rank] = document, score
        return SearchResults(ids, scores)

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """The payload of each id, in the order of the ids.

        Raises:
            KeyError: If an id is not stored.
        """
        wanted = as_id_array(ids).tolist()
        found = self._payloads(wanted) if wanted else {}
        missing = [document for document in wanted if document not in found]
        if missing:
            raise KeyError(f"id {missing[0]} is not stored")
        return [dict(found[document]) for document in wanted]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(self, codes: SparseCodes, what: str) -> SparseCodes:
        unit = checked_unit_codes(codes, what)
        if unit.hidden_dim != self.hidden_dim:
            raise ValueError(
                f"the {what} have hidden_dim={unit.hidden_dim}, this engine {self.hidden_dim}; "
                "encode with the same head, or open another collection"
            )
        if unit.k > self.max_k:
            raise ValueError(f"the {what} have k={unit.k}; {type(self).__name__} stores at most "
                             f"{self.max_k} latents: pass codes.prefix({self.max_k})")  # fmt: skip
        return unit

    def _finish_load(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Make what was written searchable."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of documents stored."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; what is stored stays."""

    @abstractmethod
    def _stored(self, ids: list[int]) -> set[int]:
        """Those of the ids, at least one, that are stored."""

    @abstractmethod
    def _codes(self, ids: list[int]) -> Mapping[int, Mapping[int, float]]:
        """By stored id, the value of each active latent."""

    @abstractmethod
    def _payloads(self, ids: list[int]) -> Mapping[int, Payload]:
        """By stored id, the payload."""

    @abstractmethod
    def _write(self, documents: list[Document]) -> None:
        """Store new documents, each completely or not at all."""

    @abstractmethod
    def _search(self, queries: list[Row], top_k: int) -> Iterator[Hits]:
        """The best documents of each query."""


def sparse_row(codes: SparseCodes, row: int) -> Row:
    """Active latents of an item in rising order, and their values."""
    count = int((codes.values[row] > 0).sum())
    order = np.argsort(codes.indices[row, :count])
    latents: NDArray[Any] = codes.indices[row, :count][order]
    return latents.tolist(), codes.values[row, :count][order].tolist()


def require(module: str, extra: str) -> ModuleType:
    """Import an engine's client.

    Raises:
        ImportError: If it is not installed, naming the extra that has it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} is missing: pip install "csr-st[{extra}]"') from error


def check_version(what: str, version: str, least: tuple[int, int], fix: str) -> None:
    """Refuse a server that is too old.

    Args:
        what: The server, for the message.
        version: As the server reports it, such as "v2.4.1".
        least: Major and minor number of the oldest supported version.
        fix: What the user can do.

    Raises:
        ValueError: If the version is older, or not a version.
    """
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < least:
        raise ValueError(
            f"{what} is version {version}; csr-st needs {least[0]}.{least[1]} or newer: {fix}"
        )


def check_collection(name: str, columns: Iterable[str], own: str) -> None:
    """Refuse a collection that has codes of another width, or none.

    Args:
        name: The collection.
        columns: Names of its vector columns.
        own: The column for this hidden_dim, which ends in that number.

    Raises:
        ValueError: If ``own`` is not among the columns.
    """
    prefix = own.rstrip("0123456789")
    if own in (columns := list(columns)):
        return
    widths = [column.removeprefix(prefix) for column in columns if column.startswith(prefix)]
    what = f"has hidden_dim={widths[0]}, not {own[len(prefix) :]}" if widths else "has no codes"
    raise ValueError(f"collection {name!r} {what}; choose another name")
