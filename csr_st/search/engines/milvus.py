"""Codes in Milvus: an embedded file, or the same calls against a server or a cluster."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, get_args

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, check_version, require
from csr_st.search.engines.keys import MAX_BYTES, IdType, Key, check_id_type, wrong_id_type
from csr_st.search.numbers import whole

Algorithm: TypeAlias = Literal[
    "DAAT_MAXSCORE", "DAAT_WAND", "TAAT_NAIVE", "BLOCK_MAX_MAXSCORE", "BLOCK_MAX_WAND", "SINDI"
]

_MIN_VERSION = (2, 4)  # the first with sparse vectors
_NAMED_SINCE = (2, 5)  # the first whose index has inverted_index_algo
_CONNECT_FAILED = 2  # code of the client's errors
_MAX_TOP_K = 16_384  # of a server, as is
_MAX_PAYLOAD = 65_536  # bytes of a JSON field
_NEWER: dict[str, tuple[int, int]] = dict.fromkeys(
    ("BLOCK_MAX_MAXSCORE", "BLOCK_MAX_WAND", "SINDI"), (3, 0)
)


class MilvusEngine(Engine):
    """A Milvus collection: id, code (a sparse vector named for hidden_dim) and payload (JSON).

    Documents without an active latent are skipped: Milvus stores no empty vector. A server returns
    at most 16,384 documents per query, and takes payloads of up to 65,536 bytes.

    Args:
        uri: Path of a Milvus Lite file (ending in .db), or a server's address.
        hidden_dim: Number of latents.
        collection: Name; created if missing.
        token: Token of the server.
        timeout: Seconds to wait for the server.
        id_type: "int" or "str".
        algorithm: How the index of the collection is built and searched, ``inverted_index_algo`` of
            Milvus; what the server takes by default if None: SINDI since 3.0, before DAAT_MAXSCORE.
            SINDI and the block-max ones need a server of version 3.0, Milvus Lite has only
            TAAT_NAIVE. All of them are exact while ``drop_ratio`` is 0.
        drop_ratio: Share of a query's smallest values that a search leaves out, 0..1: above 0 it is
            faster and no longer exact (``drop_ratio_search`` of Milvus).

    Raises:
        ImportError: If pymilvus is not installed.
        ConnectionError: If the server cannot be reached.
        BlockingIOError: If another process has the file open.
        TypeError: If hidden_dim is not an integer, or ``drop_ratio`` not a number.
        ValueError: If a number is out of bounds, the file cannot be opened, the server is too old,
            it does not know the algorithm or the ratio, or the collection has other columns, ids of
            the other kind or an index of another algorithm.
    """

    _stores_empty = False

    def __init__(
        self,
        uri: str,
        hidden_dim: int,
        collection: str = "csr_st",
        token: str = "",
        timeout: float = 30.0,
        *,
        id_type: IdType = "int",
        algorithm: Algorithm | None = None,
        drop_ratio: float = 0.0,
    ) -> None:
        self._algorithm = _check_algorithm(algorithm, server="://" in uri)
        self._drop_ratio = _check_drop_ratio(drop_ratio, server="://" in uri)
        self._pymilvus = require("pymilvus", "milvus")
        if "://" not in uri:
            require("milvus_lite", "milvus")
        else:
            self.max_top_k, self.max_payload = _MAX_TOP_K, _MAX_PAYLOAD
        self.hidden_dim = whole("hidden_dim", hidden_dim)
        self.id_type = check_id_type(id_type)
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
                self._check_fields()
            else:
                self._create()
            if indexes := self._client.list_indexes(collection):
                self._check_index(indexes[0])
            else:
                # Not in _create: the process may have been killed between the two calls.
                self._create_index()
            self._client.load_collection(collection)

    def _unreachable(self, uri: str, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"no Milvus answers at {uri}: {error}; start one there, or pass the path of a .db file"
        )

    def _is_lost(self, error: Exception) -> bool:
        if not isinstance(error, self._pymilvus.MilvusException):
            return False
        # The code is the client's own, or a status of gRPC.
        return error.code == _CONNECT_FAILED or getattr(error.code, "name", "") == "UNAVAILABLE"

    def _check_server(self, uri: str) -> None:
        try:
            version = str(self._client.get_server_version())
        except self._pymilvus.MilvusException as error:
            raise self._unreachable(uri, error) from error
        if "://" in uri:  # Milvus Lite has other version numbers
            least, fix = _MIN_VERSION, "upgrade the server"
            if self._algorithm is not None:
                least = _NEWER.get(self._algorithm, _NAMED_SINCE)
                fix += f", or leave out algorithm={self._algorithm!r}"
            check_version(f"the Milvus at {uri}", version, least, fix)

    def _check_fields(self) -> None:
        fields = self._client.describe_collection(self._name)["fields"]
        self._check_collection(self._name, [field["name"] for field in fields], "code_")
        types = {field["name"]: field["type"] for field in fields}
        stored: IdType = "str" if types["id"] == self._pymilvus.DataType.VARCHAR else "int"
        if stored != self.id_type:
            raise wrong_id_type(self._name, stored)

    def _check_index(self, index: str) -> None:
        about = self._client.describe_index(self._name, index)
        # Servers differ in whether they return the parameters of an index in one value.
        stored = {**about, **(about.get("params") or {})}.get("inverted_index_algo")
        if self._algorithm not in (None, stored):
            has = "no algorithm by name" if stored is None else f"the algorithm {stored}"
            raise ValueError(
                f"the index of collection {self._name!r} has {has}, not {self._algorithm}; release "
                "the collection and drop its index to have a new one made, or leave out algorithm"
            )

    def _create(self) -> None:
        types = self._pymilvus.DataType
        schema = self._client.create_schema(auto_id=False)
        if self.id_type == "str":
            schema.add_field("id", types.VARCHAR, is_primary=True, max_length=MAX_BYTES)
        else:
            schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field(self._code, types.SPARSE_FLOAT_VECTOR)
        schema.add_field("payload", types.JSON)
        self._client.create_collection(self._name, schema=schema, consistency_level="Strong")

    def _create_index(self) -> None:
        index = self._client.prepare_index_params()
        chosen = {} if self._algorithm is None else {"inverted_index_algo": self._algorithm}
        kind = "SPARSE_INVERTED_INDEX"
        index.add_index(self._code, index_type=kind, metric_type="IP", params=chosen)
        try:
            self._client.create_index(self._name, index)
        except self._pymilvus.MilvusException as error:
            if self._algorithm is None:
                raise
            raise ValueError(
                f"this Milvus makes no index with algorithm={self._algorithm!r}: {error.message}; "
                "leave it out for the one that the server takes by default"
            ) from error

    def _count(self) -> int:
        rows = self._client.query(self._name, filter="", output_fields=["count(*)"])
        return int(rows[0]["count(*)"])

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        name = self._code if field == "code" else field
        fields = list({"id", name})
        rows = self._client.query(self._name, filter=_among(ids), output_fields=fields)
        return {row["id"]: row[name] for row in rows}

    def _write(self, documents: list[Document]) -> None:
        rows = [
            {"id": document.id, self._code: document.code, "payload": document.payload}
            for document in documents
        ]
        self._client.upsert(self._name, data=rows)

    def _finish_load(self) -> None:
        self._client.flush(self._name)

    def _delete(self, ids: list[Key]) -> None:
        self._client.delete(self._name, filter=_among(ids))

    def _search(
        self, queries: list[Code], top_k: int, allowed: list[Key] | None
    ) -> Iterator[list[Hit]]:
        params = {"drop_ratio_search": self._drop_ratio}
        found = self._client.search(
            self._name,
            data=queries,
            anns_field=self._code,
            limit=top_k,
            filter="" if allowed is None else _among(allowed),
            search_params={"metric_type": "IP", "params": params},
        )
        for hits in found:
            yield [Hit(float(hit["distance"]), hit["id"]) for hit in hits]


def _among(ids: list[Key]) -> str:
    """Ids as a condition; its literals have the escapes of JSON, which the client does not write.

    Milvus Lite does not know templates of filters.
    """
    return f"id in {json.dumps(ids, ensure_ascii=False)}"


def _check_algorithm(algorithm: Any, server: bool) -> Algorithm | None:
    """The algorithm to ask for, None for the only one or the one by default."""
    if algorithm is not None and algorithm not in get_args(Algorithm):
        raise ValueError(
            f"algorithm={algorithm!r} is unknown; pass one of {', '.join(get_args(Algorithm))}"
        )
    if not server and algorithm not in (None, "TAAT_NAIVE"):
        raise ValueError(
            f"algorithm={algorithm!r}: Milvus Lite has only TAAT_NAIVE; pass the address of a "
            "server, or leave it out"
        )
    chosen: Algorithm | None = algorithm if server else None
    return chosen


def _check_drop_ratio(ratio: float, server: bool) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise TypeError(f"drop_ratio={ratio!r} is a {type(ratio).__name__}; pass a number, 0..1")
    if not 0 <= ratio < 1:
        raise ValueError(f"drop_ratio={ratio} is not within 0..1, below 1; 0 is exact")
    if ratio and not server:
        raise ValueError(
            f"drop_ratio={ratio}: Milvus Lite searches exactly, with drop_ratio=0 only; pass the "
            "address of a server, or leave it out"
        )
    return float(ratio)


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
