"""Codes for OpenSearch: exact on `rank_features`, or approximate on `sparse_vector` by SEISMIC.

::

    from csr_st.search.formats import opensearch

    client.indices.create(index="docs", body=opensearch.mapping(seismic=opensearch.Seismic()))
    helpers.bulk(client, opensearch.documents(codes, "docs", ids=ids, payloads=payloads))
    for body in opensearch.queries(query_codes, top_k=10, seismic=opensearch.SeismicSearch()):
        hits = client.search(index="docs", body=body)["hits"]["hits"]

`rank_features` with raw vectors needs the neural-search plugin of 2.14, `sparse_vector` of 3.3. The
first keeps 9 significant bits of a value, the second 8 bits between 0 and a ceiling. OpenSearch can
not be installed by pip: the tests compare with its documentation, and score the documents in
Lucene's `FeatureField`, which is what `rank_features` stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from csr_st.search.engines.rows import Row, Vectors
from csr_st.search.formats import bulk
from csr_st.search.formats.bulk import write_bulk
from csr_st.search.formats.entries import Payload, Source, query_rows, tokens
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole

__all__ = ["Seismic", "SeismicSearch", "documents", "mapping", "queries", "write_bulk"]


@dataclass(frozen=True)
class Seismic:
    """How `sparse_vector` is indexed; None leaves what OpenSearch takes by default.

    Attributes:
        n_postings: Documents kept for a latent, those with the largest values.
        cluster_ratio: Clusters per document of a list, within 0..1.
        summary_prune_ratio: Share of a cluster's values that its summary keeps, above 0, at most 1.
        approximate_threshold: Documents of a segment from which on the search is approximate, a
            million by default; smaller segments are searched exactly.
        quantization_ceiling_ingest: Largest value of documents, which become bytes; larger ones are
            cut. Codes of unit norm have at most 1, for other vectors pass the largest value.
        quantization_ceiling_search: Largest value of queries, likewise.
    """

    n_postings: int | None = None
    cluster_ratio: float | None = None
    summary_prune_ratio: float | None = None
    approximate_threshold: int | None = None
    quantization_ceiling_ingest: float = 1.0
    quantization_ceiling_search: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "cluster_ratio", 0, 1, open_end=True)
        _check(self, "summary_prune_ratio", 0, 1)
        for name in ("n_postings", "quantization_ceiling_ingest", "quantization_ceiling_search"):
            _check(self, name, 0, float("inf"))


@dataclass(frozen=True)
class SeismicSearch:
    """How `sparse_vector` is searched.

    Attributes:
        top_n: Latents of a query that are used, those with the largest values; all if None.
        heap_factor: Above 1 finds more, below is faster.
    """

    top_n: int | None = None
    heap_factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "top_n", 0, float("inf"))
        _check(self, "heap_factor", 0, float("inf"))


def _check(options: Any, name: str, above: float, most: float, open_end: bool = False) -> None:
    value = getattr(options, name)
    if value is None:
        return
    if not (above < value < most if open_end else above < value <= most):
        bound = "any" if most == float("inf") else f"{'below' if open_end else 'at most'} {most}"
        raise ValueError(f"{name}={value} must be above {above}, {bound}")


def mapping(field: str = "code", seismic: Seismic | None = None) -> dict[str, Any]:
    """The body of a request that creates an index for codes and their payloads.

    Args:
        field: Name of the field of the code. Add fields of your own to the returned dict, to filter
            by them: payloads are kept and returned, not searched.
        seismic: Search by SEISMIC; exactly if None.
    """
    vector: dict[str, Any] = {"type": "rank_features"}
    settings = {}
    if seismic is not None:
        given = {name: value for name, value in asdict(seismic).items() if value is not None}
        vector = {"type": "sparse_vector", "method": {"name": "seismic", "parameters": given}}
        settings = {"settings": {"index": {"sparse": True}}}
    properties = {field: vector, "payload": dict(bulk.PAYLOAD)}
    return {**settings, "mappings": {"properties": properties}}


def documents(
    source: Source,
    index: str,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
    field: str = "code",
) -> Iterator[dict[str, Any]]:
    """Actions for ``opensearchpy.helpers.bulk`` or `write_bulk`, one a document.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        index: Name of the index.
        ids: One integer or string per document; 0..n-1 if None. OpenSearch has strings.
        payloads: One mapping of JSON values per document.
        field: As of `mapping`.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, are '' or longer than 512 bytes, or values are
            negative, NaN or infinite.
    """
    return bulk.actions(source, index, ids, payloads, field)


def queries(
    codes: Vectors,
    top_k: int = 10,
    field: str = "code",
    filter: Ids | None = None,
    seismic: SeismicSearch | None = None,
) -> list[dict[str, Any]]:
    """The body of a search for each query, whose score is the dot product.

    Args:
        codes: Queries: codes, or the vectors of `HybridVectors`.
        top_k: Documents per query.
        field: As of `mapping`.
        filter: Search only the documents with these ids.
        seismic: For a field that was mapped with ``seismic``.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If top_k is not at least 1, or a value is negative, NaN or infinite.
    """
    top_k = whole("top_k", top_k)
    rows = query_rows(codes)
    return [bulk.body(_query(row, top_k, field, filter, seismic), top_k) for row in rows]


def _query(
    row: Row, top_k: int, field: str, filter: Ids | None, seismic: SeismicSearch | None
) -> dict[str, Any]:
    if not row:
        return {"match_none": {}}
    asked: dict[str, Any] = {"query_tokens": tokens(row)}
    if seismic is None:
        return bulk.filtered({"neural_sparse": {field: asked}}, filter)
    top_n = len(row) if seismic.top_n is None else seismic.top_n
    method: dict[str, Any] = {"k": top_k, "top_n": top_n, "heap_factor": seismic.heap_factor}
    if filter is not None:
        # Here few documents are searched exactly; a filter around the query comes after its top k.
        method["filter"] = bulk.among(filter)
    return {"neural_sparse": {field: {**asked, "method_parameters": method}}}
