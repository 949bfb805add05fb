"""Load data by its name: a file, a folder, a data set on the Hub; and choose what is embedded."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

from csr_st.data.beir import RetrievalSet, is_beir, load_beir
from csr_st.data.files import is_local, local_files, short_name
from csr_st.data.images import EncodedImage, image_columns, undecoded
from csr_st.data.labels import classes_of_file
from csr_st.data.names import DataName
from csr_st.data.streams import ending_of
from csr_st.data.tables import ENDINGS, IMAGES, read_tables

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = [
    "RetrievalSet",
    "as_classes",
    "column",
    "is_beir",
    "is_local",
    "item_column",
    "load",
    "load_beir",
    "short_name",
    "text_columns",
    "without_bad",
]

logger = logging.getLogger(__name__)

NO_ITEMS = ("int", "uint", "float", "double", "bool", "decimal", "date", "time", "duration", "null")


def load(
    source: str | Path | DataName,
    split: str = "train",
    columns: Collection[str] = (),
    *,
    stream: bool = False,
) -> Any:
    """A data set from a file, several files, a folder that `datasets` saved, or the Hub.

    Files are .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .txt (one text a line), plain or
    compressed (.gz, .bz2, .xz, .zst). In a table only an empty field is missing. What is there is
    read anew at each call, in a temporary file (TMPDIR says where).

    Args:
        source: Path of a file; of a folder of such files, whose names may say their split; of a
            saved data set; a pattern, if nothing of exactly that name exists; ``-`` for standard
            input, JSON lines or one text a line, or ``-.csv`` and the like; or a Hub id. May say
            its configuration, its split and the column that is wanted, which is then the only one:
            ``org/name:config=en,split=test,column=abstract`` (`csr_st.data.names.DataName`).
        split: Which split of a Hub or saved data set, or of a folder, where ``source`` says none.
        columns: Names that will be asked for. If the first line of a table has them, it holds
            names, where that cannot be seen otherwise.
        stream: Give a Hub data set as an IterableDataset, of which only what is read is downloaded.

    Returns:
        A `datasets.Dataset`; of the Hub, with ``stream``, a `datasets.IterableDataset`.

    Raises:
        FileNotFoundError: If there is no such file, folder or Hub data set.
        ValueError: If the file's type is unknown, it cannot be read, or there is no such split or
            configuration.
    """
    if isinstance(source, DataName):
        return _found(source, columns, stream)
    named = DataName.parse(source, split)
    if named.column is None:
        return _found(named, columns, stream)
    rows = _found(named, [*columns, named.column], stream)
    if rows.column_names is not None and named.column not in rows.column_names:
        raise ValueError(f"{named.name}: column {named.column!r} is not among {rows.column_names}")
    return rows.select_columns([named.column])


def _found(named: DataName, columns: Collection[str], stream: bool) -> Any:
    """All columns of what `load` loads."""
    import datasets

    source, split = named.name, named.split
    folder = Path(os.path.expanduser(source))
    if not source:
        raise FileNotFoundError("the name of the data is empty; pass a file, a folder or a Hub id")
    local = is_local(source) or ending_of(source) in ENDINGS or source.count("/") != 1
    if local and named.config is not None:
        raise ValueError(
            f"{source} is not a data set of the Hub, and only those have configurations: leave "
            f"config={named.config} out"
        )
    marks = ("dataset_info.json", "dataset_dict.json", "state.json")
    if any(os.path.isfile(folder / name) for name in marks):
        return _saved(folder, split)
    if local:
        with local_files(source, ENDINGS, split) as files:
            return _as_dataset(read_tables(files, columns), short_name(source))
    try:
        return datasets.load_dataset(source, named.config, split=split, streaming=stream)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"{source} is neither a file here nor a data set on the Hub: {error}"
        ) from error


def _saved(path: Path, split: str) -> Dataset:
    """A folder that `datasets` saved."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a saved data set: {error}") from error
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(f"{path} has no split {split!r}, only {sorted(found)} (--split)")
    return found[split]


