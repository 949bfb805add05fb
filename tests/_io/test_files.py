"""Files that appear whole or not at all, headers of tensors, and bars without a terminal."""

import contextlib
import json
import resource

import numpy as np
import pytest

from csr_st._io.files import FileState, atomic_path, target_of_part, write_atomically
from csr_st._io.progress import progress
from csr_st._io.tensor_files import open_tensors, write_tensors


@contextlib.contextmanager
def no_room():
    """No file may grow beyond ten bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_write_that_fails_names_the_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    writers = [
        lambda: write_atomically(path, "x" * 1000),
        lambda: write_tensors(path, {"a": np.zeros(1000)}, {}),
    ]
    for write in writers:
        with no_room(), pytest.raises(OSError, match=r"cannot write .*state\.json: File too large"):
            write()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_another_file_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 250 + ".txt", "é" * 120, "a b", ".hidden", "[1]*"])
def test_any_name_that_the_system_takes_can_be_written(tmp_path, name):
    write_atomically(tmp_path / name, "whole")
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize(
    ("name", "named"),
    [("a.json", True), (".hidden", True), ("a\nb", True), ("x" * 250, False), ("é" * 120, False)],
)
def test_what_a_killed_writer_leaves_names_its_target(tmp_path, name, named):
    with atomic_path(tmp_path / name) as part:
        part.touch()
        assert target_of_part(part.name) == (name if named else None)
        assert len(part.name.encode()) <= 255
    assert target_of_part(name) is None


def test_the_state_of_a_file_follows_its_content(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "one")
    first = FileState.of(path)
    assert FileState.of(path) == first
    write_atomically(path, "two")
    assert FileState.of(path).inode != first.inode


F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**F32, "shape": [2, 3]}},
        {"a": {**F32, "shape": [-2, -2]}},
        {"a": {**F32, "shape": ["2", 2]}},
        {"a": {**F32, "shape": 4}},
        {"a": {**F32, "shape": [True, 4]}},
        {"a": {**F32, "shape": [2**62, 4]}},
        {"a": {**F32, "dtype": ["F32"]}},
        {"a": {**F32, "dtype": "F64"}},
        {"a": {**F32, "data_offsets": [16, 0]}},
        {"a": {**F32, "data_offsets": [0.0, 16.0]}},
        {"a": F32, "b": F32},
        {"a": [0, 16]},
        {"a": None},
        [],
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, header):
    content = json.dumps(header).encode()
    path = tmp_path / "v.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(16))
    with pytest.raises(ValueError, match=r"v\.safetensors"):
        open_tensors(path)


@pytest.mark.parametrize("closed", [False, True])
def test_a_process_without_standard_error_shows_no_bar(monkeypatch, tmp_path, closed):
    with (tmp_path / "log").open("w") as stream:
        pass
    monkeypatch.setattr("sys.stderr", stream if closed else None)
    for show in (None, True, False):
        with progress(3, "Working", "row", show) as bar:
            bar.update(3)
