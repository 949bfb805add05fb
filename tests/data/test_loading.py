"""Data by name: files, folders, the Hub, and BEIR's form."""

from __future__ import annotations

import json

import datasets
import pytest

from csr_st.data import loading as data

ROWS = {"text": ["a cat", "the dog", "le château"], "label": [0, 1, 0]}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module", autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_files_of_every_kind_give_the_same_rows(tmp_path, ending, upper):
    path = tmp_path / (f"ROWS{ending.upper()}" if upper else f"rows{ending}")
    rows = datasets.Dataset.from_dict(ROWS)
    if ending == ".parquet":
        rows.to_parquet(path)
    elif ending in (".jsonl", ".json"):
        rows.to_json(path, force_ascii=False)
    else:
        rows.to_csv(path, sep="\t" if ending == ".tsv" else ",")
    loaded = data.load(str(path))
    assert data.column(loaded, "text") == ROWS["text"]
    assert data.column(loaded, None) == ROWS["text"]
    assert list(loaded["label"]) == ROWS["label"]


def test_text_file_is_one_item_a_line(tmp_path):
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    assert data.column(data.load(str(tmp_path / "lines.txt")), None) == ["one", "two"]


def test_saved_data_sets_with_and_without_splits(tmp_path):
    rows = datasets.Dataset.from_dict(ROWS)
    rows.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "split")
    assert data.load(str(tmp_path / "plain")).num_rows == 3
    assert data.column(data.load(str(tmp_path / "split"), "test"), None) == ["the dog"]
    with pytest.raises(ValueError, match=r"no split 'dev', only \['test', 'train'\]"):
        data.load(str(tmp_path / "split"), "dev")


def test_what_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "rows.pkl").write_bytes(b"\x80\x04.")
    (tmp_path / "rows.jsonl").write_text("{not json\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"missing\.csv does not exist"):
        data.load(str(tmp_path / "missing.csv"))
    with pytest.raises(FileNotFoundError, match=r"some/missing\.CSV does not exist"):
        data.load("some/missing.CSV")
    with pytest.raises(FileNotFoundError, match="word does not exist"):
        data.load("word")
    with pytest.raises(ValueError, match=r"'\.pkl' is not one of"):
        data.load(str(tmp_path / "rows.pkl"))
    with pytest.raises(ValueError, match=r"rows\.jsonl cannot be read as \.jsonl"):
        data.load(str(tmp_path / "rows.jsonl"))
    with pytest.raises(FileNotFoundError, match="empty holds no data set"):
        data.load(str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="org/absent is neither a file here nor"):
        data.load("org/absent")


def test_a_name_may_say_split_and_column(tmp_path):
    rows = datasets.Dataset.from_dict({"a": ["x", "y"], "b": ["v", "w"]})
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "split")
    loaded = data.load(f"{tmp_path}/split:split=test,column=b")
    assert data.column(loaded, None) == ["w"]
    with pytest.raises(ValueError, match=r"column 'c' is not among \['a', 'b'\]"):
        data.load(f"{tmp_path}/split:column=c")


def test_column_must_be_clear_and_complete():
    rows = datasets.Dataset.from_dict({"a": ["x", None], "b": ["y", "z"], "n": [1, 2]})
    with pytest.raises(ValueError, match=r"columns \['a', 'b'\] hold text; name the one"):
        data.column(rows, None)
    with pytest.raises(ValueError, match=r"'c' is not among \['a', 'b', 'n'\]"):
        data.column(rows, "c")
    with pytest.raises(ValueError, match="'a' is empty in row 1"):
        data.column(rows, "a")
    assert data.column(rows, "b") == ["y", "z"]


@pytest.fixture
def beir(tmp_path):
    """Two judged queries, one unjudged, and a judgement of a document that is not there."""

    def write(name, items):
        text = "\n".join(json.dumps(item) for item in items)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")

    write(
        "corpus.jsonl",
        [
            {"_id": "d1", "title": "Cats", "text": "They purr."},
            {"_id": "d2", "title": None, "text": "Dogs bark."},
            {"_id": 3, "text": "Fish swim."},
        ],
    )
    write("queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in (1, 2, 3)])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\t3\t1\nq3\td1\t1\nq3\tgone\t1\n"
    )
    return tmp_path