def _as_dataset(table: Any, name: str) -> Dataset:
    """A table as a data set, whose identity is that of its content, not of a file's name or age."""
    import datasets

    state = hashlib.blake2b(table.schema.serialize(), digest_size=8)
    for batch in table.to_batches():
        with pa.ipc.new_stream(sink := pa.BufferOutputStream(), batch.schema) as writer:
            writer.write_batch(batch)
        state.update(sink.getvalue())
    try:
        rows = datasets.Dataset(
            table,
            info=datasets.DatasetInfo(dataset_name=name),
            split=datasets.Split.TRAIN,
            fingerprint=state.hexdigest(),
        )
        for pictures in json.loads((table.schema.metadata or {}).get(IMAGES, "[]")):
            rows = rows.cast_column(pictures, datasets.Image())
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{name} has a column of a type that cannot be read: {error}") from error
    return rows


def text_columns(features: Features | None) -> list[str]:
    """Columns of strings."""
    strings = ("string", "large_string", "string_view")
    return [
        name for name, type_ in (features or {}).items() if getattr(type_, "dtype", "") in strings
    ]


def item_column(features: Features, others: Collection[str | None] = ()) -> str:
    """The column that is embedded where none is named; see `chosen_column`.

    Args:
        features: Those of the data.
        others: Columns that are not meant, such as that of the labels.
    """
    texts = [name for name in text_columns(features) if name not in others]
    return chosen_column(column_types(features), texts, image_columns(features))


def chosen_column(types: Mapping[str, str], texts: list[str], pictures: list[str]) -> str:
    """The column "text", or the only one of text, or else the only one of images.

    Args:
        types: What each column holds, in words.
        texts: The columns of text.
        pictures: The columns of images, which count where there are none of text.

    Raises:
        ValueError: If none or several could be meant.
    """
    chosen = texts or pictures
    if "text" in texts or len(chosen) == 1:
        return "text" if "text" in texts else chosen[0]
    there = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    found = f"columns {chosen} hold {'text' if texts else 'images'}"
    raise ValueError(
        f"{found if chosen else 'no column holds text or images'}; name the one to encode "
        f"(--column, text_column). The columns are {there}"
    )


def column_types(features: Features) -> dict[str, str]:
    """What each column holds, in a word."""
    return {
        name: str(getattr(type_, "dtype", None) or type(type_).__name__)[:40]
        for name, type_ in features.items()
    }


def check_column(features: Features, name: str) -> None:
    """Raise a ValueError if a column is not there, or holds neither text nor images."""
    if name not in features:
        raise ValueError(f"column {name!r} is not among {list(features)}")
    kind = column_types(features)[name]
    if kind.startswith(NO_ITEMS):
        raise ValueError(
            f"column {name!r} holds {kind}, not text or images; name another one, or write it as "
            "text"
        )


def column(rows: Dataset, name: str | None) -> list[Any]:
    """One column, by `item_column` when no name is given.

    Images are `csr_st.data.images.EncodedImage`, which `csr_st.encode` decodes batch by batch.

    Raises:
        ValueError: If the column is missing, has gaps, or holds neither text nor images; or none or
            several could be meant.
    """
    if name is None:
        name = item_column(rows.features)
    check_column(rows.features, name)
    values = list(undecoded(rows.select_columns([name]))[name])
    if None in values:
        raise ValueError(f"column {name!r} is empty in row {values.index(None)}; fill or drop it")
    if name not in image_columns(rows.features):
        return values
    return [EncodedImage.of(value, place, name) for place, value in enumerate(values)]


def as_classes(rows: Dataset, name: str | None) -> Dataset:
    """The rows of a file or data set, every value of one column a class for `EmbeddingStore.embed`.

    Columns of `datasets.ClassLabel` stay as they are: their -1 means none. See
    `csr_st.data.labels.classes_of_file`.
    """
    if name not in rows.column_names or hasattr(rows.features[name], "names"):
        return rows
    values = list(rows[name])
    classes = classes_of_file(values)
    if classes is values:
        return rows
    fingerprint = f"{rows._fingerprint}-{name}"[-64:]
    return rows.remove_columns(name).add_column(name, list(classes), new_fingerprint=fingerprint)


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
