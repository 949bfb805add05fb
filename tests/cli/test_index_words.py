"""The commands index and search with texts: words beside codes."""

import json

import numpy as np
import pytest

import csr_st

pytest.importorskip("numba")
pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

TEXTS = ["the cat sat", "a dog ran", "blue fish swam"]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, model):
    """A model, codes and texts in the current folder."""
    monkeypatch.chdir(tmp_path)
    csr_st.save(model, tmp_path / "sparse")
    csr_st.encode(model, TEXTS, k=8).save(tmp_path / "codes")
    rows = [json.dumps({"name": "n", "body": text}) for text in TEXTS]
    (tmp_path / "documents.jsonl").write_text("\n".join(rows))
    (tmp_path / "one.txt").write_text("a text\n")


def results(out):
    return [line.split("\t") for line in out.splitlines()]


def test_search_uses_codes_and_words(run, model):
    code, out, err = run(
        "index", "codes", "--texts", "documents.jsonl", "--column", "body", "--output", "i.csr"
    )
    assert code == 0, err
    assert out == (
        "SparseIndex(n=3, k=8, hidden_dim=64, words='english') without decoder in i.csr\n"
    )
    query = csr_st.encode(model, ["fishes and cats"], k=32, role="query")
    index = csr_st.SparseIndex.build(csr_st.encode(model, TEXTS, k=8), words=TEXTS)
    for options, weight in [((), None), (("--weight", 2), 2), (("--weight", 0), 0)]:
        code, out, err = run("search", "i.csr", "--model", "sparse", "fishes and cats", *options)
        assert code == 0, err
        expected = index.search(query, 3, words=["fishes and cats"], weight=weight)
        assert [int(row[2]) for row in results(out)] == expected.ids[0].tolist()
        scores = [float(row[1]) for row in results(out)]
        np.testing.assert_allclose(scores, expected.scores[0], atol=6e-5)
    alone = index.search(query, 3)
    np.testing.assert_allclose(scores, alone.scores[0], atol=6e-5)  # of weight 0


def test_the_language_of_the_texts_is_an_option(run):
    arguments = ("index", "codes", "--texts", "documents.jsonl", "--column", "body")
    code, out, err = run(*arguments, "--language", "german", "--output", "i.csr")
    assert code == 0, err
    assert "words='german'" in out
    assert csr_st.SparseIndex.load("i.csr").language == "german"


def test_the_weight_of_the_words_is_saved_with_the_index(run):
    arguments = ("index", "codes", "--texts", "documents.jsonl", "--column", "body")
    for options, weight in (((), 0.15), (("--weight", 0.3), 0.3), (("--weight", 0), 0)):
        code, _, err = run(*arguments, *options, "--output", "i.csr")
        assert code == 0, err
        assert csr_st.SparseIndex.load("i.csr").weight == weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("index codes --output i --texts one.txt", "there are 1 texts for 3 documents"),
        ("index codes --output i --texts absent.jsonl", "absent.jsonl"),
        ("index codes --output i --texts codes", "codes is codes, where data are needed"),
        (
            "index codes --output i --texts documents.jsonl --column body --language klingon",
            "'klingon' is unknown",
        ),
        ("index codes --output i --language german", "--language german needs --texts"),
        ("index codes --output i --weight 1", "--weight 1.0 needs --texts"),
        ("index codes --output i --texts one.txt --weight 2e6", "weight=2000000.0 is not within"),
        ("search plain cat --model sparse --weight 1", "plain has none; build it with --texts"),
        ("search only cat --model sparse", "only has only words; search it in Python"),
        ("search split cat --model sparse", "were split by a function"),
    ],
)
def test_what_the_user_can_fix_is_one_line(run, model, arguments, message):
    codes = csr_st.encode(model, TEXTS, k=4)
    csr_st.SparseIndex.build(codes).save("plain")
    csr_st.SparseIndex.build(words=TEXTS).save("only")
    csr_st.SparseIndex.build(codes, words=TEXTS, language=str.split).save("split")
    code, out, err = run(*arguments.split())
    assert (code, out) == (1, "")
    assert message in err
    assert "Traceback" not in err
    assert "unexpected" not in err
