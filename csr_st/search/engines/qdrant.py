"""Codes in Qdrant: the client's local mode in a folder, or a server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require
from csr_st.search.engines.keys import IdType, Key, check_id_type, wrong_id_type
from csr_st.search.numbers import whole

_MIN_VERSION = (1, 10)  # the first with query_points
_NAMESPACE = uuid.UUID("d0c1fb8e-5d2c-5c3e-9b0a-3f0a3c4f6f53")  # of string ids; never changes
_UNREACHABLE = (502, 503, 504)  # what a proxy answers in the place of a server
_PREFIXES: dict[IdType, str] = {"int": "csr-st-", "str": "csr-st-str-"}


class QdrantEngine(Engine):
    """A Qdrant collection: one sparse vector per point, named for hidden_dim, and a payload.

    Qdrant numbers points by integers or UUIDs. A string id is stored as a UUID made of it (version
    5), and the point has the payload ``{"id": the string, "payload": the payload}``.

    Local mode compares with every point in the client's process: for experiments and tests. The
    client stores its points there as pickles, so open only folders that you wrote.

    Args:
        location: A folder for local mode, or a server's address (http://...).
        hidden_dim: Number of latents.
        collection: Name; created if missing.
        api_key: API key of the server.
        timeout: Seconds to wait for the server.
        id_type: "int" or "str".

    Raises:
        ImportError: If qdrant-client is not installed.
        ConnectionError: If the server cannot be reached.
        BlockingIOError: If the folder is open elsewhere, in this process or another one.
        TypeError: If hidden_dim is not an integer.
        ValueError: If hidden_dim is below 1, the location is a file, the server is too old, or the
            collection has other vectors or ids of the other kind.
    """

    def __init__(
        self,
        location: str,
        hidden_dim: int,
        collection: str = "csr_st",
        api_key: str | None = None,
        timeout: int = 30,
        *,
        id_type: IdType = "int",
    ) -> None:
        qdrant = require("qdrant_client", "qdrant")
        self._models = qdrant.models
        self.hidden_dim = whole("hidden_dim", hidden_dim)
        self.id_type = check_id_type(id_type)
        self._name = collection
        self._vector = f"{_PREFIXES[id_type]}{hidden_dim}"
        if "://" in location:
            self._client = qdrant.QdrantClient(
                url=location, api_key=api_key, timeout=timeout, check_compatibility=False
            )
        else:
            self._client = _open_folder(qdrant, location)
        with self._closed_on_error():
            if "://" in location:
                self._check_server(location)
            if self._client.collection_exists(collection):
                vectors = self._client.get_collection(collection).config.params.sparse_vectors
                self._check_vectors(list(vectors or {}))
            else:
                self._create()

    def _check_server(self, location: str) -> None:
        errors = require("qdrant_client.http.exceptions", "qdrant")
        try:
            version = str(self._client.info().version)
        except (
            errors.ResponseHandlingException,
            errors.UnexpectedResponse,
            ValueError,  # another server answers, not in JSON
        ) as error:
            raise ConnectionError(
                f"no Qdrant answers at {location}: {error}; start one there, or pass a folder"
            ) from error
        check_version(f"the Qdrant at {location}", version, _MIN_VERSION, "upgrade the server")

    def _is_lost(self, error: Exception) -> bool:
        errors = require("qdrant_client.http.exceptions", "qdrant")
        if isinstance(error, errors.UnexpectedResponse):
            return error.status_code in _UNREACHABLE
        return isinstance(error, errors.ResponseHandlingException)

    def _check_vectors(self, names: list[str]) -> None:
        other: IdType = "int" if self.id_type == "str" else "str"
        if f"{_PREFIXES[other]}{self.hidden_dim}" in names and self._vector not in names:
            raise wrong_id_type(self._name, other)
        self._check_collection(self._name, names, _PREFIXES[self.id_type])

    def _create(self) -> None:
        vectors = {self._vector: self._models.SparseVectorParams()}
        self._client.create_collection(self._name, vectors_config={}, sparse_vectors_config=vectors)

    def _count(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _point(self, key: Key) -> int | str:
        """The number of a document's point."""
        return str(uuid.uuid5(_NAMESPACE, key)) if isinstance(key, str) else key

    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        keys = {self._point(key): key for key in ids}
        points = self._client.retrieve(
            self._name, list(keys), with_payload=field == "payload", with_vectors=field == "code"
        )
        return {keys[point.id]: self._value(point, field) for point in points}

    def _value(self, point: Any, field: Field) -> Any:
        if field == "code":
            vector = point.vector[self._vector]
            return dict(zip(vector.indices, vector.values, strict=True))
        if field == "payload":
            return point.payload if self.id_type == "int" else point.payload["payload"]
        return point.id

    def _write(self, documents: list[Document]) -> None:
        points = [
            self._models.PointStruct(
                id=self._point(one.id),
                vector={self._vector: self._sparse_vector(one.code)},
                payload=(
                    one.payload if self.id_type == "int" else {"id": one.id, "payload": one.payload}
                ),
            )
            for one in documents
        ]
        self._client.upsert(self._name, points, wait=True)

    def _delete(self, ids: list[Key]) -> None:
        self._client.delete(self._name, [self._point(key) for key in ids], wait=True)

    def _search(
        self, queries: list[Code], top_k: int, allowed: list[Key] | None
    ) -> Iterator[list[Hit]]:
        condition = None
        if allowed is not None:
            points = [self._point(key) for key in allowed]
            condition = self._models.Filter(must=[self._models.HasIdCondition(has_id=points)])
        requests = [
            self._models.QueryRequest(
                query=self._sparse_vector(code),
                using=self._vector,
                filter=condition,
                limit=top_k,
                with_payload=["id"] if self.id_type == "str" else False,
            )
            for code in queries
        ]
        for response in self._client.query_batch_points(self._name, requests):
            yield [
                Hit(float(one.score), one.payload["id"] if self.id_type == "str" else one.id)
                for one in response.points
            ]

    def _sparse_vector(self, code: Code) -> Any:
        return self._models.SparseVector(indices=list(code), values=list(code.values()))


def _open_folder(qdrant: Any, folder: str) -> Any:
    if Path(folder).is_file():
        raise ValueError(f"{folder} is a file; pass a folder, or a server's address")
    try:
        return qdrant.QdrantClient(path=folder)
    except RuntimeError as error:  # the client's, when its lock is taken
        raise BlockingIOError(
            f"{folder} is in use by another engine, and Qdrant's local mode takes one at a time: "
            "close it, or run a Qdrant server and pass its address"
        ) from error
