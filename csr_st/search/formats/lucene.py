r"""Codes for Lucene, through the impact indexes of Anserini and Pyserini.

::

    from csr_st.search.formats import lucene

    lucene.write("collection/part0.jsonl", lucene.documents(codes, ids=ids))
    lucene.write("queries.tsv", lucene.queries(query_codes))
    # python -m pyserini.index.lucene --collection JsonVectorCollection --input collection \
    #     --index index --generator DefaultLuceneDocumentGenerator --impact --pretokenized
    # python -m pyserini.search.lucene --index index --topics queries.tsv --impact \
    #     --output run.txt --output-format trec

A weight is how often Lucene counts a token: a value times ``scale``, rounded, at least 1. The score
is the sum of the products of whole numbers, about the dot product times ``scale`` of the documents
and that of the queries. Indexing takes time by the sum of all weights: a larger scale is nearer to
the exact ranking and slower to index. At a scale of 100, random codes of k=16 and 32 keep 97 and
98% of the exact top 10, at 1000 more than 99%. Tested with Anserini 1.7.1, of pyserini 1.6.0.

Pyserini leaves the latents that every document has out of a query; ``--min-idf -1`` keeps them, as
does ``LuceneImpactSearcher(..., min_idf=-1)``. Anserini's own ``SearchCollection`` keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from csr_st.search.engines.rows import Vectors
from csr_st.search.formats.entries import Payload, Source, entries, query_rows, write_lines
from csr_st.search.formats.impacts import impacts
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole

SCALE = 100  # as of published SPLADE indexes
_SPACE = re.compile(r"\s")


def documents(
    source: Source,
    ids: Ids | None = None,
    payloads: Iterable[Payload] | None = None,
    scale: int = SCALE,
) -> Iterator[dict[str, Any]]:
    """Documents of Anserini's JsonVectorCollection: id, contents, vector and the payload.

    Args:
        source: `SparseCodes`, a `CodeStore` or the vectors of `HybridVectors`.
        ids: One integer or string per document; 0..n-1 if None. Lucene has strings.
        payloads: One mapping of JSON values per document, kept by ``--storeRaw``.
        scale: What values are multiplied by.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If sizes differ, ids repeat, are '' or have white space, which the files of
            results divide by, or values are negative, NaN, infinite or too large for the scale.
    """
    scale = whole("scale", scale)
    found = entries(source, ids, payloads)
    return (_document(scale, *entry) for entry in found)


def _document(scale: int, key: Any, row: Any, payload: dict[str, Any]) -> dict[str, Any]:
    name = str(key)
    if not name or _SPACE.search(name):
        raise ValueError(
            f"id {name!r} is empty or has white space, which files of results do not keep; pass "
            "another id"
        )
    document = {"id": name, "contents": "", "vector": impacts(row, scale)}
    return {**document, "payload": payload} if payload else document


def queries(codes: Vectors, scale: int = SCALE) -> list[str]:
    """One line a query: its row number, a tab, and its latents, each as often as its weight.

    Queries without an active latent have no line, as Anserini refuses a file with an empty one;
    nor have they results. The others keep their row numbers.

    Args:
        codes: Queries: codes, or the vectors of `HybridVectors`.
        scale: What values are multiplied by.

    Raises:
        TypeError: If something is of the wrong type.
        ValueError: If scale is not at least 1, or a value is negative, NaN, infinite or too large.
    """
    scale = whole("scale", scale)
    rows = (impacts(row, scale) for row in query_rows(codes))
    return [
        f"{number}\t{' '.join(latent for latent in row for _ in range(row[latent]))}"
        for number, row in enumerate(rows)
        if row
    ]


def write(path: str | Path, lines: Iterable[Any]) -> int:
    """Write documents or queries, one a line; completely or not at all.

    Returns:
        The number of lines.
    """
    return write_lines(path, lines)
