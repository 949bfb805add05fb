"""Folders in BEIR's format: documents, queries and relevance judgements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr_st.data.json_rows import objects
from csr_st.data.streams import lines


@dataclass(frozen=True)
class RetrievalSet:
    """Documents, queries and relevance judgements, as BEIR's data sets have them.

    Attributes:
        documents: Texts, title first.
        queries: Texts of the queries that have judgements.
        relevant: For each query the gain of each relevant document, by row.
    """

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]


def is_beir(source: str | Path) -> bool:
    """Whether ``source`` is a folder in BEIR's format."""
    return all((Path(source) / name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def load_beir(folder: str | Path) -> RetrievalSet:
    """Read a BEIR folder: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.

    Judgements are lines of query id, document id and gain, or TREC's query id, iteration, document
    id and gain, separated by tabs or spaces, with or without a first line of names. Documents
    without a judgement count as not relevant; queries without one are left out.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a line is not in BEIR's format, or no judgement fits the documents.
    """
    root = Path(folder)
    for name in ("corpus.jsonl", "queries.jsonl"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, which BEIR's format needs")
    qrels = next((p for p in (root / "qrels.tsv", root / "qrels/test.tsv") if p.is_file()), None)
    if qrels is None:
        raise FileNotFoundError(f"{folder} has neither qrels.tsv nor qrels/test.tsv")
    corpus, queries = (_items(root / name) for name in ("corpus.jsonl", "queries.jsonl"))
    rows = {name: row for row, name in enumerate(corpus)}
    gains = _gains(qrels, rows)
    judged = [name for name in queries if name in gains]
    if not judged:
        raise ValueError(f"no judgement in {qrels} fits a query and a document of {folder}")
    return RetrievalSet(
        [f"{item.get('title') or ''} {item['text']}".strip() for item in corpus.values()],
        [queries[name]["text"] for name in judged],
        [gains[name] for name in judged],
    )


def _gains(qrels: Path, rows: dict[str, int]) -> dict[str, dict[int, float]]:
    """For each query the gain of each document's row."""
    gains: dict[str, dict[int, float]] = {}
    width, separator = 0, None
    for number, line in enumerate(lines(qrels), start=1):
        if not line.strip():
            continue
        if not width:
            separator = "\t" if "\t" in line else None  # None: any number of spaces
        fields = line.strip().split(separator)
        width = width or len(fields)
        value = _as_gain(fields[-1])
        if len(fields) != width or width not in (3, 4) or (value is None and number > 1):
            raise ValueError(
                f"{qrels}, line {number}: {line!r:.100} is not query id, document id and gain, or "
                "query id, iteration, document id and gain, separated by tabs or spaces, as all "
                "lines must be"
            )
        query, document = fields[0].strip(), fields[-2].strip()
        if value is None and document in rows:
            raise ValueError(f"{qrels}, line 1: the gain {fields[-1]!r} is not a finite number")
        if value is not None and document in rows:
            gains.setdefault(query, {})[rows[document]] = value
    return gains


def _as_gain(field: str) -> float | None:
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _items(path: Path) -> dict[str, dict[str, Any]]:
    """The objects of a file by their ``_id``, which they need, and a ``text``."""
    items: dict[str, dict[str, Any]] = {}
    for place, item in objects(path):
        if not (
            isinstance(item, dict)
            and isinstance(item.get("_id"), str | int)
            and isinstance(item.get("text"), str)
            and isinstance(item.get("title") or "", str)
        ):
            raise ValueError(
                f"{path}, {place} is not a JSON object with _id and text: {item!r:.100}"
            )
        if str(item["_id"]) in items:
            raise ValueError(f"{path}, {place} has the _id {item['_id']!r} of an earlier one")
        items[str(item["_id"])] = item
    return items
