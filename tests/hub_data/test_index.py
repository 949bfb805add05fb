"""An index on the Hub, and the command that publishes codes and indexes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hub_stand_in import READER

import csr_st
from csr_st import CodeStore, SegmentedIndex, SparseIndex

pytest.importorskip("numba")
REPO = "someone/index"
ON_HUB = f"datasets/{REPO}"
# huggingface_hub itself passes its uploads in a way that its HTTP client deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def codes(model, texts):
    return csr_st.encode(model, texts, k=4)


@pytest.fixture
def index(codes, head):
    ids = ["a", "b", "c", "d", "e"]
    return SparseIndex.build(codes.pack(), ids, decoder=csr_st.Decoder.from_head(head))


def test_an_index_comes_back_from_the_hub(hub, index, model, texts):
    index.remove(["b"])
    url = index.push_to_hub(REPO, model="org/my-csr", model_revision="v1")
    assert url.startswith(f"{hub.url}/{ON_HUB}/commit/")
    loaded = SparseIndex.load_from_hub(REPO)
    assert loaded.ids.tolist() == ["a", "c", "d", "e"]
    queries = csr_st.encode(model, texts, k=16)
    dense = csr_st.encode_dense(model, texts)
    options = {"top_k": 3, "rescore": 4, "queries_dense": dense}
    expected, found = (each.search(queries, **options) for each in (index, loaded))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_the_model_is_in_it(hub, index):
    index.push_to_hub(REPO, model="org/my-csr", model_revision="v1")
    about = json.loads(hub.files(ON_HUB)["csr_index.json"])
    assert about["model"] == {"id": "org/my-csr", "revision": "v1", "weights": None}
    assert [about[name] for name in ("n", "k", "hidden_dim", "value_bits")] == [5, 4, 64, 4]
    assert about["bytes"] == len(hub.files(ON_HUB)["index.csr"])
    card = hub.files(ON_HUB)["README.md"].decode()
    assert "[org/my-csr](https://huggingface.co/org/my-csr), revision v1" in card
    assert f'SparseIndex.load_from_hub("{REPO}")' in card
    with pytest.raises(ValueError, match="model_revision='v1' needs model="):
        index.push_to_hub(REPO, model_revision="v1")


def test_an_index_with_words_comes_back(hub, codes, texts):
    pytest.importorskip("Stemmer")
    SparseIndex.build(codes, words=texts, language="german").push_to_hub(REPO, private=True)
    loaded = SparseIndex.load_from_hub(REPO, token=READER)
    assert loaded.language == "german"
    assert loaded.search(words=["sea"], top_k=1).ids[0, 0] == 4


def test_an_index_in_a_folder_goes_to_the_hub_and_comes_back(hub, index, model, texts, tmp_path):
    codes = csr_st.encode(model, texts, k=4)
    folder = SegmentedIndex.create(tmp_path / "one", codes, list("abcde"), index.decoder)
    folder.add(csr_st.encode(model, ["a text of its own"], k=4), ["f"])
    folder.remove(["b"])
    folder.push_to_hub(REPO)
    assert b"yes" in hub.files(ON_HUB)["README.md"]  # has a decoder
    loaded = SparseIndex.load_from_hub(REPO)
    other = SegmentedIndex.load_from_hub(REPO, tmp_path / "two")
    queries = csr_st.encode(model, texts, k=16)
    options = {"rescore": 5, "queries_dense": csr_st.encode_dense(model, texts), "top_k": 5}
    expected = folder.search(queries, **options)
    for found in (loaded, other):
        assert found.ids.tolist() == list("acdef")
        for array, wanted in zip(found.search(queries, **options), expected, strict=True):
            np.testing.assert_array_equal(array, wanted)
    other.add(codes[:1], ["new"])
    assert len(SegmentedIndex.open(tmp_path / "two")) == 6
    n_requests = len(hub.requests)
    with pytest.raises(FileExistsError, match=r"has an index; open it with SegmentedIndex\.open"):
        SegmentedIndex.load_from_hub(REPO, tmp_path / "two")
    assert len(hub.requests) == n_requests


def test_an_altered_index_is_refused(hub, index):
    index.push_to_hub(REPO)
    files = hub.files(ON_HUB)
    altered = files["index.csr"][:-1] + b"\x99"
    hub.repos[ON_HUB].commit("main", {**files, "index.csr": altered})
    with pytest.raises(ValueError, match=r"index\.csr of someone/index is altered: its SHA-256"):
        SparseIndex.load_from_hub(REPO)
    about = json.loads(files["csr_index.json"])
    for sha, words in ((3, "damaged: sha256 is 3"), (None, "damaged: sha256 is None")):
        content = json.dumps({**about, "sha256": sha}).encode()
        hub.repos[ON_HUB].commit("main", {**files, "csr_index.json": content})
        with pytest.raises(ValueError, match=words):
            SparseIndex.load_from_hub(REPO)
    hub.repos[ON_HUB].commit("main", {"README.md": b""})
    with pytest.raises(ValueError, match=r"no csr_index\.json; SparseIndex\.push_to_hub writes"):
        SparseIndex.load_from_hub(REPO)


def test_an_index_whose_checksums_lie_together_is_still_read_with_care(hub, index):
    """Who can write the file can write its SHA-256 too: the file's own checks remain."""
    import hashlib

    index.push_to_hub(REPO)
    files = hub.files(ON_HUB)
    altered = files["index.csr"][:-1] + b"\x99"
    about = json.loads(files["csr_index.json"])
    about["sha256"] = hashlib.sha256(altered).hexdigest()
    content = {"index.csr": altered, "csr_index.json": json.dumps(about).encode()}
    hub.repos[ON_HUB].commit("main", {**files, **content})
    with pytest.raises(ValueError, match="is altered: its checksum is"):
        SparseIndex.load_from_hub(REPO)


