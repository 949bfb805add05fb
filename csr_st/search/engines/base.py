"""The contract of an engine: a database that stores sparse vectors and searches them.

`SparseIndex` needs no database and is faster on one machine. An engine is for what a database
adds: servers, replicas, SQL. It stores codes, or any sparse vectors: those of `HybridVectors` are
codes and words. To add one, write ``engines/NAME.py`` with a subclass of `Engine`:

- ``__init__`` imports the client (`require`), connects, creates or checks the collection and sets
  ``hidden_dim``;
- ``close``, ``_count``, ``_fetch``, ``_write``, ``_delete`` and ``_search`` are required;
  ``_finish_load``, ``_is_lost``, ``_stores_empty`` and the limits where they differ.

`Engine` provides `add` (checks, batches, a killed load is finished by running it again), `remove`,
`search` (checks, order of ties), `payloads` and ``len``: as a `csr_st.search.store.Store`, it can
take the place of `SparseIndex`. Add the client to an extra of its own and to ``engines`` in
pyproject.toml, and the class to ``KINDS`` in tests/stores.py: the tests of the contract then run on
it, in tests/search/test_engines.py and test_stores.py.
"""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
import scipy.sparse
from tqdm.auto import tqdm
from typing_extensions import Self

from csr_st.search.engines.clients import check_version, require
from csr_st.search.engines.keys import IdType, Key, keys_of, new_keys, no_ids
from csr_st.search.engines.payloads import checked_payloads
from csr_st.search.engines.rows import (
    Document,
    Hit,
    Row,
    Vectors,
    checked_rows,
    row_of,
    same_direction,
)
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole
from csr_st.search.results import SearchResults

# What a subclass needs comes from here.
__all__ = ["Code", "Document", "Engine", "Field", "Hit", "Payload", "check_version", "require"]

Payload: TypeAlias = Mapping[str, Any]
Code: TypeAlias = Row
Field: TypeAlias = Literal["id", "code", "payload"]

_SAME_CODE = 0.9  # cosine; the same text encoded elsewhere may differ in its smallest latents
_QUERIES_PER_BATCH = 100
_IDS_PER_BATCH = 1000


