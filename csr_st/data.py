"""Find data by a name: a file, a folder or a data set on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
VECTOR_ENDINGS = (".npy", ".npz", ".safetensors")


@dataclass(frozen=True)
class Judged:
    """Documents, queries and which answers which.

    Attributes:
        documents: Texts, title first.
        queries: Texts of the judged queries.
        relevant: For each query the gain of each relevant document, by row.
    """

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]


def load(source: str, split: str = "train") -> Dataset:
    """A data set from a file, a folder that `datasets` saved, or the Hub.

    Args:
        source: Path of a .jsonl, .json, .csv, .tsv, .parquet or .txt file (one text a line), of a
            saved data set, or a Hub id.
        split: Which split of a Hub or saved data set.

    Raises:
        FileNotFoundError: If there is no such file, folder or Hub data set.
        ValueError: If the file's kind is not known.
    """
    import datasets

    path = Path(source)
    if path.is_dir():
        found = datasets.load_from_disk(str(path))
        return found[split] if isinstance(found, datasets.DatasetDict) else found
    if path.is_file():
        builder = BUILDERS.get(path.suffix)
        if builder is None:
            raise ValueError(f"{path}: {path.suffix!r} is not one of {sorted(BUILDERS)}")
        options: dict[str, Any] = {"delimiter": "\t"} if path.suffix == ".tsv" else {}
        return datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    if path.suffix in BUILDERS or source.count("/") != 1:
        raise FileNotFoundError(f"{source} does not exist; give a file, a folder or a Hub id")
    try:
        return datasets.load_dataset(source, split=split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"{source} is neither a file here nor a data set that the Hub gives: {error}"
        ) from error


def column(rows: Dataset, name: str | None) -> list[Any]:
    """One column, the only one of text when no name is given.

    Raises:
        ValueError: If the column is missing, or none or several could be meant.
    """
    if name is None:
        texts = [
            key for key, kind in rows.features.items() if getattr(kind, "dtype", "") == "string"
        ]
        if len(texts) != 1:
            raise ValueError(f"columns {texts} hold text; name the one to encode (--text-column)")
        name = texts[0]
    if name not in rows.column_names:
        raise ValueError(f"column {name!r} is not among {rows.column_names}")
    return list(rows[name])


def is_judged(source: str) -> bool:
    """Whether ``source`` is a folder in BEIR's form."""
    return all((Path(source) / name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def load_judged(folder: str) -> Judged:
    """Read BEIR's form: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.

    Raises:
        FileNotFoundError: If there are no judgements.
    """
    root = Path(folder)
    qrels = next((p for p in (root / "qrels.tsv", root / "qrels/test.tsv") if p.is_file()), None)
    if qrels is None:
        raise FileNotFoundError(f"{folder} has neither qrels.tsv nor qrels/test.tsv")
    corpus, asked = (_lines(root / name) for name in ("corpus.jsonl", "queries.jsonl"))
    rows = {str(item["_id"]): row for row, item in enumerate(corpus)}
    gains: dict[str, dict[int, float]] = {}
    for line in qrels.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")[:3]
        if document in rows:
            gains.setdefault(query, {})[rows[document]] = float(gain)
    judged = [item for item in asked if str(item["_id"]) in gains]
    return Judged(
        [f"{item.get('title', '')} {item['text']}".strip() for item in corpus],
        [item["text"] for item in judged],
        [gains[str(item["_id"])] for item in judged],
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]
