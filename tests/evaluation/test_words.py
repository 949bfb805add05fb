"""Words in an evaluation, against bm25s and the index; the weight of words that queries choose."""

import json
from dataclasses import replace

import numpy as np
import pytest

import csr_st
from csr_st.encoding import encode_vectors
from csr_st.evaluation import Evaluation, Texts, evaluate, plots, tune_weight
from csr_st.evaluation.metrics import ndcg_at, ndcg_of_each
from csr_st.evaluation.results import METHODS, WORD_METHODS
from csr_st.evaluation.tuning import FOLDS, WEIGHTS

bm25s = pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")
pytest.importorskip("numba")

NAMES = [f"{a}{b}" for a in "bcdfgh" for b in ("anana", "elong", "ilver", "otato")]


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def best(scores, top=10):
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(120, 16)).astype(np.float32)


@pytest.fixture
def documents(rng):
    """120 texts of 20 to 60 words; the first has one word 300 times."""
    texts = [" ".join(rng.choice(NAMES, rng.integers(20, 60))) for _ in range(120)]
    return ["banana " * 300 + texts[0], *texts[1:]]


@pytest.fixture
def queries(rng):
    return [" ".join(rng.choice(NAMES, 5)) for _ in range(40)]


@pytest.fixture
def asked(vectors, rng):
    return (vectors[:40] + rng.normal(size=(40, 16))).astype(np.float32)


@pytest.fixture
def relevant(rng):
    """Each query has the document of its number, and three by chance."""
    return [{i: 2.0, **dict.fromkeys(rng.integers(0, 120, 3).tolist(), 1.0)} for i in range(40)]


@pytest.fixture
def by_words(documents, queries):
    """(40, 120) scores of bm25s."""
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    peer.index([text.split() for text in documents], show_progress=False)
    return np.stack([peer.get_scores(text.split()) for text in queries])


def test_words_are_those_of_bm25s_and_of_the_index(
    head, vectors, asked, documents, queries, relevant, by_words
):
    texts = Texts(documents, queries, str.split, weight=0.3)
    found = evaluate(head, vectors, asked, ks=(2, 8), relevant=relevant, texts=texts)
    rows = found.scores["ndcg@10"]
    dense = unit(asked) @ unit(vectors).T
    spans = [
        (s - s.min(axis=1, keepdims=True)) / np.ptp(s, axis=1, keepdims=True)
        for s in (dense, by_words)
    ]
    fused = 0.6 * spans[0] + 0.4 * spans[1]
    for method, scores in (("words", by_words), ("dense_and_words", fused)):
        expected = ndcg_at(best(scores), relevant, 10)
        assert rows[method] == {2: pytest.approx(expected), 8: pytest.approx(expected)}
    codes = encode_vectors(head, vectors, 8)
    index = csr_st.SparseIndex.build(codes, words=documents, language=str.split, weight=0.3)
    for k in (2, 8):
        wide = encode_vectors(head, asked, 4 * k)
        expected = ndcg_at(index.search(wide, 10, k=k, words=queries).ids, relevant, 10)
        assert rows["codes_and_words"][k] == pytest.approx(expected)
    assert list(rows) == list(METHODS)
    assert not set(WORD_METHODS) & set(found.scores["recall@10"])
    assert found.about["words"] == {"language": "function", "weight": 0.3}


def test_documents_that_ask_leave_themselves_out(head, vectors):
    """Each document has a twin of the same words and another vector."""
    twins = [f"word{i % 60}" for i in range(120)]
    relevant = [{(i + 60) % 120: 1.0} for i in range(120)]
    found = evaluate(
        head, vectors, ks=(4,), relevant=relevant, texts=Texts(twins, language=str.split)
    ).scores["ndcg@10"]
    assert found["words"] == {4: 1.0}
    assert found["dense_and_words"][4] > 0.5 > found["query_4k"][4]
    assert found["codes_and_words"][4] > found["query_4k"][4]


def test_stems_and_stop_words_are_those_of_the_language(head, vectors):
    texts = [f"the {name}s" for name in NAMES] + ["the of and"] * 96
    relevant = [{i: 1.0} for i in range(24)]
    asked = [f"and {name}" for name in NAMES]
    found = evaluate(
        head, vectors, vectors[:24], ks=(4,), relevant=relevant, texts=Texts(texts, asked)
    )
    assert found.scores["ndcg@10"]["words"] == {4: 1.0}
    assert found.about["words"] == {"language": "english", "weight": 0.15}


