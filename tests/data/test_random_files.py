"""Random files: the right rows, or a ValueError or FileNotFoundError that says what is wrong."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr_st.data import column, load, load_beir
from csr_st.data.tables import ENDINGS

REFUSED = (ValueError, TypeError, FileNotFoundError)
PIECES = [*"\"\t\n\r\0 ,;|'\\{[]-#😀é\ufeff\u2028\x0b", '""', "\r\n", "text", "label", "a b c"]
PIECES += ["None", "NA", "-1", "1", "01", "1.0", "1e5", "inf", "=1+1", '{"text": "a"}']
characters = st.characters(codec="utf-8", exclude_characters="\0\r")
texts = st.lists(st.sampled_from(PIECES) | characters, max_size=12).map("".join)
fields = texts.map(lambda text: text.replace("\0", "").replace("\r", ""))
names = st.lists(st.sampled_from(["text", "label", "id", "title"]), min_size=1, unique=True)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
values = (
    scalars | fields | st.lists(fields, max_size=2) | st.dictionaries(fields, scalars, max_size=2)
)


@st.composite
def tables(draw):
    """Names and rows of text, at least one row."""
    header = draw(names)
    rows = st.lists(fields, min_size=len(header), max_size=len(header))
    return header, draw(st.lists(rows, min_size=1, max_size=8))


def outcome(action, *arguments):
    """What a call returns, or why it refuses; whatever else it raises is a fault."""
    try:
        return action(*arguments), None
    except REFUSED as error:
        return None, str(error)


def read(name, content):
    """The columns of a file, or None if it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        rows, why = outcome(load, path)
        assert [file.name for file in Path(folder).iterdir()] == [name]
        if rows is None:
            assert name in why, "the message names no file"
            assert len(why) < 1500
            return None
        _, why = outcome(column, rows, None)
        assert why is None or "column" in why
        return rows.to_dict()


def check_noise(ending, content):
    found = read(f"rows{ending}", content)
    assert found is None or min(map(len, found.values())) >= 1


def check_lines(content):
    """A .txt has as many texts as lines, each of them as it is."""
    found = read("rows.txt", content.encode())
    if found is None:
        assert not content.removeprefix("\ufeff").strip() or "\0" in content
    else:
        lines = content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        assert found["text"] == lines.removesuffix("\n").split("\n")


def check_delimited(table, separator, quoting):
    """What the csv module writes is what is read, in every column."""
    header, rows = table
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting)
    writer.writerows([header, *rows])
    ending = ".tsv" if separator == "\t" else ".csv"
    found = read(f"rows{ending}", file.getvalue().encode())
    if found is not None:
        assert list(found) == header
        for place, name in enumerate(header):
            expected = [row[place] for row in rows]
            for one, other in zip(found[name], expected, strict=True):
                same = one == (other or None)
                assert same or (isinstance(one, int | float) and one == float(other))


def check_json(rows, array):
    """Every row of a .jsonl or .json, what it lacks as None."""
    lines = [json.dumps(row) for row in rows]
    content = f"[{','.join(lines)}]" if array else "\n".join(lines)
    found = read("rows.json" if array else "rows.jsonl", content.encode())
    if found is not None:
        for name, column_ in found.items():
            expected = [row.get(name) for row in rows]
            for one, other in zip(column_, expected, strict=True):
                if isinstance(other, int) and abs(other) >= 2**63:  # or a float, or its digits
                    assert float(one) == pytest.approx(float(other))
                elif not isinstance(other, dict):  # which get the keys of the other rows
                    assert one == other or one == pytest.approx(other)


def check_parquet(columns):
    file = io.BytesIO()
    pa.parquet.write_table(columns, file)
    found = read("rows.parquet", file.getvalue())
    assert found == columns.to_pydict()


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@st.composite
def arrow_tables(draw):
    n = draw(st.integers(1, 5))
    found = {}
    for name in draw(names):
        cells = draw(st.lists(st.none() | fields, min_size=n, max_size=n))
        found[name] = pa.array(cells, pa.string()).cast(draw(st.sampled_from(KINDS)))
    return pa.table(found)


noise = st.binary(max_size=80) | texts.map(lambda text: text.encode("utf-8"))
records = st.lists(st.dictionaries(fields, values, max_size=4), min_size=1, max_size=6)
separators = st.sampled_from([",", ";", "\t", "|"])
quotings = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])


def check_beir(corpus, queries, qrels):
    with tempfile.TemporaryDirectory() as folder:
        names = ("corpus.jsonl", "queries.jsonl", "qrels.tsv")
        for name, content in zip(names, (corpus, queries, qrels), strict=True):
            (Path(folder) / name).write_bytes(content)
        found, why = outcome(load_beir, folder)
        if found is None:
            assert Path(folder).name in why
        else:
            assert len(found.queries) == len(found.relevant) > 0


@given(st.sampled_from(ENDINGS), noise)
def test_noise_is_read_or_refused(ending, content):
    check_noise(ending, content)


@given(texts)
def test_lines_of_text_are_as_they_are(content):
    check_lines(content)


@given(tables(), separators, quotings)
def test_tables_of_the_csv_module_are_as_they_are(table, separator, quoting):
    check_delimited(table, separator, quoting)


@given(records, st.booleans())
def test_json_rows_are_as_they_are(rows, array):
    check_json(rows, array)


@given(arrow_tables())
def test_parquet_is_as_it_is(columns):
    check_parquet(columns)


judgements = st.lists(
    st.sampled_from(["1", "0", "2.5", "-1", "q", "d", "Q0", "\t", " ", "\n", "é", "nan"]),
    max_size=20,
).map(lambda parts: "".join(parts).encode())
items = st.lists(
    st.sampled_from([b'{"_id": "q", "text": "a"}', b'{"_id": 1, "text": "d"}', b"{}", b"[", b"\n"]),
    min_size=1,
    max_size=4,
).map(b"\n".join)


@given(items, items, judgements)
def test_beir_folders_are_read_or_refused(corpus, queries, qrels):
    check_beir(corpus, queries, qrels)


@pytest.mark.slow
@settings(max_examples=1000)
@given(
    st.sampled_from(ENDINGS),
    noise,
    texts,
    tables(),
    separators,
    quotings,
    records,
    st.booleans(),
    arrow_tables(),
)
def test_a_thousand_random_files(
    ending, content, text, table, separator, quoting, rows, array, columns
):
    check_noise(ending, content)
    check_lines(text)
    check_delimited(table, separator, quoting)
    check_json(rows, array)
    check_parquet(columns)
