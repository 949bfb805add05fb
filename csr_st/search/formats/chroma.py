"""Codes for Chroma Cloud, and other servers of distributed Chroma: sparse vectors in the metadata.

::

    from csr_st.search.formats import chroma

    collection = client.create_collection("docs", schema=chroma.schema())
    for batch in chroma.documents(codes, ids=ids, payloads=metadata):
        collection.add(**batch, embeddings=...)  # Chroma wants a dense vector or a text as well
    results = collection.search(chroma.queries(query_codes, top_k=10))

A Chroma in this process (`PersistentClient`) and a single server refuse sparse vectors up to the
newest release that we tried, 1.5.9: "Sparse vector indexing is not enabled in local". The tests
build these with Chroma's own classes, and note that refusal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from csr_st.search.engines.clients import require
from csr_st.search.engines.rows import Row, Vectors
from csr_st.search.formats.entries import Payload, Source, entries, query_rows
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole


def schema(key: str = "code") -> Any:
    """A schema whose collections have an index of the sparse vectors under a key of the metadata.

    Raises:
        ImportError: If chromadb is not installed.
    """
    chromadb = require("chromadb", "chroma")
    return chromadb.Schema().create_index(chromadb.SparseVectorIndexConfig(), key=key)


def documents(
    source: Source,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
    key: str = "code",
    batch_size: int = 100,
) -> Iterator[dict[str, Any]]:
    """Arguments of ``collection.add``, one dict of ids and metadata for each batch.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        ids: One integer or string per document; 0..n-1 if None. Chroma has strings.
        payloads: The metadata of each document, in which Chroma takes strings, numbers and bools.
        key: See `schema`. Documents without an active latent have none.
        batch_size: Documents of a batch; Chroma Cloud limits it.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, a payload has the key, or values are negative, NaN
            or infinite.
        ImportError: If chromadb is not installed.
    """
    chromadb = require("chromadb", "chroma")
    batch_size = whole("batch_size", batch_size)
    found = entries(source, ids, payloads)
    return _batches(found, chromadb.SparseVector, key, batch_size)


def _batches(found: Any, kind: Any, key: str, batch_size: int) -> Iterator[dict[str, Any]]:
    while batch := list(itertools.islice(found, batch_size)):
        yield {
            "ids": [str(entry.id) for entry in batch],
            "metadatas": [_metadata(entry, kind, key) for entry in batch],
        }


def _metadata(entry: Any, kind: Any, key: str) -> dict[str, Any] | None:
    if key in entry.payload:
        raise ValueError(f"the payload of id {entry.id!r} has {key!r}, where the code goes")
    found = dict(entry.payload)
    if entry.row:
        found[key] = _vector(entry.row, kind)
    return found or None  # Chroma takes no empty metadata


def _vector(row: Row, kind: Any) -> Any:
    return kind(indices=list(row), values=list(row.values()))


def queries(codes: Vectors, top_k: int = 10, key: str = "code") -> list[Any]:
    """A ``Search`` of each query, for ``collection.search``.

    Args:
        codes: Queries: codes, or the vectors of `HybridVectors`.
        top_k: Documents per query.
        key: See `schema`.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If a query has no active latent, top_k is not at least 1, or a value is
            negative, NaN or infinite.
        ImportError: If chromadb is not installed.
    """
    chromadb = require("chromadb", "chroma")
    top_k = whole("top_k", top_k)
    searches = []
    for number, row in enumerate(query_rows(codes)):
        if not row:
            raise ValueError(f"query {number} has no active latent, so that it finds nothing")
        vector = _vector(row, chromadb.SparseVector)
        knn = chromadb.Knn(query=vector, key=key, limit=top_k)
        selected = chromadb.K.SCORE, chromadb.K.METADATA
        searches.append(chromadb.Search().rank(knn).limit(top_k).select(*selected))
    return searches