def test_words_have_an_accuracy_where_there_are_classes(head, vectors):
    classes = np.arange(120) % 6
    texts = Texts([NAMES[c] for c in classes[:100]], [NAMES[c] for c in classes[100:]])
    labels = {"document_labels": classes[:100], "query_labels": classes[100:]}
    found = evaluate(head, vectors[:100], vectors[100:], ks=(4,), texts=texts, **labels)
    assert found.scores["accuracy"]["words"] == {4: 1.0}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (Texts(["a"] * 119, ["b"] * 40), ValueError, "119 texts for 120 documents"),
        (Texts(["a"] * 120, ["b"] * 39), ValueError, "39 texts for 40 queries"),
        (Texts(["a"] * 120), ValueError, "there are no text of the queries; give them where"),
        (Texts([1] * 120, ["b"] * 40), TypeError, "in row 0; pass a str"),
        (Texts(["a"] * 120, ["b"] * 40, "klingon"), ValueError, "'klingon' is unknown"),
        (Texts(["a"] * 120, ["b"] * 40, weight=-1), ValueError, "weight=-1.0 is not within"),
    ],
)
def test_texts_that_do_not_fit_are_refused(head, vectors, asked, relevant, given, error, message):
    with pytest.raises(error, match=message):
        evaluate(head, vectors, asked, ks=(4,), relevant=relevant, texts=given)


def test_words_without_judgements_are_refused(head, vectors, documents):
    with pytest.raises(ValueError, match="neither relevant nor labels, without which words have"):
        evaluate(head, vectors, ks=(4,), texts=Texts(documents))
    with pytest.raises(ValueError, match="texts of queries; give them where there are vectors of"):
        evaluate(
            head, vectors, ks=(4,), relevant=[{0: 1.0}] * 120, texts=Texts(documents, documents)
        )


# ---- the weight


def test_the_weight_is_chosen_by_the_other_queries(
    head, vectors, asked, documents, queries, relevant
):
    relevant = [*relevant[:38], {}, {3: -1.0}]  # two that do not count
    found = tune_weight(head, vectors, asked, relevant, Texts(documents, queries, str.split), 8)
    codes, wide = encode_vectors(head, vectors, 8), encode_vectors(head, asked, 32)
    index = csr_st.SparseIndex.build(codes, words=documents, language=str.split)
    figures = {
        weight: ndcg_of_each(
            index.search(wide, 10, words=queries, weight=weight).ids, relevant, 10
        )[:38]
        for weight in WEIGHTS
    }
    means = {weight: row.mean() for weight, row in figures.items()}
    assert found.weight == max(means, key=means.get)
    assert found.given_weight == 0.15
    assert found.given_ndcg == pytest.approx(means[0.15])
    held_out = []
    for fold in np.array_split(np.random.default_rng(0).permutation(38), FOLDS):
        others = {weight: np.delete(row, fold).mean() for weight, row in figures.items()}
        held_out.extend(figures[max(others, key=others.get)][fold])
    assert found.ndcg == pytest.approx(np.mean(held_out))
    assert found.ndcg < max(means.values())  # that of the queries that chose
    assert (found.k, found.query_k, found.n_queries) == (8, 32, 38)


def test_words_that_say_nothing_get_no_weight_and_those_that_say_all_get_much(head, vectors):
    names = [f"word{i}" for i in range(120)]
    relevant = [{i: 1.0} for i in range(40)]
    misleading = Texts(names, names[40:80], str.split)
    found = tune_weight(head, vectors, vectors[:40], relevant, misleading)
    assert found.weight < 0.15
    assert found.ndcg > found.given_ndcg
    assert f"--weight {found.weight:g}" in str(found)
    helpful = Texts(names, names[:40], str.split)
    found = tune_weight(head, vectors, -vectors[:40], relevant, helpful)
    assert found.weight > 0.15
    assert found.ndcg > 0.95 > found.given_ndcg
    kept = tune_weight(head, vectors, -vectors[:40], relevant, replace(helpful, weight=2))
    assert str(kept).startswith("Weight of words: keep 2. nDCG@10 100.0 where")


def test_too_few_judged_queries_choose_no_weight(head, vectors, documents):
    texts = Texts(documents, documents[:12])
    relevant = [{0: 1.0}] * 9 + [{0: 0.0}] * 3
    with pytest.raises(
        ValueError, match=r"9 judged queries are too few .* at least 10, better 100"
    ):
        tune_weight(head, vectors, vectors[:12], relevant, texts)


# ---- what becomes of the figures


@pytest.fixture
def measured(head, vectors, asked, documents, queries, relevant):
    return evaluate(
        head, vectors, asked, ks=(2, 8), relevant=relevant, texts=Texts(documents, queries)
    )


def test_the_table_and_the_file_have_them(measured, tmp_path):
    lines = measured.table().splitlines()
    figure = 100 * measured.scores["ndcg@10"]["words"][2]
    assert f"| words alone (BM25) | {figure:.1f} | {figure:.1f} |" in lines
    measured.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == measured
    assert "tuning" not in json.loads((tmp_path / "evaluation.json").read_text())


def test_the_picture_has_a_line_for_each(measured, tmp_path):
    from PIL import Image

    plots.draw(measured, tmp_path / "quality.png")
    with Image.open(tmp_path / "quality.png") as image:
        shown = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for method in WORD_METHODS:
        assert tuple(bytes.fromhex(plots.STYLES[method][0][1:])) in shown