class Engine(ABC):
    """Sparse codes or vectors in a database: `add`, `remove`, `search`, `payloads`, `close`.

    Ids are integers, at least 0, or with ``id_type="str"`` strings of up to 1,024 bytes in UTF-8
    without control characters: one kind for a collection. Documents without an active latent are
    stored where the database can store them and skipped where it cannot; the class says which.

    Codes and words in one search, with the scores of `SparseIndex`, through `HybridVectors`::

        vectors = HybridVectors.of(index)
        with QdrantEngine("folder", vectors.dim) as engine:
            engine.add(vectors.documents(codes, texts))
            engine.search(vectors.queries(query_codes, queries), top_k=10)

    Attributes:
        hidden_dim: Number of latents of the head whose codes are stored, or of dimensions of other
            vectors: `HybridVectors.dim`.
        id_type: Kind of the ids, "int" or "str".
        max_k: Most active latents (values above 0) that the database stores per document.
        max_top_k: Most documents that it returns per query; None without a limit.
        max_payload: Most bytes of a payload as JSON in UTF-8; None without a limit.
    """

    hidden_dim: int
    id_type: IdType = "int"
    max_k: int = 16_000
    max_top_k: int | None = None
    max_payload: int | None = None
    _stores_empty = True

    def __len__(self) -> int:
        """Number of documents stored.

        Raises:
            ConnectionError: If the connection to the server is lost.
        """
        with self._connected("nothing was counted; ask again once the server answers"):
            return self._count()

    def add(
        self,
        codes: Vectors,
        ids: Ids | None = None,
        payloads: Iterable[Payload] | None = None,
        batch_size: int = 1000,
        progress: bool = True,
    ) -> int:
        """Write documents in batches; ids that are stored already are not written again.

        To finish a load that was killed, run it again: each document is written completely or not
        at all, and none is stored twice. A second set of documents needs its own ids.

        Args:
            codes: Documents: codes, which are scaled to unit norm, or a SciPy sparse matrix with
                hidden_dim columns and no negative value, which is stored as it is.
            ids: One integer per document, or one string, see ``id_type``. If None, 0..n-1;
                documents that are stored under these ids must then have these codes.
            payloads: One mapping of JSON values per document, returned by `payloads`. All are
                checked before the first write; NumPy numbers and arrays become plain ones.
            batch_size: Documents per write.
            progress: Show a progress bar.

        Returns:
            Number of documents written in this call.

        Raises:
            TypeError: If an argument is of the wrong type, or ids are of the other kind.
            ValueError: If sizes differ, ids repeat, values or numbers in payloads are NaN, or a
                payload is larger than `max_payload`, or if there are no ids and other documents are
                stored as 0..n-1.
            ConnectionError: If the connection to the server is lost.
        """
        matrix = self._checked(codes, "codes")
        n = matrix.shape[0]
        all_keys = new_keys(ids, n, self.id_type)
        batch_size = whole("batch_size", batch_size)
        given = checked_payloads([{}] * n if payloads is None else payloads, n, self.max_payload)
        written = 0
        starts = range(0, n, batch_size)
        for start in tqdm(starts, desc=f"loading {type(self).__name__}", disable=not progress):
            rows = np.arange(start, min(start + batch_size, n))
            if not self._stores_empty:
                rows = rows[np.diff(matrix.indptr)[rows] > 0]
            keys = [all_keys[row] for row in rows.tolist()]
            again = (
                f"{written} documents were written before; run the same add again once the server "
                "answers, it writes what is missing"
            )
            with self._connected(again):
                if ids is None:
                    self._check_same(matrix, keys)
                stored = self._fetch(keys, "id") if keys else {}
                documents = [
                    Document(key, row_of(matrix, row), given[row])
                    for key, row in zip(keys, rows.tolist(), strict=True)
                    if key not in stored
                ]
                if documents:
                    self._write(documents)
                written += len(documents)
        with self._connected("all documents were written; run the same add again"):
            self._finish_load()
        return written

    def _check_same(self, matrix: scipy.sparse.csr_matrix, rows: list[Key]) -> None:
        """Check that documents stored under row numbers have the codes of these rows."""
        for row, stored in (self._fetch(rows, "code") if rows else {}).items():
            assert isinstance(row, int)
            if not same_direction(row_of(matrix, row), stored, _SAME_CODE):
                raise ValueError(
                    f"another document is stored under id {row}, the number of this row; pass ids "
                    "that are not stored"
                )

    def remove(self, ids: Ids) -> None:
        """Remove documents: none, if an id is unknown.

        Raises:
            TypeError: If ids are not ids, or of the other kind.
            ValueError: If an id is not stored.
            ConnectionError: If the connection to the server is lost; the message says which are
                removed.
        """
        keys = self._stored(ids)
        for start in range(0, len(keys), _IDS_PER_BATCH):
            again = (
                f"the first {start} documents were removed before; once the server answers, remove "
                "those after them that are still stored"
            )
            with self._connected(again):
                self._delete(keys[start : start + _IDS_PER_BATCH])
        with self._connected("all documents were removed"):
            self._finish_load()

    def _stored(self, ids: Ids) -> list[Key]:
        """Ids that must be stored, each once."""
        keys = list(dict.fromkeys(keys_of(ids, self.id_type)))
        for start in range(0, len(keys), _IDS_PER_BATCH):
            batch = keys[start : start + _IDS_PER_BATCH]
            with self._connected("nothing was done; ask again once the server answers"):
                found = self._fetch(batch, "id")
            if missing := [key for key in batch if key not in found]:
                raise ValueError(f"id {missing[0]!r} is not among the {len(self)} documents stored")
        return keys

    def search(
        self, query_codes: Vectors, top_k: int = 10, *, filter: Ids | None = None
    ) -> SearchResults:
        """The best documents of each query, by dot product, of codes at unit norm.

        Args:
            query_codes: Queries: codes, or a sparse matrix, as in `add`.
            top_k: Documents per query. Rows are padded where fewer share a latent with the query.
                Of documents with the same score as the last one, the database chooses.
            filter: Search only the documents with these ids. They are sent with each request: for
                thousands and for conditions on payloads use the database's own client.

        Raises:
            TypeError: If the queries are neither codes nor a sparse matrix, top_k is not an
                integer, or the filter has no ids, or those of the other kind.
            ValueError: If hidden_dim differs, top_k is not within 1..the number of documents or
                above `max_top_k`, or an id of the filter is not stored.
            ConnectionError: If the connection to the server is lost.
        """
        queries = self._checked(query_codes, "query codes")
        n = queries.shape[0]
        stored = len(self)
        if not stored:
            raise ValueError("no documents are stored: there is nothing to search; add some first")
        top_k = whole("top_k", top_k, stored, "the documents stored")
        if self.max_top_k is not None and top_k > self.max_top_k:
            raise ValueError(
                f"top_k={top_k} is above the {self.max_top_k} that {type(self).__name__} returns"
            )
        allowed = None if filter is None else self._stored(filter)
        ids = no_ids((n, top_k), self.id_type)
        scores = np.full((n, top_k), -np.inf, np.float32)
        active = [] if allowed == [] else np.flatnonzero(np.diff(queries.indptr)).tolist()
        for start in range(0, len(active), _QUERIES_PER_BATCH):
            rows = active[start : start + _QUERIES_PER_BATCH]
            with self._connected("nothing was found; ask again once the server answers"):
                found = list(self._search([row_of(queries, row) for row in rows], top_k, allowed))
            for row, hits in zip(rows, found, strict=True):
                sharing = [hit for hit in hits if hit.score > 0]
                # Databases order ties differently: here lower ids come first.
                for rank, hit in enumerate(sorted(sharing, key=lambda hit: (-hit.score, hit.id))):
                    ids[row, rank], scores[row, rank] = hit.id, hit.score
        return SearchResults(ids, scores)

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """The payload of each id.

        Raises:
            KeyError: If an id is not stored.
            ConnectionError: If the connection to the server is lost.
        """
        keys = keys_of(ids, self.id_type)
        with self._connected("nothing was read; ask again once the server answers"):
            found = self._fetch(keys, "payload") if keys else {}
        if missing := [key for key in keys if key not in found]:
            raise KeyError(f"id {missing[0]!r} is not stored")
        return [dict(found[key]) for key in keys]

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} holds a connection and can be neither pickled nor copied; "
            "open another one with the same arguments where it is needed"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _connected(self, state: str) -> Iterator[None]:
        """Raise a ConnectionError if the connection is lost; ``state`` says how things stand."""
        try:
            yield
        except Exception as error:
            if not self._is_lost(error):
                raise
            reason = str(error).strip()
            raise ConnectionError(f"the connection was lost ({reason}): {state}") from error

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Close the connection if the rest of ``__init__`` fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _checked(self, vectors: Vectors, what: str) -> scipy.sparse.csr_matrix:
        matrix = checked_rows(vectors, what)
        if matrix.shape[1] != self.hidden_dim:
            raise ValueError(
                f"the {what} have hidden_dim={matrix.shape[1]}, this engine {self.hidden_dim}; "
                "encode with the same head (make vectors with the same HybridVectors), or open "
                "another collection"
            )
        counts = np.diff(matrix.indptr)
        if (counts > self.max_k).any():
            row = int(np.argmax(counts))
            raise ValueError(
                f"row {row} of the {what} has {counts[row]} values above 0; {type(self).__name__} "
                f"stores at most {self.max_k}: pass codes.prefix({self.max_k}), or shorter texts"
            )
        return matrix

    def _check_collection(self, collection: str, names: Sequence[str], prefix: str) -> None:
        """Refuse a collection without the vector ``prefix`` + hidden_dim among its ``names``."""
        if f"{prefix}{self.hidden_dim}" not in names:
            matches = [re.fullmatch(rf"{prefix}(\d+)", name) for name in names]
            others = [match[1] for match in matches if match]
            what = (
                f"has hidden_dim={others[0]}, not {self.hidden_dim}" if others else "has no codes"
            )
            raise ValueError(f"collection {collection!r} {what}; choose another name")

    def _finish_load(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Make what was written searchable."""

    def _is_lost(self, error: Exception) -> bool:
        """Whether an error of the client says that the connection to the server is lost."""
        del error
        return False

    @abstractmethod
    def _count(self) -> int:
        """Number of documents stored."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; what is stored stays."""

    @abstractmethod
    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        """One field (``id``, ``code: Code``, ``payload: dict``) of each id that is stored."""

    @abstractmethod
    def _write(self, documents: list[Document]) -> None:
        """Store new documents, at least one, each completely or not at all."""

    @abstractmethod
    def _delete(self, ids: list[Key]) -> None:
        """Delete documents that are stored, at least one."""

    @abstractmethod
    def _search(
        self, queries: list[Code], top_k: int, allowed: list[Key] | None
    ) -> Iterable[list[Hit]]:
        """Up to top_k best documents of each query, by dot product, among ``allowed`` if given."""
