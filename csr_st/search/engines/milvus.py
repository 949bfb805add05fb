"""Codes in Milvus: an embedded file, or the same calls against a server or a cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require

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
        BlockingIOError: If another process has the file open.
        ValueError: If the file cannot be opened, the server is too old or the collection has other
            columns.
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
        with _logged_errors() as logged:
            try:
                self._client = self._pymilvus.MilvusClient(uri=uri, token=token, timeout=timeout)
            except self._pymilvus.MilvusException as error:
                if "://" in uri:
                    raise self._unreachable(uri, error) from error
                raise _not_opened(uri, error, logged) from error
        with self._closed_on_error():
            self._check_server(uri)
            if self._client.has_collection(collection):
                fields = self._client.describe_collection(collection)["fields"]
                self._check_collection(collection, [field["name"] for field in fields], "code_")
            else:
                self._create()
            if not self._client.list_indexes(collection):
                # Not in _create: the process may have been killed between the two calls.
                self._create_index()
            self._client.load_collection(collection)

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
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field(self._code, types.SPARSE_FLOAT_VECTOR)
        schema.add_field("payload", types.JSON)
        self._client.create_collection(self._name, schema=schema, consistency_level="Strong")

    def _create_index(self) -> None:
        index = self._client.prepare_index_params()
        index.add_index(self._code, index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
        self._client.create_index(self._name, index)

    def __len__(self) -> int:
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _fetch(self, ids: list[int], field: Field) -> dict[int, Any]:
        name = self._code if field == "code" else field
        rows = self._client.get(self._name, ids=ids, output_fields=list({"id", name}))
        return {row["id"]: row[name] for row in rows}

    def _write(self, documents: list[Document]) -> None:
        rows = [
            {"id": document.id, self._code: document.code, "payload": document.payload}
            for document in documents
        ]
        self._client.upsert(self._name, data=rows)

    def _finish_load(self) -> None:
        self._client.flush(self._name)

    def _search(self, queries: list[Code], top_k: int) -> Iterator[list[Hit]]:
        found = self._client.search(
            self._name,
            data=queries,
            anns_field=self._code,
            limit=top_k,
            search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
        )
        for hits in found:
            yield [Hit(float(hit["distance"]), int(hit["id"])) for hit in hits]


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """Collect what Milvus Lite only logs, with a traceback: why it did not start."""
    errors: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                errors.append(str(record.exc_info[1]))

    logger, handler = logging.getLogger("milvus_lite"), Collect(logging.ERROR)
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield errors
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def _not_opened(path: str, error: Exception, logged: list[str]) -> Exception:
    if any("lock" in text for text in logged):
        return BlockingIOError(
            f"{path} is in use by another process, and Milvus Lite takes one at a time: close the "
            "engine there, or run a Milvus server and pass its address"
        )
    why = logged[0] if logged else error
    return ValueError(
        f"Milvus Lite cannot open {path!r}: {why}; pass a .db file in a folder that exists, that "
        "Milvus Lite wrote and no other process has open, or a server's address"
    )
