"""What every engine shares: the three calls, checks, and a load that can be killed and run again.

An engine keeps codes in a database one already runs. `SparseIndex` needs none and is faster on one
machine; an engine is for what it adds: servers, replicas, filters on payloads, SQL.
"""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from typing_extensions import Self

from csr_st.codes import SparseCodes
from csr_st.search.documents import checked_unit_codes
from csr_st.search.ids import Ids, as_id_array
from csr_st.search.results import SearchResults

Payload = Mapping[str, Any]
_SAME_CODE = 0.9  # cosine; the same text encoded again elsewhere may differ in its last latents


class Engine(ABC):
    """A store of sparse codes: `add`, `search`, `close`.

    Ids are integers, at least 0. Documents without any active latent are kept where the engine can
    store them and skipped where it cannot (the class says which).

    Attributes:
        hidden_dim: Number of latents of the head whose codes are stored.
    """

    hidden_dim: int
    max_k: int = 16_000
    _stores_empty = True
    _lost: tuple[type[Exception], ...] = ()  # what the client raises when its server is gone

    def add(
        self,
        codes: SparseCodes,
        ids: Ids | None = None,
        payloads: Sequence[Payload] | None = None,
        batch_size: int = 1000,
        progress: bool = True,
    ) -> int:
        """Load documents in batches; those whose id is stored already are left as they are.

        So a load that was killed is finished by running it again: each document is written whole or
        not at all, and none is stored twice. A second set of documents needs ids of its own.

        Args:
            codes: Documents.
            ids: One integer a document. If None 0..n-1, of which those that are stored must be
                stored with these codes.
            payloads: One mapping of JSON values a document, kept and returned by `payloads`.
            batch_size: Documents a write.
            progress: Show a progress bar.

        Returns:
            Number of documents written, without those that were there.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If sizes differ, ids repeat, or values are NaN, or if there are no ids and
                other documents are stored as 0..n-1.
            ConnectionError: If the server is lost on the way.
        """
        unit = self._checked(codes, "codes")
        array = np.arange(len(unit)) if ids is None else as_id_array(ids)
        _check_ids(array, len(unit))
        if payloads is not None and len(payloads) != len(unit):
            raise ValueError(f"there are {len(payloads)} payloads for {len(unit)} documents")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        written = 0
        starts = range(0, len(unit), batch_size)
        for start in tqdm(starts, desc=f"loading {type(self).__name__}", disable=not progress):
            rows = np.arange(start, min(start + batch_size, len(unit)))
            if not self._stores_empty:
                rows = rows[unit.values[rows, 0] > 0]
            try:
                if ids is None:
                    self._check_same(unit, rows.tolist())
                written += self._add_batch(unit, array, rows, payloads)
            except self._lost as error:
                raise ConnectionError(
                    f"the server was lost after {written} documents were written: {error}; run "
                    "the same add again once it answers, it writes what is missing"
                ) from error
        self._finish_load()
        return written

    def _add_batch(
        self,
        unit: SparseCodes,
        ids: NDArray[Any],
        rows: NDArray[Any],
        payloads: Sequence[Payload] | None,
    ) -> int:
        """Write those of the rows whose id is not stored; gives their number."""
        stored = self._stored(ids[rows].tolist())
        documents = [
            (int(ids[row]), *sparse_row(unit, row), dict(payloads[row]) if payloads else {})
            for row in rows.tolist()
            if int(ids[row]) not in stored
        ]
        if documents:
            self._write(documents)
        return len(documents)

    def _check_same(self, unit: SparseCodes, rows: list[int]) -> None:
        """Refuse to take rows for the documents stored under their numbers if they are others."""
        for row, stored in self._codes(rows).items():
            latents, values = sparse_row(unit, row)
            cosine = sum(
                stored.get(at, 0.0) * value for at, value in zip(latents, values, strict=True)
            )
            if cosine < _SAME_CODE and (latents or stored):
                raise ValueError(
                    f"another document is stored as {row}, the number of this one for want of ids; "
                    "pass ids that are not stored"
                )

    def search(self, query_codes: SparseCodes, top_k: int = 10) -> SearchResults:
        """The best documents of each query, by dot product of codes at unit norm.

        Args:
            query_codes: Queries.
            top_k: Documents a query. Rows are padded where fewer share a latent with the query.

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
            # Engines break ties as they like; here lower ids come first, as in SparseIndex.
            for rank, (score, document) in enumerate(sorted(found, key=lambda h: (-h[0], h[1]))):
                ids[row, rank], scores[row, rank] = document, score
        return SearchResults(ids, scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _checked(self, codes: SparseCodes, what: str) -> SparseCodes:
        unit = checked_unit_codes(codes, what)
        if unit.hidden_dim != self.hidden_dim:
            raise ValueError(
                f"the {what} have hidden_dim={unit.hidden_dim}, this store {self.hidden_dim}; "
                "encode with the same head, or open another store"
            )
        if unit.k > self.max_k:
            raise ValueError(f"the {what} have k={unit.k}; {type(self).__name__} stores at most "
                             f"{self.max_k} latents: pass codes.prefix({self.max_k})")  # fmt: skip
        return unit

    def _finish_load(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Make what was written searchable."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """The payload of each id.

        Raises:
            KeyError: If an id is not stored.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back; what is stored stays."""

    @abstractmethod
    def _stored(self, ids: list[int]) -> set[int]:
        """Which of the ids are stored."""

    @abstractmethod
    def _codes(self, ids: list[int]) -> dict[int, dict[int, float]]:
        """Latents and their values of each id that is stored."""

    @abstractmethod
    def _write(self, documents: list[tuple[int, list[int], list[float], dict[str, Any]]]) -> None:
        """Store (id, latents, values, payload) of new documents, each whole or not at all."""

    @abstractmethod
    def _search(
        self, queries: list[tuple[list[int], list[float]]], top_k: int
    ) -> Iterator[list[tuple[float, int]]]:
        """(score, id) of the best documents of each query."""


def sparse_row(codes: SparseCodes, row: int) -> tuple[list[int], list[float]]:
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
        version: What it says of itself, such as "v2.4.1".
        least: Major and minor number of the first version that will do.
        fix: What to do about it.

    Raises:
        ValueError: If the version is older, or is none.
    """
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < least:
        raise ValueError(
            f"{what} is version {version}; csr-st needs {least[0]}.{least[1]} or newer: {fix}"
        )


def ordered_payloads(ids: Ids, found: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Payloads in the order of the ids.

    Raises:
        KeyError: If one is missing.
    """
    wanted = as_id_array(ids).tolist()
    missing = [document for document in wanted if document not in found]
    if missing:
        raise KeyError(f"id {missing[0]} is not stored")
    return [dict(found[document]) for document in wanted]


def _check_ids(ids: NDArray[Any], n: int) -> None:
    if ids.dtype == object:
        raise TypeError("engines take integer ids; keep strings in the payload")
    if len(ids) != n:
        raise ValueError(f"there are {len(ids)} ids for {n} documents; pass one id a document")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        raise ValueError(f"id {unique[counts > 1][0]} is given twice; ids must differ")
    if n and unique[0] < 0:
        raise ValueError(f"id {unique[0]} is negative; ids must be at least 0")
