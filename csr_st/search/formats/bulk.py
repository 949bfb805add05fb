"""What Elasticsearch and OpenSearch have in common: bulk actions, and conditions on ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from csr_st.search.engines.rows import Row
from csr_st.search.formats.entries import Payload, Source, entries, tokens, write_lines
from csr_st.search.ids import Ids, as_id_array

MAX_ID_BYTES = 512  # of both
LEAST = 2.0**-126  # of the values that Lucene's FeatureField takes


def actions(
    source: Source,
    index: str,
    ids: Ids | None,
    payloads: Iterable[Payload] | None,
    field: str,
) -> Iterator[dict[str, Any]]:
    """One action a document, as the bulk helpers of both clients take them.

    A document is indexed under its id: to load again what was loaded changes nothing. Documents
    without an active latent have no field of the code.
    """
    field = checked_field(field)
    found = entries(source, ids, payloads)
    return (_action(index, field, *entry) for entry in found)


def _action(index: str, field: str, key: Any, row: Any, payload: Any) -> dict[str, Any]:
    name = str(key)
    if not name or len(name.encode()) > MAX_ID_BYTES:
        raise ValueError(
            f"id {name[:40]!r} has {len(name.encode())} bytes; the engine takes 1 to "
            f"{MAX_ID_BYTES}: keep it in the payload, and pass another id"
        )
    action: dict[str, Any] = {"_op_type": "index", "_index": index, "_id": name}
    if code := features(row):
        action[field] = code
    if payload:
        action["payload"] = payload
    return action


def checked_field(field: str) -> str:
    """The name of the field of the code, as it is.

    Raises:
        ValueError: If the documents have another use for it.
    """
    if not field or field.startswith("_") or field.split(".")[0] == "payload":
        raise ValueError(
            f"field={field!r} cannot hold the code: it must not be '' or 'payload', nor begin with "
            "'_', as the engine's own fields do; pass another name"
        )
    return field


def features(row: Row) -> dict[str, float]:
    """A row by the names of its latents, without values below 2**-126: Lucene refuses these."""
    return tokens({latent: value for latent, value in row.items() if value >= LEAST})


def lines(documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Actions as the lines of a body of ``POST _bulk``: what to do, then the document.

    A request should have at most some thousand documents.
    """
    for action in documents:
        about = {name: action[name] for name in ("_index", "_id")}
        yield {action["_op_type"]: about}
        yield {name: value for name, value in action.items() if not name.startswith("_")}


def body(query: dict[str, Any], top_k: int) -> dict[str, Any]:
    """A search request for the payloads of the best documents."""
    return {"size": top_k, "query": query, "_source": ["payload"]}


def among(ids: Ids) -> dict[str, Any]:
    """The query of documents with these ids."""
    return {"ids": {"values": [str(key) for key in as_id_array(ids).tolist()]}}


def filtered(query: dict[str, Any], ids: Ids | None) -> dict[str, Any]:
    """A query among the documents with these ids."""
    return query if ids is None else {"bool": {"must": [query], "filter": [among(ids)]}}


# The mapping of payloads: they are returned, not searched.
PAYLOAD = {"type": "object", "enabled": False}


def write_bulk(path: str | Path, documents: Iterable[dict[str, Any]]) -> int:
    """Write documents as the body of ``POST _bulk``, two lines each; completely or not at all.

    Servers take 100 MB in one request, if not told otherwise (``http.max_content_length``). Send a
    large file in parts of an even number of lines::

        split -l 4000 bulk.ndjson part-
        for part in part-*; do
            curl -H "Content-Type: application/x-ndjson" --data-binary @$part localhost:9200/_bulk
        done

    Returns:
        The number of documents.
    """
    return write_lines(path, lines(documents)) // 2
