"""Files given where another kind is expected: what each is, and the command that takes it."""

import pytest

import csr_st
from csr_st import CodeStore, EmbeddingStore, SparseIndex
from csr_st.cli.kinds import expect

pytest.importorskip("numba")


@pytest.fixture
def files(tmp_path, model, texts):
    """One of each kind, by its name."""
    codes = csr_st.encode(model, texts)
    codes.save(tmp_path / "a.codes")
    codes.pack().save(tmp_path / "packed.codes")
    SparseIndex.build(codes).save(tmp_path / "some.idx")
    CodeStore.encode(model, texts, tmp_path / "shards")
    EmbeddingStore.embed(csr_st.detach(model), texts, tmp_path / "store")
    model.save(str(tmp_path / "my-csr"), create_model_card=False)
    (tmp_path / "docs.jsonl").write_text('{"text": "sea"}\n')
    (tmp_path / "notes.bin").write_bytes(b"\0" * 40)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("some.idx", "codes", r"some.idx is an index, where codes are needed; .*csr-st search"),
        ("my-csr", "codes", r"my-csr is a model, .*csr-st encode .*my-csr DATA"),
        ("store", "codes", r"store is a store of vectors, .*csr-st encode MODEL"),
        ("docs.jsonl", "codes", r"docs.jsonl is data, .*csr-st encode MODEL .*docs.jsonl"),
        ("a.codes", "index", r"a.codes is codes, where an index is needed; .*csr-st index"),
        ("packed.codes", "index", r"packed.codes is codes, .*csr-st index"),
        ("shards", "index", r"shards is codes, .*csr-st index .*shards --output"),
        ("my-csr", "index", "my-csr is a model"),
        ("some.idx", "model", "some.idx is an index, where a model is needed"),
        ("a.codes", "model", "a.codes is codes"),
        ("some.idx", "data", "some.idx is an index, where data are needed"),
    ],
)
def test_another_kind_is_named_with_its_command(files, name, wanted, message):
    with pytest.raises(ValueError, match=message):
        expect(files / name, wanted)


def test_the_right_kind_and_the_unknown_pass(files):
    for name, wanted in {"a.codes": "codes", "shards": "codes", "my-csr": "model"}.items():
        expect(files / name, wanted)
    for wanted in ("codes", "index", "model", "data"):
        expect(files / "notes.bin", wanted)
    with pytest.raises(FileNotFoundError, match="nothing does not exist"):
        expect(files / "nothing", "codes")


def test_commands_refuse_another_kind_in_one_line(run, files):
    code, _, error = run("index", files / "some.idx", "--output", files / "new.idx")
    assert code == 1
    assert error.count("\n") == 1
    assert "some.idx is an index, where codes are needed" in error
    assert not (files / "new.idx").exists()
    calls = [
        (["search", files / "a.codes", "sea", "--model", files / "my-csr"], "is codes"),
        (["search", files / "some.idx", "sea", "--model", files / "a.codes"], "is codes"),
        (["encode", files / "my-csr", files / "some.idx", "--output", files / "x"], "is an index"),
        (["encode", files / "some.idx", files / "docs.jsonl", "--output", "x"], "is an index"),
        (
            ["index", files / "a.codes", "--ids", files / "some.idx", "--output", "x"],
            "some.idx, line 1 is not UTF-8",
        ),
    ]
    for arguments, message in calls:
        code, _, error = run(*arguments)
        assert (code, error.count("\n")) == (1, 1)
        assert message in error


def test_an_index_given_an_id_that_no_file_can_hold_writes_nothing(run, files):
    (files / "ids.txt").write_bytes(b"a\nb\n\xff\nd\ne\n")
    command = ["index", files / "a.codes", "--ids", files / "ids.txt", "--output", files / "new"]
    code, _, error = run(*command)
    assert code == 1
    assert "ids.txt, line 3 is not UTF-8" in error
    assert not (files / "new").exists()
