"""Codes for Elasticsearch: a field of type `sparse_vector`, since version 8.15.

::

    from csr_st.search.formats import elasticsearch

    client.indices.create(index="docs", **elasticsearch.mapping())
    helpers.bulk(client, elasticsearch.documents(codes, "docs", ids=ids, payloads=payloads))
    for body in elasticsearch.queries(query_codes, top_k=10):
        hits = client.search(index="docs", **body)["hits"]["hits"]

Elasticsearch keeps 9 significant bits of a value: scores differ by up to 0.4% from those of
`SparseIndex`. Its queries leave out tokens that are frequent or small unless told not to, which
`queries` does. Values below 1.2e-38 are left out, which Lucene refuses. Elasticsearch can not be
installed by pip: the tests compare with its documentation, and score the documents in Lucene's
`FeatureField`, which is what stores them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from csr_st.search.engines.rows import Row, Vectors
from csr_st.search.formats import bulk
from csr_st.search.formats.bulk import write_bulk
from csr_st.search.formats.entries import Payload, Source, query_rows
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole

__all__ = ["documents", "mapping", "queries", "write_bulk"]


def mapping(field: str = "code") -> dict[str, Any]:
    """The body of a request that creates an index for codes and their payloads.

    Args:
        field: Name of the field of the code. Add fields of your own to the returned dict, to filter
            by them: payloads are kept and returned, not searched.

    Raises:
        ValueError: If the field is '' or "payload", or begins with "_".
    """
    field = bulk.checked_field(field)
    properties = {field: {"type": "sparse_vector"}, "payload": dict(bulk.PAYLOAD)}
    return {"mappings": {"properties": properties}}


def documents(
    source: Source,
    index: str,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
    field: str = "code",
) -> Iterator[dict[str, Any]]:
    """Actions for ``elasticsearch.helpers.bulk`` or `write_bulk`, one a document.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        index: Name of the index.
        ids: One integer or string per document; 0..n-1 if None. Elasticsearch has strings.
        payloads: One mapping of JSON values per document.
        field: See `mapping`.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, are '' or longer than 512 bytes, values are
            negative, NaN or infinite, or the field is none of `mapping`.
    """
    return bulk.actions(source, index, ids, payloads, field)


def queries(
    codes: Vectors, top_k: int = 10, field: str = "code", filter: Ids | None = None
) -> list[dict[str, Any]]:
    """The body of a search for each query, whose score is the dot product.

    Args:
        codes: Queries: codes, or the vectors of `HybridVectors`.
        top_k: Documents per query. An index gives at most 10,000, unless its setting
            ``index.max_result_window`` is larger.
        field: See `mapping`.
        filter: Search only the documents with these ids.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If top_k is not at least 1, a value is negative, NaN or infinite, or the field
            is none of `mapping`.
    """
    top_k, field = whole("top_k", top_k), bulk.checked_field(field)
    rows = query_rows(codes)
    return [bulk.body(bulk.filtered(_query(row, field), filter), top_k) for row in rows]


def _query(row: Row, field: str) -> dict[str, Any]:
    if not (asked := bulk.features(row)):
        return {"match_none": {}}
    # The default of a field leaves out tokens, since 9.1.
    return {"sparse_vector": {"field": field, "query_vector": asked, "prune": False}}
