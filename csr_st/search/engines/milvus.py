"""Codes in Milvus: an embedded file, or the same calls against a server or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from csr_st.search.engines.base import (
    QUERIES_PER_REQUEST,
    Document,
    Engine,
    Hits,
    Row,
    check_collection,
    check_version,
    require,
)

_MIN_VERSION = (2, 4)  # the first with sparse vectors


class MilvusEngine(Engine):
    """A Milvus collection: id, code (a sparse vector named for hidden_dim) and payload (JSON).

    Documents without an active latent are skipped: Milvus stores no empty vector.

    Args:
        uri: Path of a Milvus Lite file (ending in .db), or a server's address.
        hidden_dim: Number of latents.
        collection: Name; created if missing.
        token: Of the server.
        timeout: Seconds to wait for the server.

    Raises:
        ImportError: If pymilvus is not installed.
        ConnectionError: If the server cannot be reached.
        ValueError: If the server is too old or the collection has other columns.
    """

    _stores_empty = False

    def __init__(
        self,
        uri: str,
        hidden_dim: int,
        collection: str = "csr_st",
        token: str = "",
        timeout: float = 30.0,
    ) -> None:
        self._pymilvus = require("pymilvus", "milvus")
        if "://" not in uri:
            require("milvus_lite", "milvus")
        self.hidden_dim = hidden_dim
        self._name = collection
        self._code = f"code_{hidden_dim}"
        try:
            self._client = self._pymilvus.MilvusClient(uri=uri, token=token, timeout=timeout)
        except self._pymilvus.MilvusException as error:
            raise self._unreachable(uri, error) from error
        try:
            self._check_server(uri)
            if self._client.has_collection(collection):
                fields = self._client.describe_collection(collection)["fields"]
                check_collection(collection, [field["name"] for field in fields], self._code)
            else:
                self._create()
            if not self._client.list_indexes(collection):
                # Not in _create: the process may have been killed between the two calls.
                self._create_index()
            self._client.load_collection(collection)
        except BaseException:
            self._client.close()
            raise

    def _unreachable(self, uri: str, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"no Milvus answers at {uri}: {error}; start one there, or pass the path of a .db file"
        )

    def _check_server(self, uri: str) -> None:
        try:
            version = str(self._client.get_server_version())
        except self._pymilvus.MilvusException as error:
            raise self._unreachable(uri, error) from error
        if "://" in uri:  # Milvus Lite has other version numbers
            check_version(f"the Milvus at {uri}", version, _MIN_VERSION, "upgrade the server")

    def _create(self) -> None:
        kinds = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field(self._code, kinds.SPARSE_FLOAT_VECTOR)
        schema.add_field("payload", kinds.JSON)
        self._client.create_collection(self._name, schema=schema, consistency_level="Strong")

    def _create_index(self) -> None:
        index = self._client.prepare_index_params()
        index.add_index(self._code, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_index(self._name, index)

    def __len__(self) -> int:
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def _stored(self, ids: list[int]) -> set[int]:
        return {row["id"] for row in self._get(ids)}

    def _codes(self, ids: list[int]) -> dict[int, dict[int, float]]:
        return {row["id"]: row[self._code] for row in self._get(ids, self._code)}

    def _payloads(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        return {row["id"]: row["payload"] for row in self._get(ids, "payload")}

    def _get(self, ids: list[int], *fields: str) -> Any:
        return self._client.get(self._name, ids=ids, output_fields=["id", *fields])

    def _write(self, documents: list[Document]) -> None:
        rows = [
            {
                "id": document,
                self._code: dict(zip(latents, values, strict=True)),
                "payload": payload,
            }
            for document, latents, values, payload in documents
        ]
        self._client.upsert(self._name, data=rows)

    def _finish_load(self) -> None:
        self._client.flush(self._name)

    def _search(self, queries: list[Row], top_k: int) -> Iterator[Hits]:
        for start in range(0, len(queries), QUERIES_PER_REQUEST):
            rows = queries[start : start + QUERIES_PER_REQUEST]
            found = self._client.search(
                self._name,
                data=[dict(zip(*row, strict=True)) for row in rows],
                anns_field=self._code,
                limit=top_k,
                search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
            )
            for hits in found:
                yield [(float(hit["distance"]), int(hit["id"])) for hit in hits]

    def close(self) -> None:
        """Close the client."""
        self._client.close()
