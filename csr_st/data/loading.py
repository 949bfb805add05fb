"""Load data by its name: a file, a folder, a data set on the Hub, or a BEIR folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_st.data.images import EncodedImage, image_columns, undecoded

if TYPE_CHECKING:
    from datasets import Dataset, Features

logger = logging.getLogger(__name__)

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


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


def load(source: str, split: str = "train") -> Dataset:
    """A data set from a file, a folder that `datasets` saved, or the Hub.

    Args:
        source: Path of a .jsonl, .json, .csv, .tsv, .parquet or .txt file (one text a line), of a
            saved data set, or a Hub id.
        split: Which split of a Hub or saved data set.

    Raises:
        FileNotFoundError: If there is no such file, folder or Hub data set.
        ValueError: If the file's type is unknown, it cannot be read, or there is no such split.
    """
    import datasets

    path = Path(source)
    if path.is_dir():
        return _from_folder(path, split)
    if path.is_file():
        return _from_file(path)
    if path.suffix.lower() in BUILDERS or source.count("/") != 1:
        raise FileNotFoundError(f"{source} does not exist; pass a file, a folder or a Hub id")
    try:
        return datasets.load_dataset(source, split=split)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"{source} is neither a file here nor a data set on the Hub: {error}"
        ) from error


def _from_folder(path: Path, split: str) -> Dataset:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} holds no data set that `datasets` saved; pass a file in it instead"
        ) from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(f"{path} has no split {split!r}, only {sorted(found)} (--split)")
    return found[split]


def _from_file(path: Path) -> Dataset:
    import datasets

    ending = path.suffix.lower()
    builder = BUILDERS.get(ending)
    if builder is None:
        raise ValueError(f"{path}: {path.suffix!r} is not one of {sorted(BUILDERS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; it must have at least one row")
    options: dict[str, Any] = {"delimiter": "\t"} if ending == ".tsv" else {}
    try:
        return datasets.load_dataset(builder, data_files=str(path), split="train", **options)
    except (datasets.exceptions.DatasetsError, OSError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{path} cannot be read as {ending}: {reason}") from error


def column(rows: Dataset, name: str | None) -> list[Any]:
    """One column, the only one of text (or else of images) when no name is given.

    Images are `csr_st.data.images.EncodedImage`, which `csr_st.encode` decodes batch by batch.

    Raises:
        ValueError: If the column is missing or has gaps, or none or several could be meant.
    """
    if name is None:
        texts, pictures = text_columns(rows.features), image_columns(rows.features)
        if len(texts or pictures) != 1:
            raise ValueError(
                f"columns {texts or pictures} hold {'text' if texts else 'images'}; "
                "name the one to encode (--column)"
            )
        name = (texts or pictures)[0]
    if name not in rows.column_names:
        raise ValueError(f"column {name!r} is not among {rows.column_names}")
    values = list(undecoded(rows.select_columns([name]))[name])
    if None in values:
        raise ValueError(f"column {name!r} is empty in row {values.index(None)}; fill or drop it")
    if name not in image_columns(rows.features):
        return values
    return [EncodedImage.of(value, place, name) for place, value in enumerate(values)]


def text_columns(features: Features | None) -> list[str]:
    """Columns of strings."""
    strings = ("string", "large_string")
    return [
        name for name, type_ in (features or {}).items() if getattr(type_, "dtype", "") in strings
    ]


def without_bad(rows: Dataset, columns: Iterable[str] | None = None) -> Dataset:
    """The rows that can be embedded: without missing entries or unreadable images.

    Reads every image once, and warns of the rows that it leaves out.

    Args:
        rows: The data.
        columns: Columns that are checked; every column of text or images when None.

    Raises:
        ValueError: If a column is missing, or no row is left.
    """
    pictures = image_columns(rows.features)
    names = list(columns or [*text_columns(rows.features), *pictures])
    if missing := [name for name in names if name not in rows.column_names]:
        raise ValueError(f"column {missing[0]!r} is not among {rows.column_names}")
    good, bad = [], []
    for place, record in enumerate(undecoded(rows.select_columns(names))):
        try:
            for name in names:
                if record[name] is None:
                    raise ValueError(f"entry {place} of column {name!r} is missing")
                if name in pictures:
                    EncodedImage.of(record[name], place, name).decode()
            good.append(place)
        except ValueError as error:
            bad.append(str(error).split(";")[0])
    if not good:
        raise ValueError(f"none of {len(rows)} rows can be embedded; the first: {bad[0]}")
    if bad:
        logger.warning("%d of %d rows are left out: %s", len(bad), len(rows), "; ".join(bad[:20]))
    return rows.select(good) if bad else rows


def is_beir(source: str) -> bool:
    """Whether ``source`` is a folder in BEIR's format."""
    return all((Path(source) / name).is_file() for name in ("corpus.jsonl", "queries.jsonl"))


def load_beir(folder: str) -> RetrievalSet:
    """Read a BEIR folder: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.

    Documents without a judgement count as not relevant; queries without one are left out.

    Raises:
        FileNotFoundError: If there are no judgements.
        ValueError: If a line is not in BEIR's format, or no judgement fits the documents.
    """
    root = Path(folder)
    qrels = next((p for p in (root / "qrels.tsv", root / "qrels/test.tsv") if p.is_file()), None)
    if qrels is None:
        raise FileNotFoundError(f"{folder} has neither qrels.tsv nor qrels/test.tsv")
    corpus, queries = (_items(root / name) for name in ("corpus.jsonl", "queries.jsonl"))
    rows = {str(item["_id"]): row for row, item in enumerate(corpus)}
    gains = _gains(qrels, rows)
    judged = [item for item in queries if str(item["_id"]) in gains]
    if not judged:
        raise ValueError(f"no judgement in {qrels} fits a query and a document of {folder}")
    return RetrievalSet(
        [f"{item.get('title') or ''} {item['text']}".strip() for item in corpus],
        [item["text"] for item in judged],
        [gains[str(item["_id"])] for item in judged],
    )


def _gains(qrels: Path, rows: dict[str, int]) -> dict[str, dict[int, float]]:
    """For each query the gain of each document's row; a first line of names is skipped."""
    gains: dict[str, dict[int, float]] = {}
    for number, line in enumerate(qrels.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            query, document, gain = line.split("\t")[:3]
            value = float(gain)
        except ValueError:
            if number == 1 or not line.strip():
                continue
            raise ValueError(
                f"{qrels}, line {number}: {line!r} is not query id, document id and gain, "
                "separated by tabs"
            ) from None
        if document in rows:
            gains.setdefault(query, {})[rows[document]] = value
    return gains


def _items(path: Path) -> list[dict[str, Any]]:
    """The objects of a file, one per line, which need an ``_id`` and a ``text``."""
    items = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                item["_id"], item["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is not a JSON object with _id and text: {error}"
                ) from error
            items.append(item)
    return items
