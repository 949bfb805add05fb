"""csr-st index --segments: an index in a folder, from codes in a file or a folder."""

import pytest

import csr_st

pytest.importorskip("numba")
TEXTS = [f"text {number}" for number in range(20)]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, model):
    """A model and codes in the current folder, in a file and in shards."""
    monkeypatch.chdir(tmp_path)
    csr_st.save(model, tmp_path / "sparse")
    csr_st.encode(model, TEXTS, k=8).save(tmp_path / "codes")
    csr_st.CodeStore.encode(model, TEXTS, "shards", k=8, shard_rows=7, show_progress=False)


@pytest.mark.parametrize("codes", ["codes", "shards"])
def test_a_folder_is_written_searched_and_changed(run, model, codes):
    code, out, err = run("index", codes, "--segments", "--output", "folder", "--model", "sparse")
    assert code == 0, err
    assert out == (
        "SegmentedIndex('folder', n=20, segments=1, k=8, hidden_dim=64) with decoder in folder\n"
    )
    code, _, err = run("index", codes, "--output", "file.csr", "--model", "sparse")
    assert code == 0, err
    for options in ((), ("--rescore", 10)):
        search = ("--model", "sparse", "text 3", *options)
        assert run("search", "folder", *search) == run("search", "file.csr", *search)
    with csr_st.SegmentedIndex.open("folder") as index:
        index.add(csr_st.encode(model, ["another one"], k=8), [77])
    code, out, err = run("search", "folder", "--model", "sparse", "another one", "--top-k", 21)
    assert code == 0, err
    assert {line.split("\t")[2] for line in out.splitlines()} == {*map(str, range(20)), "77"}


def test_what_does_not_go_with_a_folder_says_so(run):
    code, _, err = run("index", "codes", "--segments", "--output", "f", "--value-bits", 4)
    assert (code, err) == (
        1,
        "csr-st: error: --value-bits 4 packs a file; leave it or --segments out\n",
    )
    assert run("index", "codes", "--segments", "--output", "folder")[0] == 0
    code, _, err = run("index", "codes", "--segments", "--output", "folder")
    assert code == 1
    assert "folder has an index; open it with SegmentedIndex.open, or name a new folder" in err
    code, _, err = run("index", "folder", "--output", "other")
    assert code == 1
    assert "folder is an index, where codes are needed" in err
