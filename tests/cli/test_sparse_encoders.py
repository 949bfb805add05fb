"""The commands with models of the class `SparseEncoder`: SPLADE of random weights."""

import json

import numpy as np
import pytest
from hub_stand_in import WRITER, HubStandIn, Repo
from huggingface_hub import constants, hf_api
from insight.test_page import content_of
from sentence_transformers import SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling

import csr_st
from csr_st import CodeStore, SparseCodes, SparseIndex

pytest.importorskip("numba")

TEXTS = [
    "the cat sat on the mat",
    "a dog ran in the house",
    "blue fish",
    "bird flew under the red tree",
    "sea",
    "fish",
]
QUERY = "blue fish in the sea"


@pytest.fixture
def folder(splade, tmp_path, monkeypatch):
    """The model in `splade`, texts in documents.jsonl, in the current folder."""
    assert isinstance(splade[1], SpladePooling)
    splade.save(str(tmp_path / "splade"), create_model_card=False)
    rows = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def encoded(folder, run):
    """And their codes in codes.safetensors."""
    options = ("--output", "codes.safetensors", "--role", "document")
    code, out, err = run("encode", "splade", "documents.jsonl", *options)
    assert code == 0, err
    assert "hidden_dim=24, normalized=False" in out
    return folder


@pytest.fixture
def refused(run):
    """Calls a command that has to fail, and returns its one line."""

    def call(*arguments):
        code, _, err = run(*arguments)
        assert code == 1
        [line] = [line for line in err.splitlines() if line.startswith("csr-st: error: ")]
        return line

    return call


def results(out):
    return [line.split("\t") for line in out.splitlines()]


def own_scores(model, queries=(QUERY,)):
    dense = {"convert_to_sparse_tensor": False}
    vectors = model.encode_query(list(queries), **dense), model.encode_document(TEXTS, **dense)
    return model.similarity(*vectors).numpy()


def test_encode_gives_the_codes_of_the_model(encoded, splade):
    codes = SparseCodes.load("codes.safetensors")
    expected = csr_st.encode(splade, TEXTS, role="document")
    np.testing.assert_allclose(codes.to_dense(), expected.to_dense(), rtol=1e-5)


def test_a_model_on_the_hub(folder, run, splade, monkeypatch):
    model = folder / "splade"
    files = {
        str(path.relative_to(model)): path.read_bytes()
        for path in model.rglob("*")
        if path.is_file()
    }
    with HubStandIn() as hub:
        hub.repos["org/splade"] = Repo()
        hub.repos["org/splade"].commit("main", files)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        code, _, err = run("encode", "org/splade", "documents.jsonl", "--output", "c.safetensors")
        assert code == 0, err
        line = run("encode", "org/none", "documents.jsonl", "--output", "d.safetensors")[2]
        assert "org/none is not a folder, and loading it from the Hub failed" in line
    expected = csr_st.encode(splade, TEXTS)
    found = SparseCodes.load("c.safetensors")
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), rtol=1e-5)


def test_encode_to_a_folder_of_shards(folder, run, splade):
    code, _, err = run("encode", "splade", "documents.jsonl", "--output", "codes", "--k", 5)
    assert code == 0, err
    expected = csr_st.encode(splade, TEXTS, k=5)
    found = CodeStore.open("codes").codes()
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), rtol=1e-5)


def test_search_ranks_as_the_model_does(encoded, run, splade):
    code, out, err = run("index", "codes.safetensors", "--output", "i.csr", "--model", "splade")
    assert code == 0, err
    assert "similarity='dot') without decoder in i.csr" in out
    code, out, err = run("search", "i.csr", "--model", "splade", "--top-k", 6, QUERY)
    assert code == 0, err
    assert "compares" not in err
    scores = own_scores(splade)[0]
    assert [int(row[2]) for row in results(out)] == np.argsort(-scores, kind="stable").tolist()
    found = [float(row[1]) for row in results(out)]
    np.testing.assert_allclose(found, -np.sort(-scores), atol=1e-4)


@pytest.mark.parametrize("value_bits", [4, 8])
def test_packed_codes(encoded, run, splade, value_bits):
    options = ("--output", "i.csr", "--model", "splade", "--value-bits", value_bits)
    assert run("index", "codes.safetensors", *options)[0] == 0
    index = SparseIndex.load("i.csr")
    assert (index.similarity, index.value_bits) == ("dot", value_bits)
    code, out, err = run("search", "i.csr", "--model", "splade", "--top-k", 6, QUERY)
    assert code == 0, err
    stored = SparseCodes.load("codes.safetensors").pack(value_bits).unpack()
    query = csr_st.encode(splade, [QUERY], role="query")
    scores = (query.to_scipy() @ stored.to_scipy().T).toarray()[0]
    found = [float(row[1]) for row in results(out)]
    np.testing.assert_allclose(found, -np.sort(-scores), atol=1e-3)


