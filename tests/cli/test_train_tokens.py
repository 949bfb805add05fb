"""Token-level heads on the command line: train, evaluate, encode, index and search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import WORDS
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st.evaluation import Evaluation, Texts
from csr_st.evaluation.held_out import evaluate_model
from csr_st.publishing.facts import CardFacts

NAMES = [f"{a}{b}" for a in "bcdfgh" for b in ("anana", "elong", "ilver", "otato")]
DOCUMENTS = [f"the {name} sat on {WORDS[i % 19]}" for i, name in enumerate(NAMES)]
QUERIES = [f"a {name}" for name in NAMES]
RELEVANT = [{i: 1.0} for i in range(24)]
FAST = ("--steps", 10, "--k", 8, "--hidden-dim", 64)
pytestmark = pytest.mark.filterwarnings("ignore:.*are few for hidden_dim")


@pytest.fixture
def here(monkeypatch, tmp_path, token_backbone, run):
    """A backbone, texts in several forms, and a BEIR folder in the current folder."""
    monkeypatch.chdir(tmp_path)
    token_backbone.save("base", create_model_card=False)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, 5)) for _ in range(80)]
    Path("texts.txt").write_text("\n".join(lines))
    rows = [{"body": line, "kind": "ab"[i % 2], "other": line} for i, line in enumerate(lines)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.save("vectors.npy", rng.normal(size=(60, 16)).astype(np.float32))
    Path("set").mkdir()
    for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        made = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) for i, text in enumerate(texts)]
        Path("set", f"{name}.jsonl").write_text("\n".join(made))
    judged = [f"q{i}\tc{i}\t1" for i in range(24)]
    Path("set/qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    return tmp_path


@pytest.fixture
def tokens(here, token_model):
    """A saved model with a token-level head, in the folder "tokens"."""
    csr_st.save(token_model, "tokens")
    return token_model


def test_train_makes_a_model_with_card_that_loads(run, here):
    arguments = ("train", "base", "rows.jsonl", "--column", "body", "--level", "token", *FAST)
    code, out, err = run(*arguments, "--output", "mine")
    assert code == 0, err
    assert "Saved to mine" in out
    assert "| sparse, query at 4k |" in out
    assert "rescored" not in out
    loaded = SentenceTransformer("mine", device="cpu")
    head = csr_st.find_head(loaded)
    assert (head.level, head.k, head.query_k, head.hidden_dim) == ("token", 8, 64, 64)
    assert head.skipped_tokens == [0, 1, 2, 3]
    assert float(head.latent_weights.std()) > 0  # those of the training texts
    found = Evaluation.load("mine/evaluation.json")
    assert found.ks == (16, 32, 64)
    assert found.fvu == {}
    assert set(found.scores["recall@1"]) == {"symmetric", "query_4k", "pca", "truncation"}
    card = Path("mine/README.md").read_text()
    assert "chooses latents for each token of a text and adds them up" in card
    assert "Decoder" not in card
    assert "rescored" not in card
    assert "unexplained" not in card
    facts = CardFacts.load(Path("mine"))
    assert (facts.level, facts.fvu, facts.k) == ("token", {}, 8)
    assert facts.training["recipe"] == "token"

    store = csr_st.TokenStore.open("mine/tokens")
    again = csr_st.train_tokens(store.split(11)[0], csr_st.recipe(
        "token", k=8, hidden_dim=64, steps=10), show_progress=False)  # fmt: skip
    np.testing.assert_array_equal(again.head.encoder_weight.detach(), head.encoder_weight.detach())
    code, _, err = run(*arguments, "--output", "mine", "--resume")
    assert code == 0, err


def test_patience_keeps_the_best_head(run, here):
    code, out, err = run(
        "train", "base", "texts.txt", "--level", "token", *FAST, "--patience", 1,
        "--evaluate-every", 2, "--output", "mine",
    )  # fmt: skip
    assert code == 0, err
    assert "the best on the validation set" in out


def test_the_default_k_is_that_of_the_recipe(run, here):
    code, _, err = run(
        "train", "base", "texts.txt", "--level", "token", "--steps", 2, "--output", "mine"
    )
    assert code == 0, err
    head = csr_st.find_head(SentenceTransformer("mine", device="cpu"))
    assert (head.k, head.query_k, head.hidden_dim, head.k_token) == (128, 64, 4096, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train base texts.txt --level word", "--level='word' is not one of 'text', 'token'"),
        ("train base texts.txt --recipe token", "--recipe token needs --level token; add that"),
        ("train base texts.txt --level token --recipe nested", "--recipe nested needs --level te"),
        ("train base texts.txt --level token --recipe csrv2", "--recipe csrv2 needs --level text"),
        ("train base texts.txt --level token --recipe some", "--recipe some"),
        ("train vectors.npy --level token", "--level token needs texts: name a MODEL and a DATAS"),
        ("train base vectors.npy --level token", "vectors.npy"),
        (
            "train base rows.jsonl --level token --column body --labels kind",
            "--labels: a token-level head is trained on texts alone; leave it out with --level",
        ),
        (
            "train base rows.jsonl --level token --pairs body,other",
            "--pairs: a token-level head is trained on texts alone",
        ),
        (
            "train base rows.jsonl --level token --column body --label-weight 2",
            "--label-weight: a token-level head is trained on texts alone",
        ),
        ("train base texts.txt --level token --hidden-dim 64", "k=128 exceeds hidden_dim=64"),
    ],
)
def test_what_the_user_can_fix_is_one_line_before_any_work(run, here, arguments, message):
    code, out, err = run(*arguments.split(), "--output", "mine")
    assert (code, out) == (1, "")
    assert message in err
    assert "unexpected" not in err
    assert not Path("mine/tokens").exists()
    assert not Path("mine/vectors").exists()


def test_a_backbone_without_tokens_is_refused(run, here, backbone):
    backbone.save("static", create_model_card=False)
    code, _, err = run(
        "train", "static", "texts.txt", "--level", "token", *FAST, "--output", "mine"
    )
    assert code == 1
    assert "needs token_embeddings" in err
    assert "unexpected" not in err


def test_few_texts_are_refused(run, here):
    Path("few.txt").write_text("\n".join(DOCUMENTS[:20]))
    code, _, err = run("train", "base", "few.txt", "--level", "token", *FAST, "--output", "mine")
    assert code == 1
    assert "20 rows are too few" in err


def test_a_token_level_head_is_not_adapted(run, tokens):
    code, _, err = run("adapt", "tokens", "texts.txt", "--output", "mine")
    assert code == 1
    assert "level='token' cannot be adapted" in err
    assert not Path("mine/vectors").exists()


def test_evaluate_on_judged_queries(run, tokens):
    code, out, err = run("evaluate", "tokens", "set", "--output", "tokens")
    assert code == 0, err
    assert "nDCG@10" in out
    found = Evaluation.load("tokens/evaluation.json")
    expected = evaluate_model(tokens, DOCUMENTS, QUERIES, RELEVANT)
    assert found.scores == expected.scores
    assert "sparse, query at 4k" in Path("tokens/README.md").read_text()


def test_evaluate_with_words_and_their_weight(run, tokens):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    code, out, err = run("evaluate", "tokens", "set", "--words", "--tune", "--output", "tokens")
    assert code == 0, err
    found = Evaluation.load("tokens/evaluation.json")
    assert found.scores["ndcg@10"]["words"][16] == 1.0
    assert (found.tuning.n_queries, found.tuning.k, found.tuning.query_k) == (24, 8, 8)
    assert str(found.tuning) in out
    expected = evaluate_model(
        tokens, DOCUMENTS, QUERIES, RELEVANT, texts=Texts(DOCUMENTS, QUERIES), tune=True
    )
    assert found.scores == expected.scores
    assert found.tuning == expected.tuning


def test_evaluate_texts_without_queries_and_further_ones(run, tokens):
    code, _, err = run("evaluate", "tokens", "texts.txt", "--output", "tokens")
    assert code == 0, err
    code, _, err = run("evaluate", "tokens", "set", "--output", "tokens")
    assert code == 0, err
    card = Path("tokens/README.md").read_text()
    assert "| set | nDCG@10 | 24 |" in card
    code, _, err = run("evaluate", "tokens", "set", "texts.txt", "--output", "tokens")
    assert code == 0, err


@pytest.mark.parametrize("output", ["codes.safetensors", "codes"])
def test_encode_index_and_search(run, tokens, output):
    pytest.importorskip("numba")
    code, out, err = run(
        "encode", "tokens", "texts.txt", "--output", output, "--role", "document", "--k", 16
    )
    assert code == 0, err
    code, _, err = run("index", output, "--output", "i.csr")
    assert code == 0, err
    code, out, err = run("search", "i.csr", "--model", "tokens", "red cat", "--top-k", 3)
    assert code == 0, err
    texts = Path("texts.txt").read_text().split("\n")
    documents = csr_st.encode(tokens, texts, k=16, role="document").to_dense()
    query = csr_st.encode(tokens, "red cat", k=64, role="query").to_dense()[0]
    found = [line.split("\t") for line in out.splitlines()]
    np.testing.assert_allclose(
        [float(row[1]) for row in found], np.sort(documents @ query)[::-1][:3], atol=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("encode tokens texts.txt --output c.safetensors --pursuit", "pursuit: a head with level="),
        ("encode tokens texts.txt --output c --residual-bits 1", "residual_bits: a head with leve"),
        ("index codes.safetensors --output j.csr --model tokens", "decoder: a head with level='to"),
        ("search i.csr --model tokens sea --rescore 5", "rescore: a head with level='token'"),
        ("convert tokens --to native --output n", "level='token' pools the latents of tokens"),
    ],
)
def test_what_needs_the_dense_vector_is_one_line(run, tokens, arguments, message):
    pytest.importorskip("numba")
    codes = csr_st.encode(tokens, DOCUMENTS, k=8)
    codes.save("codes.safetensors")
    csr_st.SparseIndex.build(codes).save("i.csr")
    before = sorted(Path().iterdir())
    code, out, err = run(*arguments.split())
    assert (code, out) == (1, "")
    assert message in err
    assert "unexpected" not in err
    assert [path for path in sorted(Path().iterdir()) if path not in before] == []


def test_explore(run, tokens):
    code, out, err = run("explore", "tokens", "texts.txt", "--output", "page.html", "--k", 8)
    assert code == 0, err
    assert "80 texts" in out
