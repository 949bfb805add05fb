"""Codes for OpenSearch: exact on `rank_features`, or approximate on `sparse_vector` by SEISMIC.

::

    from csr_st.search.formats import opensearch

    client.indices.create(index="docs", body=opensearch.mapping(seismic=opensearch.Seismic()))
    helpers.bulk(client, opensearch.documents(codes, "docs", ids=ids, payloads=payloads))
    for body in opensearch.queries(query_codes, top_k=10, seismic=opensearch.SeismicSearch()):
        hits = client.search(index="docs", body=body)["hits"]["hits"]

`rank_features` with raw vectors needs the neural-search plugin of 2.14, `sparse_vector` of 3.3. The
first keeps 9 significant bits of a value, the second 8 bits between 0 and a ceiling. Values below
1.2e-38 are left out, which Lucene refuses, as it does weights of queries above 64. OpenSearch can
not be installed by pip: the tests compare with its documentation, and score the documents in
Lucene's `FeatureField`, which is what `rank_features` stores.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from csr_st.search.engines.rows import Vectors
from csr_st.search.formats import bulk
from csr_st.search.formats.bulk import write_bulk
from csr_st.search.formats.entries import Payload, Source, query_rows
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole

__all__ = ["Seismic", "SeismicSearch", "documents", "mapping", "queries", "write_bulk"]
MAX_WEIGHT = 64  # of a query
TOKENS = 2**15  # of SEISMIC
_MAX_INT = 2**31 - 1


@dataclass(frozen=True)
class Seismic:
    """How `sparse_vector` is indexed; None leaves what OpenSearch takes by default.

    Only for latents, and words of `HybridVectors`, below 32,768: OpenSearch takes a larger one for
    its remainder, another latent. `documents` and `queries` refuse these where they are told of
    SEISMIC.

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
        _check_whole(self, "n_postings", 1)
        _check_whole(self, "approximate_threshold", 0)
        _check(self, "cluster_ratio", "below 1", lambda ratio: ratio < 1)
        _check(self, "summary_prune_ratio", "at most 1", lambda ratio: ratio <= 1)
        for name in ("quantization_ceiling_ingest", "quantization_ceiling_search"):
            _check(self, name, "finite", math.isfinite)


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
        _check_whole(self, "top_n", 1)
        _check(self, "heap_factor", "finite", math.isfinite)


def _check_whole(options: Any, name: str, least: int) -> None:
    value = getattr(options, name)
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass an integer")
    number = operator.index(value)
    if not least <= number <= _MAX_INT:
        raise ValueError(f"{name}={number} is not within {least}..{_MAX_INT}")
    object.__setattr__(options, name, number)


def _check(options: Any, name: str, bound: str, within: Callable[[float], bool]) -> None:
    value = getattr(options, name)
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass a number")
    number = float(value)
    if not (number > 0 and within(number)):
        raise ValueError(f"{name}={number} must be above 0 and {bound}")
    object.__setattr__(options, name, number)


def mapping(field: str = "code", seismic: Seismic | None = None) -> dict[str, Any]:
    """The body of a request that creates an index for codes and their payloads.

    Args:
        field: Name of the field of the code. Add fields of your own to the returned dict, to filter
            by them: payloads are kept and returned, not searched.
        seismic: Search by SEISMIC; exactly if None.

    Raises:
        ValueError: If the field is '' or "payload", or begins with "_".
    """
    field = bulk.checked_field(field)
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
    seismic: Seismic | None = None,
) -> Iterator[dict[str, Any]]:
    """Actions for ``opensearchpy.helpers.bulk`` or `write_bulk`, one a document.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        index: Name of the index.
        ids: One integer or string per document; 0..n-1 if None. OpenSearch has strings.
        payloads: One mapping of JSON values per document.
        field: See `mapping`.
        seismic: See `mapping`.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, are '' or longer than 512 bytes, values are
            negative, NaN or infinite, the field is none of `mapping`, or a latent is 32,768 or more
            for SEISMIC.
    """
    found = bulk.actions(source, index, ids, payloads, field)
    if seismic is None:
        return found
    return (_within(action, field) for action in found)


def _within(action: dict[str, Any], field: str) -> dict[str, Any]:
    _check_tokens(action.get(field, {}), f"the document with id {action['_id']!r}")
    return action


def _check_tokens(code: dict[str, float], what: str) -> None:
    most = max(map(int, code), default=0)
    if most >= TOKENS:
        raise ValueError(
            f"{what} has latent {most}, which SEISMIC would take for {most % TOKENS}: it has only "
            f"those below {TOKENS}; search exactly (seismic=None), or have fewer latents or words"
        )


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
        top_k: Documents per query. An index gives at most 10,000, unless its setting
            ``index.max_result_window`` is larger.
        field: See `mapping`.
        filter: Search only the documents with these ids.
        seismic: For a field that was mapped with ``seismic``.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If top_k is not at least 1, a value is negative, NaN, infinite or above 64, the
            field is none of `mapping`, or a latent is 32,768 or more for SEISMIC.
    """
    top_k, field = whole("top_k", top_k), bulk.checked_field(field)
    rows = [_checked(bulk.features(row), n, seismic) for n, row in enumerate(query_rows(codes))]
    return [bulk.body(_query(row, top_k, field, filter, seismic), top_k) for row in rows]


def _checked(code: dict[str, float], number: int, seismic: Any) -> dict[str, float]:
    if code and (largest := max(code.values())) > MAX_WEIGHT:
        raise ValueError(
            f"query {number} has the value {largest}; OpenSearch takes at most {MAX_WEIGHT}: "
            "divide the vectors of all queries by a number, which keeps the order of the results"
        )
    if seismic is not None:
        _check_tokens(code, f"query {number}")
    return code


def _query(
    code: dict[str, float],
    top_k: int,
    field: str,
    filter: Ids | None,
    seismic: SeismicSearch | None,
) -> dict[str, Any]:
    if not code:
        return {"match_none": {}}
    asked: dict[str, Any] = {"query_tokens": code}
    if seismic is None:
        return bulk.filtered({"neural_sparse": {field: asked}}, filter)
    top_n = len(code) if seismic.top_n is None else seismic.top_n
    method: dict[str, Any] = {"k": top_k, "top_n": top_n, "heap_factor": seismic.heap_factor}
    if filter is not None:
        # Here few documents are searched exactly; a filter around the query comes after its top k.
        method["filter"] = bulk.among(filter)
    return {"neural_sparse": {field: {**asked, "method_parameters": method}}}