def test_an_index_by_another_similarity_is_searched_and_said(encoded, run):
    assert run("index", "codes.safetensors", "--output", "i.csr")[0] == 0
    assert SparseIndex.load("i.csr").similarity == "cosine"
    code, out, err = run("search", "i.csr", "--model", "splade", QUERY)
    assert code == 0
    assert "i.csr compares codes by cosine, splade by dot; for that, build it with csr-st" in err
    assert all(float(row[1]) <= 1.0001 for row in results(out))
    arguments = ("index", "codes.safetensors", "--output", "i.csr", "--similarity")
    assert run(*arguments, "cosine", "--model", "splade")[0] == 0
    assert SparseIndex.load("i.csr").similarity == "cosine"
    assert run(*arguments, "dot")[0] == 0
    assert SparseIndex.load("i.csr").similarity == "dot"


def test_a_model_whose_own_similarity_is_the_cosine(encoded, run, splade):
    splade.similarity_fn_name = "cosine"
    splade.save("by_cosine", create_model_card=False)
    assert run("index", "codes.safetensors", "--output", "i.csr", "--model", "by_cosine")[0] == 0
    assert SparseIndex.load("i.csr").similarity == "cosine"
    code, out, err = run("search", "i.csr", "--model", "by_cosine", "--top-k", 6, QUERY)
    assert code == 0
    assert "compares" not in err
    scores = own_scores(splade)[0]
    found = [float(row[1]) for row in results(out)]
    np.testing.assert_allclose(found, -np.sort(-scores), atol=1e-4)


def test_words_beside_codes(encoded, run, splade):
    pytest.importorskip("bm25s")
    options = ("--texts", "documents.jsonl", "--weight", 3, "--model", "splade")
    code, _, err = run("index", "codes.safetensors", "--output", "i.csr", *options)
    assert code == 0, err
    code, out, err = run("search", "i.csr", "--model", "splade", "--top-k", 6, QUERY)
    assert code == 0, err
    codes = csr_st.encode(splade, TEXTS, role="document")
    index = SparseIndex.build(codes, words=TEXTS, weight=3, similarity="dot")
    query = csr_st.encode(splade, [QUERY], role="query")
    expected = index.search(query, 6, words=[QUERY])
    found = [float(row[1]) for row in results(out)]
    np.testing.assert_allclose(found, expected.scores[0], atol=1e-3)
    assert found[0] > own_scores(splade).max()


def test_a_page_of_a_model_without_a_head(folder, run):
    code, _, err = run("explore", "splade", "documents.jsonl", "--k", 4)
    assert code == 0, err
    content = content_of(folder / "explorer.html")
    assert content["k"] == 4
    assert content["texts"] == TEXTS


def test_what_needs_a_head_says_why(encoded, refused):
    SparseIndex.build(SparseCodes.load("codes.safetensors"), similarity="dot").save("i.csr")
    line = refused("search", "i.csr", "--model", "splade", "--rescore", 3, QUERY)
    assert "--rescore ranks by dense vectors, and splade is a SparseEncoder without a" in line
    line = refused("evaluate", "splade", "documents.jsonl")
    assert "splade is a SparseEncoder without a SparseCSRHead: csr-st evaluate compares" in line
    line = refused("adapt", "splade", "documents.jsonl", "--output", "adapted")
    assert "splade is a SparseEncoder without a SparseCSRHead: there is no head to train" in line
    line = refused("convert", "splade", "--to", "native", "--output", "converted")
    assert "splade is a SparseEncoder without a SparseCSRHead: --to native converts a he" in line
    for option in ("--pursuit", "--residual-bits=1"):
        line = refused("encode", "splade", "documents.jsonl", "--output", "c.safetensors", option)
        assert "needs the decoder of a SparseCSRHead" in line
    line = refused("index", "codes.safetensors", "--output", "i.csr", "--similarity", "l2")
    assert "similarity='l2' is unknown; pass 'cosine' or 'dot'" in line


def test_unit_codes_are_not_taken_for_those_of_such_a_model(folder, model, refused):
    csr_st.encode(model, TEXTS).save("unit.safetensors")
    line = refused("index", "unit.safetensors", "--output", "i.csr", "--model", "splade")
    assert "the codes have unit norm, but similarity='dot' needs the values that" in line


def test_a_head_in_a_folder_of_this_class(saved, run, tmp_path, model):
    """`SparseEncoder` loads a model with a head, and may save it as its own."""
    SparseEncoder(saved, device="cpu").save(str(tmp_path / "own"), create_model_card=False)
    rows = [json.dumps({"text": f"{text} {number}"}) for text in TEXTS for number in range(3)]
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    code, _, err = run("encode", "own", "documents.jsonl", "--output", "c.safetensors", "--k", 4)
    assert code == 0, err
    code, out, err = run("index", "c.safetensors", "--output", "i.csr", "--model", "own")
    assert code == 0, err
    assert "SparseIndex(n=18, k=4, hidden_dim=64) with decoder in i.csr" in out
    code, out, err = run("search", "i.csr", "--model", "own", "--rescore", 9, "cat")
    assert code == 0, err
    assert len(results(out)) == 10
    code, out, err = run("evaluate", "own", "documents.jsonl")
    assert code == 0, err