def test_beir_folder_gives_rows_and_gains(beir):
    assert data.is_beir(str(beir))
    judged = data.load_beir(str(beir))
    assert judged.documents == ["Cats They purr.", "Dogs bark.", "Fish swim."]
    assert judged.queries == ["query 1", "query 3"]
    assert judged.relevant == [{1: 2.0, 2: 1.0}, {0: 1.0}]


def test_qrels_without_a_line_of_names_lose_no_judgement(beir):
    (beir / "qrels.tsv").write_text("q2\td1\t1\n")
    assert data.load_beir(str(beir)).relevant == [{0: 1.0}]


QRELS = {
    "three columns": "q1{s}d2{s}2\nq1{s}3{s}1\nq3{s}d1{s}1\n",
    "TREC": "q1{s}0{s}d2{s}2\nq1{s}Q0{s}3{s}1\nq3{s}0{s}d1{s}1\n",
    "TREC, names": "query-id{s}iter{s}corpus-id{s}score\nq1{s}0{s}d2{s}2\nq1{s}0{s}3{s}1\n"
    "q3{s}0{s}d1{s}1\n",
    "names": "query-id{s}corpus-id{s}score\r\n\r\nq1{s}d2{s}2.0\r\nq1{s}3{s}1\r\nq3{s}d1{s}1\r\n",
    "mark": "\ufeffq1{s}d2{s}2\nq1{s}3{s}1\nq3{s}d1{s}1",
}


@pytest.mark.parametrize("separator", ["\t", " ", "  "])
@pytest.mark.parametrize("form", QRELS)
def test_qrels_of_three_and_four_columns(beir, form, separator):
    (beir / "qrels.tsv").write_text(QRELS[form].format(s=separator), "utf-8", newline="")
    assert data.load_beir(str(beir)).relevant == [{1: 2.0, 2: 1.0}, {0: 1.0}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("q1\td1\t1\nq1\t0\td2\t1\n", r"line 2: 'q1\\t0\\td2\\t1' is not query id, document"),
        ("q1 0 d1 1 0.5 run\n", r"line 1: 'q1 0 d1 1 0\.5 run' is not query id, document id and"),
        ("q1 d1\n", r"line 1: 'q1 d1' is not"),
        ("q1\td1\t1\nq1\td2\thigh\n", r"line 2: .* is not query id"),
        ("q1\td1\t1\nq1\td2\tnan\n", r"line 2: .* is not query id"),
        ("q1\td1\thigh\nq1\td2\t1\n", r"line 1: the gain 'high' is not a finite number"),
    ],
)
def test_other_qrels_are_refused_with_their_line(beir, content, words):
    (beir / "qrels.tsv").write_text(content)
    with pytest.raises(ValueError, match=rf"qrels\.tsv, {words}"):
        data.load_beir(str(beir))


def test_beir_folders_that_lack_a_piece(beir):
    queries = (beir / "queries.jsonl").read_text()
    (beir / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no queries\.jsonl, which BEIR's"):
        data.load_beir(str(beir))
    (beir / "queries.jsonl").write_text(queries + queries)
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 4 has the _id 'q1' of an earlier"):
        data.load_beir(str(beir))
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": null}\n')
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 1 is not a JSON object with _id"):
        data.load_beir(str(beir))


def test_damaged_beir_folders_name_file_and_line(beir):
    (beir / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1 d1 1\n")
    with pytest.raises(ValueError, match=r"qrels\.tsv, line 2: 'q1 d1 1' is not"):
        data.load_beir(str(beir))
    (beir / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq9\td1\t1\n")
    with pytest.raises(ValueError, match=r"no judgement in .* fits"):
        data.load_beir(str(beir))
    (beir / "queries.jsonl").write_text('{"_id": "q1", "text": "x"}\n{"id": "q2"}\n')
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2 is not a JSON object with _id"):
        data.load_beir(str(beir))
    (beir / "qrels.tsv").unlink()
    (beir / "qrels/test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither qrels\.tsv nor"):
        data.load_beir(str(beir))
