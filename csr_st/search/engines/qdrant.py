"""Codes in Qdrant: the client's local mode in a folder, or a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require

_MIN_VERSION = (1, 10)  # the first with query_points


class QdrantEngine(Engine):
    """A Qdrant collection: one sparse vector per point, named for hidden_dim, and a payload.

    Local mode compares with every point in the client's process: for experiments and tests. The
    client stores its points there as pickles, so open only folders that you wrote.

    Args:
        location: A folder for local mode, or a server's address (http://...).
        hidden_dim: Number of latents.
        collection: Name; created if missing.
        api_key: Of the server.
        timeout: Seconds to wait for the server.

    Raises:
        ImportError: If qdrant-client is not installed.
        ConnectionError: If the server cannot be reached.
        BlockingIOError: If the folder is open elsewhere, in this process or another one.
        ValueError: If the location is a file, the server is too old or the collection has other
            vectors.
    """

    def __init__(
        self,
        location: str,
        hidden_dim: int,
        collection: str = "csr_st",
        api_key: str | None = None,
        timeout: int = 30,
    ) -> None:
        qdrant = require("qdrant_client", "qdrant")
        self._models = qdrant.models
        self.hidden_dim = hidden_dim
        self._name = collection
        self._vector = f"csr-st-{hidden_dim}"
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
                self._check_collection(collection, list(vectors or {}), "csr-st-")
            else:
                self._create()

    def _check_server(self, location: str) -> None:
        errors = require("qdrant_client.http.exceptions", "qdrant")
        self._lost = (errors.ResponseHandlingException,)
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

    def _create(self) -> None:
        vectors = {self._vector: self._models.SparseVectorParams()}
        self._client.create_collection(self._name, vectors_config={}, sparse_vectors_config=vectors)

    def __len__(self) -> int:
        return int(self._client.count(self._name, exact=True).count)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _fetch(self, ids: list[int], field: Field) -> dict[int, Any]:
        points = self._client.retrieve(
            self._name, ids, with_payload=field == "payload", with_vectors=field == "code"
        )
        if field != "code":
            return {point.id: getattr(point, field) for point in points}
        vectors = {point.id: point.vector[self._vector] for point in points}
        return {key: dict(zip(v.indices, v.values, strict=True)) for key, v in vectors.items()}

    def _write(self, documents: list[Document]) -> None:
        points = [
            self._models.PointStruct(
                id=document.id,
                vector={self._vector: self._sparse_vector(document.code)},
                payload=document.payload,
            )
            for document in documents
        ]
        self._client.upsert(self._name, points, wait=True)

    def _search(self, queries: list[Code], top_k: int) -> Iterator[list[Hit]]:
        requests = [
            self._models.QueryRequest(
                query=self._sparse_vector(code), using=self._vector, limit=top_k
            )
            for code in queries
        ]
        for response in self._client.query_batch_points(self._name, requests):
            yield [Hit(float(point.score), int(point.id)) for point in response.points]

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
