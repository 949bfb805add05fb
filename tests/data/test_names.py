"""Which files a name stands for, and what is read anew."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from csr_st.data import load


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return path


def texts_of(source, **options):
    return list(load(source, **options)["text"])


@pytest.mark.parametrize("name", ["data[1].jsonl", "data*.jsonl", "data?.jsonl", "[!a].jsonl"])
def test_a_path_is_a_name_and_not_a_pattern(tmp_path, name):
    for other in ("data1.jsonl", "data2.jsonl", "b.jsonl"):
        write(tmp_path / other, ["another file"])
    write(tmp_path / name, ["its own row"])
    assert texts_of(str(tmp_path / name)) == ["its own row"]


def test_a_pattern_counts_where_there_is_no_such_file(tmp_path):
    write(tmp_path / "part-1.jsonl", ["a"])
    write(tmp_path / "part-2.jsonl", ["b"])
    write(tmp_path / "other.jsonl", ["c"])
    assert texts_of(str(tmp_path / "part-*.jsonl")) == ["a", "b"]
    with pytest.raises(FileNotFoundError, match=r"data7\*\.jsonl does not exist.*no file"):
        load(str(tmp_path / "data7*.jsonl"))
    for name in ("part-[2].jsonl", "[op]*-1.jsonl"):  # never other files than those of the name
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load(str(tmp_path / name))


@pytest.mark.parametrize("name", ["two words.jsonl", "étude文.jsonl", "a,b;c.jsonl", "C:\\x.jsonl"])
def test_odd_names_and_path_objects(tmp_path, name):
    path = write(tmp_path / name, ["x"])
    assert texts_of(path) == texts_of(str(path)) == ["x"]


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "rows.jsonl", ["x"])
    assert texts_of("~/rows.jsonl") == ["x"]


@pytest.mark.parametrize(
    "name", ["", "C:\\data\\rows.csv", "a/b/c", "a\0b.csv", "x" * 5000 + ".csv", "data\\rows"]
)
def test_names_of_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(name)


def test_a_broken_link_names_its_target(tmp_path):
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(FileNotFoundError, match=r"rows\.jsonl is a link to .*gone\.jsonl, which"):
        load(str(tmp_path / "rows.jsonl"))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", ["x"])
    path.chmod(0)
    with pytest.raises(ValueError, match=r"rows\.jsonl cannot be read .*Permission denied"):
        load(str(path))


def test_a_replaced_file_is_read_anew(tmp_path):
    """Also with the size and time of the file before."""
    path = write(tmp_path / "rows.jsonl", ["one", "two"])
    before, time = load(path), path.stat().st_mtime_ns
    write(path, ["six", "ten"])
    os.utime(path, ns=(time, time))
    after = load(path)
    assert list(after["text"]) == ["six", "ten"]
    assert list(before["text"]) == ["one", "two"]
    assert before._fingerprint != after._fingerprint
    write(tmp_path / "copy.jsonl", ["six", "ten"])
    assert load(tmp_path / "copy.jsonl")._fingerprint == after._fingerprint


def test_a_folder_of_shards_in_order(tmp_path):
    for number in (2, 0, 1):
        write(tmp_path / f"part-{number}.jsonl", [f"row {number}"])
    write(tmp_path / ".hidden.jsonl", ["hidden"])
    (tmp_path / "LICENSE").write_text("words")
    assert texts_of(tmp_path) == ["row 0", "row 1", "row 2"]


def test_a_folder_of_files_named_for_their_splits(tmp_path):
    for name in ("train-00000.jsonl", "train-00001.jsonl", "test.jsonl", "dev_a.jsonl"):
        write(tmp_path / name, [name])
    assert texts_of(tmp_path) == ["train-00000.jsonl", "train-00001.jsonl"]
    assert texts_of(tmp_path, split="test") == ["test.jsonl"]
    assert texts_of(tmp_path, split="validation") == ["dev_a.jsonl"]
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no files of split 'test', only of \['train', 'valid"):
        load(tmp_path, split="test")


def test_folders_that_hold_something_else(tmp_path):
    write(tmp_path / "a.jsonl", ["x"])
    (tmp_path / "b.csv").write_text("text\nx\n")
    with pytest.raises(ValueError, match=r"several kinds: \.csv, \.jsonl; pass a pattern"):
        load(tmp_path)
    for name in ("a.jsonl", "b.csv"):
        (tmp_path / name).unlink()
    write(tmp_path / "corpus.jsonl", ["x"])
    with pytest.raises(ValueError, match=r"folder in BEIR's format, with corpus\.jsonl; pass the"):
        load(tmp_path)


def test_shards_of_other_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,x\n")
    (tmp_path / "b.csv").write_text("id,body\n2,y\n")
    with pytest.raises(ValueError, match=r"b\.csv has the columns \['id', 'body'\].*a\.csv"):
        load(tmp_path)
    (tmp_path / "b.csv").write_text("text,id\ny,two\n")
    rows = load(tmp_path)
    assert list(rows["text"]) == ["x", "y"]


def from_stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input(monkeypatch):
    from_stdin(monkeypatch, b'{"text": "a"}\n{"text": "b"}\n')
    assert texts_of("-") == ["a", "b"]
    from_stdin(monkeypatch, b"one line\nanother, of text\n")
    assert texts_of("-") == ["one line", "another, of text"]
    from_stdin(monkeypatch, b"id;text\n1;a b\n")
    assert texts_of("-.csv") == ["a b"]
    from_stdin(monkeypatch, b"id,text\n1,a b\n")
    with pytest.raises(ValueError, match=r"looks like a table.*'id,text'; pass -\.csv instead"):
        load("-")
    from_stdin(monkeypatch, b"")
    with pytest.raises(ValueError, match="standard input is empty"):
        load("-")


@pytest.mark.skipif(os.name != "posix", reason="pipes have no name")
def test_a_pipe_is_read_once(tmp_path):
    read, written = os.pipe()
    os.write(written, b'{"text": "through a pipe"}\n')
    os.close(written)
    assert texts_of(f"/dev/fd/{read}") == ["through a pipe"]
    os.close(read)


def test_saved_data_sets_that_are_damaged(tmp_path):
    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(tmp_path / "saved")
    for file in Path(tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(ValueError, match="saved cannot be read as a saved data set"):
        load(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(ValueError, match="saved cannot be read as a saved data set"):
        load(tmp_path / "saved")


def test_shards_come_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        write(tmp_path / f"part-{number}.jsonl", [f"row {number}"])
    for name in (tmp_path, tmp_path / "part-*.jsonl"):
        assert texts_of(str(name)) == ["row 1", "row 2", "row 10"]


def test_lz4_is_read(tmp_path):
    path = tmp_path / "rows.jsonl.lz4"
    with pa.output_stream(str(path), compression="lz4") as file:
        file.write(b'{"text": "sea"}\n')
    assert texts_of(path) == ["sea"]
