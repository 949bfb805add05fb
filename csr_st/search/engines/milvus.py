"""Codes in Milvus: an embedded file, or the same calls against a server or a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from csr_st.search.engines.base import Engine, check_version, ordered_payloads, require
from csr_st.search.ids import Ids, as_id_array

_MIN_VERSION = (2, 4)  # the first with sparse vectors
_CODE = re.compile(r"code_(\d+)")


class MilvusEngine(Engine):
    """A Milvus collection: id, code (a sparse vector named for hidden_dim) and payload (JSON).

    Documents without an active latent are skipped: Milvus stores no empty vector.

    Args:
        uri: Path of a Milvus Lite file (ending in .db), or a server's address.
        hidden_dim: Number of latents.
        collection: Name; made if missing.
        token: Of the server.
        timeout: Seconds to wait for the server.

    Raises:
        ImportError: If pymilvus is not installed.
        ConnectionError: If the server cannot be reached.
        ValueError: If the server is too old or the collection holds something else.
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
                self._check_collection()
            else:
                self._create()
            if not self._client.list_indexes(collection):
                # Apart from the creation, as a process may have been killed between the two.
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
        if "://" in uri:  # Milvus Lite counts its versions otherwise
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

    def _check_collection(self) -> None:
        names = [field["name"] for field in self._client.describe_collection(self._name)["fields"]]
        if self._code not in names:
            held = [match[1] for match in map(_CODE.fullmatch, names) if match]
            what = f"has hidden_dim={held[0]}, not {self.hidden_dim}" if held else "holds no codes"
            raise ValueError(f"collection {self._name!r} {what}; choose another name")

    def __len__(self) -> int:
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def _stored(self, ids: list[int]) -> set[int]:
        if not ids:
            return set()
        return {row["id"] for row in self._client.get(self._name, ids=ids, output_fields=["id"])}

    def _codes(self, ids: list[int]) -> dict[int, dict[int, float]]:
        if not ids:
            return {}
        rows = self._client.get(self._name, ids=ids, output_fields=["id", self._code])
        return {row["id"]: row[self._code] for row in rows}

    def _write(self, documents: list[tuple[int, list[int], list[float], dict[str, Any]]]) -> None:
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

    def _search(
        self, queries: list[tuple[list[int], list[float]]], top_k: int
    ) -> Iterator[list[tuple[float, int]]]:
        for start in range(0, len(queries), 100):
            found = self._client.search(
                self._name,
                data=[dict(zip(*query, strict=True)) for query in queries[start : start + 100]],
                anns_field=self._code,
                limit=top_k,
                search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
            )
            for hits in found:
                yield [(float(hit["distance"]), int(hit["id"])) for hit in hits]

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """The payload of each id.

        Raises:
            KeyError: If an id is not stored.
        """
        rows = self._client.get(
            self._name, ids=as_id_array(ids).tolist(), output_fields=["id", "payload"]
        )
        return ordered_payloads(ids, {row["id"]: row["payload"] for row in rows})

    def close(self) -> None:
        """Close the client."""
        self._client.close()
