"""Tables and lines of text: every row is read as it is, or refused in one line that says why."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest

from csr_st.data import column, load
from csr_st.data.delimited import read_delimited
from csr_st.data.header import has_header


def table(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load(path).to_dict()


def test_a_tsv_quote_that_is_not_closed_stands_for_itself(tmp_path):
    path = tmp_path / "rows.tsv"
    found = table(path, 'id\ttext\n1\t"open\n2\tnext\n3\tlast\n')
    assert found == {"id": [1, 2, 3], "text": ['"open', "next", "last"]}
    # One that opens, and another rows later
    found = table(path, 'id\ttext\n1\t"Hi, he said\n2\tshe said "bye"\n3\tlast\n')
    assert found["text"] == ['"Hi, he said', 'she said "bye"', "last"]
    with pytest.raises(ValueError, match=r"rows\.tsv: from line 2 on a quote joins lines.*jsonl"):
        table(path, 'id\ttext\n1\t"open\n2\tnext\n3\tclosed"\n')


def test_quoted_fields_of_other_programs(tmp_path):
    rows = {"id": [1, 2, 3], "text": ['say "hi"', "two\nlines, or three", "a\tb;c,d"]}
    for ending, separator in ((".csv", ","), (".tsv", "\t"), (".csv", ";"), (".csv", "|")):
        path = tmp_path / f"rows{ending}"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerows([rows, *zip(*rows.values(), strict=True)])
        assert load(path).to_dict() == rows, separator


def test_csv_quotes_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    with pytest.raises(ValueError, match=r"rows\.csv cannot be read as \.csv: .*line 2 on has a"):
        table(path, 'id,text\n1,"open, and more\n2,next\n')
    with pytest.raises(ValueError, match=r"rows\.csv: from line 2 on a quote joins lines"):
        table(path, 'id,text\n1,"open\n2,next\n3,closed"\n')


def test_csv_quotes_that_join_lines_are_told(tmp_path, caplog):
    found = table(tmp_path / "rows.csv", 'text,label\n"Hello,a\nfoo,b\nbye",c\n')
    assert found == {"text": ["Hello,a\nfoo,b\nbye"], "label": ["c"]}
    assert "rows.csv: from line 2 on a quote joins lines" in caplog.text


def test_headerless_tables_keep_their_first_row(tmp_path, caplog):
    path = tmp_path / "rows.tsv"
    found = table(path, "pos\ta good film\nneg\ta bad film\npos\tnice\n")
    assert found == {
        "column_1": ["pos", "neg", "pos"],
        "column_2": ["a good film", "a bad film", "nice"],
    }
    assert "has no line of names; its columns are column_1, column_2" in caplog.text
    found = table(path, "5.000\tA plane\tAn air plane\n3.800\tA man\tA person\n")
    assert found["column_1"] == [5.0, 3.8]
    found = table(path, "text\tsend a text message to my mother\ndate\twhat day is it\n")
    assert len(found["column_1"]) == 2
    found = table(tmp_path / "one.csv", "a first sentence of six words\nanother\n")
    assert found == {"text": ["a first sentence of six words", "another"]}


def test_a_first_line_that_may_be_either_is_refused_until_a_column_is_named(tmp_path):
    path = tmp_path / "rows.csv"
    with pytest.raises(ValueError, match=r"rows\.csv: its first line, \['foo', 'bar'\], may be"):
        table(path, "foo,bar\nx,y\n")
    assert load(path, columns=["bar"]).to_dict() == {"foo": ["x"], "bar": ["y"]}
    with pytest.raises(ValueError, match=r"its only line, \['foo', 'bar'\], may be names"):
        table(path, "foo,bar\n")


@pytest.mark.parametrize(
    ("first", "rows", "expected"),
    [
        (["frage", "zahl"], [["x", "1"], ["y", "2"]], True),  # a word over numbers
        (["0", "1"], [["0.5", "0.25"]], True),  # pandas' own names
        (["0.1", "0.9"], [["0.5", "0.25"]], False),
        (["utterance_x", "klasse"], [[f"t{i}", "ab"[i % 2]] for i in range(40)], True),
        (["ansage"], [["a text of more than thirty characters in all"]], True),
        (["label", "text"], [["label", "text"]], True),
    ],
)
def test_what_tells_names_from_data(first, rows, expected):
    columns = [pa.chunked_array([list(values)]) for values in zip(*rows, strict=True)]
    assert has_header(first, columns, ()) is expected


def test_semicolons_and_excels_own_line(tmp_path):
    path = tmp_path / "rows.csv"
    assert table(path, "id;text\n1;Hello, world\n2;b\n")["text"] == ["Hello, world", "b"]
    assert table(path, "sep=;\nid;text\n1;a\n2;b\n")["id"] == [1, 2]
    assert table(path, "\ufeffid;text\r\n1;a\r\n")["id"] == [1]
    assert table(path, "text\nHello; world\nbye; all\n")["text"] == ["Hello; world", "bye; all"]
    with pytest.raises(ValueError, match=r"no tab in its first line, 'id,text'; name it \.csv"):
        table(tmp_path / "rows.tsv", "id,text\n1,a\n")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv", ".jsonl", ".json"])
def test_byte_order_marks_are_left_out(tmp_path, encoding, ending):
    content = {".txt": "é\nb\n", ".jsonl": '{"text": "é"}\n{"text": "b"}\n'}
    content[".json"] = '[{"text": "é"}, {"text": "b"}]'
    path = tmp_path / f"rows{ending}"
    path.write_bytes(content.get(ending, "text\né\nb\n").encode(encoding))
    assert load(path).to_dict() == {"text": ["é", "b"]}


def test_other_encodings_name_file_line_and_fix(tmp_path):
    path = tmp_path / "rows.txt"
    with pytest.raises(ValueError, match=r"rows\.txt, line 2 is not UTF-8: .*iconv -f latin1"):
        table(path, b"plain\ncaf\xe9\n")
    with pytest.raises(ValueError, match=r"rows\.txt, line 1 has a NUL byte.*UTF-16"):
        table(path, "plain\nlines\n".encode("utf-16-le"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_ends_of_lines(tmp_path, end):
    lines = ["text", "a\u2028b\x0b\x85", "c"]
    for ending in (".csv", ".txt"):
        content = end.join(lines[ending == ".txt" :])
        assert table(tmp_path / f"rows{ending}", content) == {"text": lines[1:]}
        assert table(tmp_path / f"rows{ending}", content + end) == {"text": lines[1:]}


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A", "NULL", "#N/A", "-"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_only_an_empty_field_is_missing(tmp_path, word, ending):
    separator = "\t" if ending == ".tsv" else ","
    lines = ["text,label", f"{word},{word}", "a,", "b,x"]
    found = table(tmp_path / f"rows{ending}", "\n".join(lines).replace(",", separator))
    assert found == {"text": [word, "a", "b"], "label": [word, None, "x"]}


def test_numbers_are_numbers_only_where_no_text_gets_lost(tmp_path):
    content = "text,a,b,c,d,e,f\nx,1,01,1,1.5,-1,99999999999999999999\ny,2,02,1.0,2,+1,1\n"
    found = table(tmp_path / "rows.csv", content)
    assert found["a"] == [1, 2]
    assert found["b"] == ["01", "02"]
    assert found["c"] == ["1", "1.0"]
    assert found["d"] == [1.5, 2.0]
    assert found["e"] == ["-1", "+1"]
    assert found["f"] == ["99999999999999999999", "1"]
    assert table(tmp_path / "gap.csv", "text,y\na,1\nb,2\nc,\n")["y"] == [1, 2, None]


def test_ragged_rows(tmp_path):
    path = tmp_path / "rows.csv"
    assert table(path, "text,label\na,x\nb\nc,y\n")["label"] == ["x", None, "y"]
    with pytest.raises(ValueError, match=r"cannot be read as \.csv: line 3 has 3 fields"):
        table(path, "text,label\na,x\nb,c,y\n")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.csv", "", "is empty; it must have at least one row"),
        ("rows.csv", "\n\r\n\n", "has only blank lines"),
        ("rows.txt", "\n \n", "has only blank lines"),
        ("rows.jsonl", "\n\n", "has no rows"),
        ("rows.json", "[]", "has no rows"),
        ("rows.csv", "id,text\n", r"has the columns \['id', 'text'\] and no rows"),
        ("rows.tsv", "id\ttext", r"has the columns \['id', 'text'\] and no rows"),
        ("rows.csv", "text,text\na,b\n", "has two columns 'text'; rename one"),
        ("rows.jsonl", '{"text": "a"}\n["b"]\n', r"line 2 is \['b'\] \(list\); each row must be"),
        ("rows.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("rows.jsonl", "3\n", r"line 1 is 3 \(int\)"),
        ("rows.jsonl", '{"text": "\\ud800"}\n', "line 1 has half of a surrogate pair"),
        ("rows.json", '[{"text": "a"}, 3]', r"entry 1 is 3 \(int\)"),
        ("rows.jsonl", "{}\n{}\n", "rows without any column"),
        ("rows.parquet", "no parquet", r"cannot be read as \.parquet"),
        ("rows.jsonl", "version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        ("rows.parquet", "version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
        ("rows.xlsx", "x", "save the sheet as CSV"),
        ("rows.csv", b"PK\x03\x04....", "is a zip or Excel file: unpack it, or save"),
        ("rows.zip", "x", "unpack it"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, words):
    with pytest.raises(ValueError, match=words):
        table(tmp_path / name, content)


def test_columns_with_odd_names(tmp_path):
    found = table(tmp_path / "rows.csv", ",the text, label\n0,a,x\n1,b,y\n")
    assert list(found) == ["column_1", "the text", "label"]


def test_long_fields_and_many_rows(tmp_path):
    long = "word " * 200_000
    found = table(tmp_path / "rows.csv", f"text,label\n{long},x\nb,y\n")
    assert found["text"][0] == long
    rows = "".join(f"{i},text {i}\n" for i in range(25_001))
    assert table(tmp_path / "many.csv", "id,text\n" + rows)["id"] == list(range(25_001))


def test_json_of_every_form(tmp_path):
    expected = {"text": ["a", "b"]}
    assert table(tmp_path / "a.json", '[{"text": "a"},\n {"text": "b"}]') == expected
    assert table(tmp_path / "b.json", '{"text": "a"}\n{"text": "b"}') == expected
    assert table(tmp_path / "c.jsonl", '[{"text": "a"}, {"text": "b"}]') == expected
    assert table(tmp_path / "d.json", '{\n  "text": "a"\n}') == {"text": ["a"]}
    assert table(tmp_path / "e.json", '["a", "b"]') == expected
    assert table(tmp_path / "f.ndjson", '{"text": "a"}\n\n{"text": "b"}') == expected


def test_json_rows_with_other_keys_types_and_nested_values(tmp_path):
    content = """{"text": "2024-01-01", "n": 1, "meta": {"a": 1}, "mixed": 1}
        {"text": "None", "n": 2.5, "meta": {"b": [1, 2]}, "mixed": "x", "late": true}
        {"text": null, "n": null, "meta": null, "mixed": {"y": 1}}"""
    rows = load(save(tmp_path / "rows.jsonl", content))
    assert list(rows["text"]) == ["2024-01-01", "None", None]
    assert list(rows["n"]) == [1.0, 2.5, None]
    assert list(rows["mixed"]) == [1, "x", {"y": 1}]
    assert list(rows["late"]) == [None, True, None]
    assert rows[1]["meta"]["b"] == [1, 2]


def test_json_columns_that_change_type_late(tmp_path):
    lines = ['{"id": 1, "text": "a"}'] * 10_001 + ['{"id": "x", "text": "b"}']
    rows = load(save(tmp_path / "rows.jsonl", "\n".join(lines)))
    assert rows[0] == {"id": 1, "text": "a"}
    assert rows[10_001] == {"id": "x", "text": "b"}


def save(path, content):
    path.write_text(content, "utf-8")
    return path


def write_parquet(path, **columns):
    pa.parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_parquet_has_text_of_every_type(tmp_path, kind):
    texts = pa.array(["a", "b", "a"]).cast(kind)
    rows = load(write_parquet(tmp_path / "rows.parquet", words=texts, n=[1, 2, 3]))
    assert column(rows, None) == ["a", "b", "a"]


OPENERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
OPENERS[".zst"] = lambda content: pa.compress(content, "zstd", asbytes=True)


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("ending", [".csv", ".TSV", ".txt", ".jsonl", ".parquet"])
def test_compressed_files(tmp_path, ending, compression):
    contents = {".jsonl": '{"text": "a"}\n{"text": "b"}\n', ".txt": "a\nb\n"}
    content = contents.get(ending, "text\na\nb\n").encode()
    if ending == ".parquet":
        content = write_parquet(tmp_path / "plain", text=["a", "b"]).read_bytes()
    packed = OPENERS[compression](content)
    path = tmp_path / f"rows{ending}{compression}"
    assert table(path, packed) == {"text": ["a", "b"]}
    with pytest.raises(ValueError, match=rf"rows\{ending}\{compression} cannot be read as"):
        table(path, packed[:-4])
    if ending == ".txt":  # several members, as `cat a.gz b.gz` and pbzip2 write
        assert table(path, packed + packed) == {"text": ["a", "b", "a", "b"]}
    if ending != ".parquet":  # the name does not say it, or says it wrongly
        assert table(tmp_path / f"packed{ending}", packed) == {"text": ["a", "b"]}
        assert table(path, content) == {"text": ["a", "b"]}


def test_one_rule_for_the_column_that_is_embedded(tmp_path):
    rows = load(save(tmp_path / "rows.csv", "id,title,text\nd1,T,a\nd2,U,b\n"))
    assert column(rows, None) == ["a", "b"]
    others = {
        "n": [1],
        "when": [datetime.date(2024, 1, 1)],
        "tags": [["a"]],
        "meta": [{"a": 1}],
        "empty": pa.nulls(1),
    }
    rows = load(write_parquet(tmp_path / "rows.parquet", **others))
    with pytest.raises(ValueError, match=r"no column holds text or images; .* n \(int64\), when"):
        column(rows, None)
    for name, kind in (("n", "int64"), ("when", "date32"), ("empty", "null")):
        with pytest.raises(ValueError, match=rf"column '{name}' holds {kind}, not text or images"):
            column(rows, name)


def test_real_files_of_labels_and_texts_are_seen_as_headerless_from_any_row(tmp_path):
    labels = ["greeting", "date", "text", "play_music", "card"]
    rows = [(labels[i % 5], f"some words about {labels[i % 5]} {i}") for i in range(40)]
    for begin in range(0, 40, 7):
        moved = [*rows[begin:], *rows[:begin]]
        path = save(tmp_path / "rows.tsv", "".join(f"{a}\t{b}\n" for a, b in moved))
        assert len(read_delimited(path)) == 40
