"""Codes for Vespa: a mapped tensor for exact scores, and a weighted set to find candidates by WAND.

::

    from csr_st.search.formats import vespa

    Path("app/schemas/doc.sd").write_text(vespa.schema())
    vespa.write_feed("feed.jsonl", vespa.documents(codes, ids=ids, payloads=payloads))
    # vespa feed feed.jsonl
    for body in vespa.queries(query_codes, top_k=10):
        ...  # POST it to /search/, or app.query(body=body) in pyvespa

Scores are exact, in float32. Vespa's WAND takes integer weights: values are multiplied by
`SCALE` and rounded for the weighted set, by which the candidates are found that are then scored
exactly. Vespa can not be installed by pip: the tests compare with its documentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from csr_st.search.engines.rows import Row, Vectors
from csr_st.search.formats.entries import Payload, Source, entries, query_rows, tokens, write_lines
from csr_st.search.formats.impacts import impacts
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole

SCALE = 1000
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_SCHEMA = """\
schema {name} {{
    document {name} {{
        field id type string {{
            indexing: summary | attribute
        }}
        field payload type string {{
            indexing: summary
        }}
        field code type tensor<float>(latent{{}}) {{
            indexing: attribute
        }}
        field latents type weightedset<string> {{
            indexing: attribute
            attribute: fast-search
        }}
    }}
    rank-profile codes {{
        inputs {{
            query(q) tensor<float>(latent{{}})
        }}
        first-phase {{
            expression: sum(query(q) * attribute(code))
        }}
    }}
}}
"""


def schema(name: str = "doc") -> str:
    """The schema of documents with a code, and a rank profile ``codes``; the text of NAME.sd.

    Raises:
        ValueError: If the name is none for a document type.
    """
    return _SCHEMA.format(name=_checked_name(name))


def documents(
    source: Source,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
    name: str = "doc",
    namespace: str = "csr-st",
) -> Iterator[dict[str, Any]]:
    """What ``vespa feed`` puts, one a document; the payload is a string of JSON.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        ids: One integer or string per document; 0..n-1 if None. Vespa has strings.
        payloads: One mapping of JSON values per document.
        name: Name of the document type, as in `schema`.
        namespace: Namespace of the documents' ids.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, are '' or have a control character, values are
            negative, NaN or infinite, or a name is not possible.
    """
    _checked_name(name)
    if ":" in namespace or not namespace:
        raise ValueError(f"namespace={namespace!r} must have a character, and no colon")
    found = entries(source, ids, payloads)
    return (_put(f"id:{namespace}:{name}::", *entry) for entry in found)


def _put(place: str, key: Any, row: Row, payload: dict[str, Any]) -> dict[str, Any]:
    if key == "":
        raise ValueError("id '' is empty, which Vespa does not take; pass another id")
    if _CONTROL.search(str(key)):
        raise ValueError(f"id {key!r} has a control character, which Vespa refuses; remove it")
    fields: dict[str, Any] = {"id": str(key)}
    if payload:
        fields["payload"] = json.dumps(payload, ensure_ascii=False)
    if row:
        fields["code"] = {"cells": tokens(row)}
        fields["latents"] = impacts(row, SCALE)
    return {"put": f"{place}{key}", "fields": fields}


def write_feed(path: str | Path, documents: Iterable[dict[str, Any]]) -> int:
    """Write documents as JSON lines, completely or not at all.

    Returns:
        The number of documents.
    """
    return write_lines(path, documents)


def queries(
    codes: Vectors, top_k: int = 10, name: str = "doc", candidates: int | None = 1000
) -> list[dict[str, Any]]:
    """The body of a search for each query, whose relevance is the dot product.

    Args:
        codes: Queries: codes, or the vectors of `HybridVectors`.
        top_k: Documents per query. Vespa refuses more than 400, unless a query profile has a larger
            ``maxHits``.
        name: See `schema`.
        candidates: Documents to find by WAND on each node, at least, and score exactly; None scores
            every document.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If a number is not at least 1, or a value is negative, NaN or infinite.
    """
    top_k = whole("top_k", top_k)
    _checked_name(name)
    if candidates is not None:
        candidates = max(whole("candidates", candidates), top_k)
    return [_search(row, top_k, name, candidates) for row in query_rows(codes)]


def _search(row: Row, top_k: int, name: str, candidates: int | None) -> dict[str, Any]:
    condition = "true" if row else "false"
    if row and candidates is not None:
        weights = json.dumps(impacts(row, SCALE))
        condition = f"({{targetHits: {candidates}}}wand(latents, {weights}))"
    return {
        "yql": f"select id, payload from {name} where {condition}",  # noqa: S608 - a checked name
        "ranking.profile": "codes",
        "input.query(q)": tokens(row),  # "cells" is a form of documents only
        "hits": top_k,
    }


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r} is none for a document type; pass letters and digits")
    return name
