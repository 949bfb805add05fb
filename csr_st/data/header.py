"""Whether the first line of a table holds names of columns or data."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import pyarrow.compute as pc  # type: ignore[import-untyped]  # pyarrow has no type information

USUAL_NAMES = """
_id abstract anchor answer answers article author body caption category class comment content
contents context corpus-id corpus_id date description doc doc_id docid document documents domain
embedding embeddings entailment gain headline id idx image index intent intents key keywords kind
label labels lang language message name negative neg paragraph paragraphs passage passages pid pos
positive prompt qid query query-id query_id queries question question1 question2 questions rating
relevance response review score scores sent1 sent2 sentence sentence1 sentence2 sentence_a
sentence_b sentences sentiment similarity source split summary tag tags target text text1 text2
text_a text_b texts timestamp title topic topics type url user utterance utterances uuid value
vector vectors year
"""
KNOWN = frozenset(USUAL_NAMES.split())
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
WORD = re.compile(r"[^\W\d][\w.:-]*")
LONGEST_NAME = 60  # characters; a column's name is shorter and has fewer words than PROSE_WORDS
PROSE_WORDS = 6
MANY_ROWS, FEW_CLASSES = 20, 5  # of so many rows with few values, a row's value occurs again
LONG_TEXT = 30  # characters: a single word is not a text of a column with this mean length


def is_known(names: Collection[str]) -> bool:
    """Whether all of the fields are usual names of columns."""
    return bool(names) and all(name.strip().lower() in KNOWN for name in names)


def has_header(first: Sequence[str], columns: Sequence[Any], wanted: Collection[str]) -> bool:
    """Whether a table's first line holds the names of its columns.

    Args:
        first: The fields of the first line.
        columns: The other lines as Arrow arrays of strings, one a column, None for empty fields.
        wanted: Names that the caller will ask for.

    Raises:
        ValueError: If it can be either.
    """
    names = [field.strip() for field in first]
    if (wanted and set(wanted) <= set(names)) or is_known([name for name in names if name]):
        return True
    if any(map(_is_prose, names)):
        return False
    if not columns or not len(columns[0]):
        if any(name.lower() in KNOWN for name in names):
            return True
        raise ValueError(f"its only line, {_shown(first)}, may be names of columns or data")
    evidence = [_is_name(*pair) for pair in zip(names, columns, strict=True)]
    counted = [str(i) for i in range(len(names))], [str(i + 1) for i in range(len(names))]
    if False in evidence and names not in counted:
        return False
    if True in evidence or names in counted or any(name.lower() in KNOWN for name in names):
        return True
    raise ValueError(f"its first line, {_shown(first)}, may be names of columns or data")


def _shown(first: Sequence[str]) -> str:
    return repr(list(first))[:200]


def _is_prose(field: str) -> bool:
    return len(field) > LONGEST_NAME or len(field.split()) >= PROSE_WORDS


def _is_name(name: str, column: Any) -> bool | None:
    """Whether a field names the column below it; None if that cannot be told."""
    values = column.drop_null()
    if not name or not len(values):
        return None
    distinct = pc.unique(values)
    if pc.index(distinct, name).as_py() >= 0:
        return False
    numeric = bool(NUMBER.fullmatch(name))
    if all(NUMBER.fullmatch(value.strip()) for value in distinct.slice(0, 1000).to_pylist()):
        return not numeric
    if numeric or not WORD.fullmatch(name):
        return None
    recurs = len(values) >= MANY_ROWS and FEW_CLASSES * len(distinct) <= len(values)
    long = pc.mean(pc.utf8_length(values)).as_py() >= LONG_TEXT
    return True if recurs or long else None
