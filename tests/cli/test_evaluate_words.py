"""The command evaluate with words, and the weight that judged queries choose."""

import json
import re

import pytest

import csr_st
from csr_st.evaluation import Evaluation, Texts
from csr_st.evaluation.held_out import evaluate_model

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

NAMES = [f"{a}{b}" for a in "bcdfgh" for b in ("anana", "elong", "ilver", "otato")]
DOCUMENTS = [f"the {name} sat" for name in NAMES]
RELEVANT = [{i: 1.0} for i in range(24)]


def beir(folder, queries):
    folder.mkdir()
    for name, texts in (("corpus", DOCUMENTS), ("queries", queries)):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judged = [f"q{i}\tc{i}\t1" for i in range(len(queries))]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path, model):
    """A model without figures, and sets of 24 and 9 judged queries, in the current folder."""
    monkeypatch.chdir(tmp_path)
    csr_st.save(model, tmp_path / "sparse")
    beir(tmp_path / "set", [f"a {name}" for name in NAMES])
    beir(tmp_path / "small", NAMES[:9])
    (tmp_path / "texts.txt").write_text("\n".join(DOCUMENTS))


def row(out, name):
    """The figures of a row of the table of nDCG."""
    table = out.split("| nDCG@10")[1].split("\n\n")[0]
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", table, re.MULTILINE)[1].split(" | ")


def test_words_are_in_the_table_the_file_and_the_card(run, model):
    code, out, err = run("evaluate", "sparse", "set", "--words", "--output", "sparse")
    assert code == 0, err
    assert row(out, "words alone (BM25)") == ["100.0"] * 6  # the model knows none of the names
    texts = Texts(DOCUMENTS, [f"a {name}" for name in NAMES])
    expected = evaluate_model(model, DOCUMENTS, texts.queries, RELEVANT, texts=texts)
    saved = Evaluation.load("sparse/evaluation.json")
    assert saved.scores == expected.scores
    assert saved.scores["ndcg@10"]["query_4k"][8] < 0.9
    assert saved.about == {"data": "set", "words": {"language": "english", "weight": 0.15}}
    with open("sparse/README.md") as card:
        assert "| words alone (BM25) | 100.0 |" in card.read()
    code, out, err = run("evaluate", "sparse", "set", "--output", "sparse")
    assert "words" not in out
    assert "codes_and_words" not in Evaluation.load("sparse/evaluation.json").scores["ndcg@10"]


def test_words_on_other_texts_are_a_line_of_the_card(run):
    assert run("evaluate", "sparse", "texts.txt", "--output", "sparse")[0] == 0
    code, _, err = run("evaluate", "sparse", "set", "--words", "--output", "sparse")
    assert code == 0, err
    with open("sparse/README.md") as card:
        assert "| set, with words (alone: 100.0) | nDCG@10 | 24 |" in card.read()


def test_a_weight_is_chosen_and_says_how_it_is_used(run):
    code, out, err = run("evaluate", "sparse", "set", "--words", "--tune", "--output", "out")
    assert code == 0, err
    saved = Evaluation.load("out/evaluation.json").tuning
    assert saved.given_weight == 0.15
    assert (saved.n_queries, saved.k) == (24, 8)
    default = row(out, "sparse, query at 4k, and words")[2]
    assert f"{100 * saved.given_ndcg:.1f}" == default
    assert str(saved) in out.splitlines()
    assert (f"--weight {saved.weight:g} --output" in out) == (saved.ndcg > saved.given_ndcg)


def test_the_language_is_an_option(run):
    code, _, err = run("evaluate", "sparse", "set", "--words", "--language", "german",
                       "--output", "out")  # fmt: skip
    assert code == 0, err
    assert Evaluation.load("out/evaluation.json").about["words"]["language"] == "german"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("set --tune", "--tune needs --words; add that"),
        ("set --language german", "--language german needs --words; add that"),
        ("set --words --language klingon", "'klingon' is unknown"),
        ("texts.txt --words", "--words: texts.txt has no judged queries, without which words have"),
        ("set texts.txt --words", "--words: texts.txt has no judged queries"),
        ("small --words --tune", "9 judged queries are too few to choose a weight by"),
    ],
)
def test_what_the_user_can_fix_is_one_line(run, arguments, message):
    code, out, err = run("evaluate", "sparse", *arguments.split())
    assert (code, out) == (1, "")
    assert message in err
    assert "unexpected" not in err


def test_without_what_words_need_it_is_named_before_any_work(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "Stemmer", None)
    code, out, err = run("evaluate", "sparse", "set", "--words")
    assert (code, out) == (1, "")
    assert 'pip install "csr-st[words]"' in err