def test_push_recognises_codes_and_indexes(hub, run, index, model, texts, tmp_path):
    CodeStore.encode(model, texts, tmp_path / "codes", k=4)
    index.save(tmp_path / "documents.index")
    model.save(str(tmp_path / "my-csr"))
    code, out, err = run("push", "codes", "someone/codes", "--model", "org/my-csr", "--private")
    assert (code, err.splitlines()[-1:]) == (0, err.splitlines()[-1:])
    assert "/datasets/someone/codes/commit/" in out
    assert hub.repos["datasets/someone/codes"].private
    about = json.loads(hub.files("datasets/someone/codes")["csr_codes.json"])
    assert about["model"]["id"] == "org/my-csr"
    code, out, _ = run("push", "documents.index", REPO, "--revision", "next")
    assert code == 0
    assert "index.csr" in hub.files(ON_HUB, "next")
    SegmentedIndex.from_index(tmp_path / "documents", index)
    code, out, _ = run("push", "documents", REPO, "--model", "org/my-csr")
    assert code == 0
    assert json.loads(hub.files(ON_HUB)["csr_index.json"])["n"] == 5
    code, out, _ = run("push", "my-csr", "someone/model")
    assert code == 0
    assert "modules.json" in hub.files("someone/model")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["codes", "org/x", "--page"], "--page is for a model, and codes is none; leave it out"),
        (["documents.index", "org/x", "--names", "n"], "--names is for a model"),
        (["my-csr", "org/x", "--model", "org/y"], "--model is for codes or an index, and my-csr"),
        (
            ["codes.safetensors", "org/x"],
            "is one file of codes, and codes are pushed from a folder",
        ),
    ],
)
def test_options_of_another_kind_are_refused(
    hub, run, index, codes, model, texts, arguments, words
):
    CodeStore.encode(model, texts, "codes", k=4)
    index.save("documents.index")
    codes.save("codes.safetensors")
    model.save("my-csr")
    code, _, err = run("push", *arguments)
    assert code == 1
    assert words in err
    assert not hub.requests
