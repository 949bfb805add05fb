"""Judgements and classes: what counts as in trec_eval, and what would give empty figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import csr_st
from csr_st.evaluation.metrics import ndcg_at
from csr_st.evaluation.quality import Evaluation, evaluate


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(120, 16)).astype(np.float32)


def test_a_negative_gain_counts_as_none_as_in_trec_eval():
    ranking = np.array([[1, 0, 2]])
    expected = 1 / math.log2(3)  # document 0 in the second place; 1 counts as not relevant
    assert ndcg_at(ranking, [{0: 1.0, 1: -2.0}], 10) == pytest.approx(expected)
    assert ndcg_at(ranking, [{0: 1.0, 1: 0.0}], 10) == pytest.approx(expected)
    assert ndcg_at(ranking, [{0: 1.0}], 10) == pytest.approx(expected)
    # Nothing below 0 makes a query count, or changes the best ranking.
    assert ndcg_at(np.repeat(ranking, 2, axis=0), [{0: 1.0}, {1: -2.0}], 10) == pytest.approx(
        expected
    )
    assert ndcg_at(ranking, [{1: 2.0, 0: -1.0, 2: -1.0}], 10) == 1


@pytest.mark.parametrize(
    ("relevant", "error", "message"),
    [
        ([{0: math.nan}], ValueError, r"relevant\[0\]\[0\] is nan; a gain must be a finite number"),
        ([{}, {3: math.inf}], ValueError, r"relevant\[1\]\[3\] is inf"),
        ([{120: 1.0}], ValueError, r"names document 120; documents are numbered 0\.\.119"),
        ([{-1: 1.0}], ValueError, r"names document -1; documents are numbered 0\.\.119"),
        ([{"3": 1.0}], TypeError, r"relevant\[0\] has '3': 1.0; give row numbers and gains"),
        ([{3: None}], TypeError, r"relevant\[0\] has 3: None"),
        ([[3]], TypeError, r"relevant\[0\] is \[3\] \(list\); give a dict"),
        ([{3: -1.0, 4: 0.0}], ValueError, "no gain above 0: there is no query that nDCG could co"),
        ([], ValueError, "no gain above 0"),
    ],
)
def test_judgements_without_meaning_are_refused(head, vectors, relevant, error, message):
    padded = [*relevant, *[{} for _ in range(120 - len(relevant))]]
    with pytest.raises(error, match=message):
        evaluate(head, vectors, ks=(4,), relevant=padded)


def test_numbers_of_numpy_are_judgements(head, vectors):
    relevant = [{np.int64((i + 1) % 120): np.float32(1)} for i in range(120)]
    plain = [{(i + 1) % 120: 1.0} for i in range(120)]
    found, expected = (evaluate(head, vectors, ks=(4,), relevant=r) for r in (relevant, plain))
    assert found.scores == expected.scores


def accuracy(vectors, labels):
    head = csr_st.SparseCSRHead(16, 32, k=4)
    torch.manual_seed(0)
    head.reset_parameters()
    return evaluate(head, vectors, ks=(4,), document_labels=labels).scores["accuracy"]


@pytest.mark.parametrize(
    "kind",
    [
        list,
        np.array,
        pd.Series,
        pl.Series,
        pa.array,
        torch.tensor,
        lambda numbers: np.array(numbers, np.float32),
        lambda numbers: np.array(numbers, np.uint8),
        lambda numbers: pd.Series(numbers, dtype="Int64"),
        lambda numbers: np.array([f"class {n}" for n in numbers]),
        lambda numbers: [f"class {n}" for n in numbers],
        lambda numbers: list(np.array(numbers)),
        lambda numbers: pd.Series([f"class {n}" for n in numbers]),
        lambda numbers: pa.array([f"class {n}" for n in numbers]),
    ],
)
def test_classes_of_every_kind(vectors, kind):
    numbers = [i % 3 for i in range(120)]
    assert accuracy(vectors, kind(numbers)) == accuracy(vectors, np.array(numbers))


def test_bools_are_two_classes(vectors):
    numbers = np.arange(120) % 2
    assert accuracy(vectors, numbers == 1) == accuracy(vectors, numbers)


ONES = np.ones(119)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.tile([-1, 1], 60), ValueError, "has 60 entries below 0, .*number the classes from 0"),
        ([-3, *ONES], ValueError, "has 1 entries below 0, .* first in row 0"),
        ([0, *ONES[1:], None], ValueError, "has 1 entries without a class, first in row 119"),
        ([math.nan, *ONES], ValueError, "has 1 entries without a class, first in row 0"),
        (pd.Series([pd.NA, *ONES], dtype="Int64"), ValueError, "has 1 entries without a class"),
        (["", *("a" * 119)], ValueError, "has 1 entries without a class"),
        (np.ones(120, int), ValueError, r"has one class only \(1\), so that accuracy would be the"),
        (["a"] * 120, ValueError, r"has one class only \(a\)"),
        ([0.5, *ONES], TypeError, r"row 0: 0.5 \(float\) is no class; classes are whole numbers"),
        ([math.inf, *ONES], TypeError, r"row 0: inf \(float\) is no class"),
        (["a", *[1] * 119], TypeError, "mix 'a' and 1: use numbers or strings"),
        (np.array(["a", *[1] * 119], object), TypeError, "mix 'a' and 1: use numbers or strings"),
        (np.array([b"a"] * 120), TypeError, r"row 0: b'a' \(bytes\) is no class"),
        (np.ones((120, 2)), ValueError, r"have shape \(120, 2\); give one class for each of 120"),
        ({"a", "b"}, ValueError, r"have shape \(\); give one class for each of 120 rows"),
    ],
)
def test_classes_without_meaning_are_refused(vectors, labels, error, message):
    with pytest.raises(error, match=f"document_labels.*{message}"):
        accuracy(vectors, labels)


def test_classes_of_two_types_are_never_equal(head, vectors):
    with pytest.raises(ValueError, match="are never equal: use numbers or strings in both"):
        evaluate(
            head,
            vectors,
            vectors[:20],
            ks=(4,),
            document_labels=np.arange(120) % 2,
            query_labels=["0", "1"] * 10,
        )


# ---- few rows


@pytest.mark.parametrize(("n", "depth"), [(11, 1), (50, 1), (51, 5), (100, 5), (101, 10)])
def test_recall_is_looked_at_no_deeper_than_a_tenth_of_the_candidates(head, vectors, n, depth):
    """Of random codes the figure is about that of a random ranking, not 100."""
    found = evaluate(head, vectors[:n], ks=(2,))
    assert set(found.scores) == {found.main_metric} == {f"recall@{depth}"}
    assert found.scores[found.main_metric]["symmetric"][2] < 0.7
    assert f"| Recall@{depth} of the dense neighbours (dense: 100.0)" in found.table()


def test_recall_at_a_smaller_depth_by_brute_force(head, vectors):
    found = evaluate(head, vectors[:60], ks=(4,)).scores["recall@5"]["truncation"][4]
    unit, short = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, vectors[:, :4]))
    best = [
        np.argsort(-(rows[:60] @ rows[:60].T - 9 * np.eye(60)), axis=1)[:, :5]
        for rows in (unit, short)
    ]
    expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*best, strict=True)])
    assert found == pytest.approx(expected)


def test_figures_of_few_rows_come_with_a_caution(head, vectors, tmp_path):
    few = evaluate(head, vectors[:25], ks=(2,))
    assert few.caution == (
        "Too few rows for a reliable figure: 25 documents and 25 queries, a standard error of up "
        "to 10 points."
    )
    few.save(tmp_path / "few.json")
    assert Evaluation.load(tmp_path / "few.json").caution == few.caution
    assert evaluate(head, vectors, ks=(2,)).caution is None
    assert "120 documents and 4 queries" in evaluate(head, vectors, vectors[:4], ks=(2,)).caution


@pytest.mark.parametrize("n", [1, 5, 12, 21])
def test_training_says_how_many_rows_it_needs(rng, tmp_path, n):
    np.save(tmp_path / "few.npy", rng.normal(size=(n, 16)).astype(np.float32))
    with pytest.raises(ValueError, match=f"{n} rows are too few: 11 are held out .*give 22 rows"):
        csr_st.train_vectors(tmp_path / "few.npy", tmp_path / "out", csr_st.recipe(steps=3))


@pytest.mark.parametrize(("n", "patience"), [(22, 0), (24, 2), (110, 0)])
def test_the_card_of_few_rows_claims_no_perfect_figure(rng, tmp_path, n, patience):
    np.save(tmp_path / "few.npy", rng.normal(size=(n, 16)).astype(np.float32))
    config = csr_st.recipe(steps=3, patience=patience, hidden_dim=8, k=4)
    trained = csr_st.train_vectors(tmp_path / "few.npy", tmp_path / "out", config)
    card = (tmp_path / "out/README.md").read_text()
    assert card.count("Too few rows for a reliable figure: 11 documents and 11 queries") == 2
    assert "Recall@10" not in card
    assert "a million documents" not in card  # from the time of a search among a few
    assert trained.evaluation.scores["recall@1"]["symmetric"][2] < 0.8


def test_training_on_one_class_gives_neighbours_for_figures(rng, tmp_path):
    """With one class every accuracy is 100."""
    store = csr_st.EmbeddingStore.from_array(
        rng.normal(size=(120, 16)).astype(np.float32), labels=[None, 1] * 60
    )
    trained = csr_st.train_vectors(store, tmp_path / "out", csr_st.recipe(steps=3))
    assert set(trained.evaluation.scores) == {"recall@1"}


def test_pca_has_no_more_dimensions_than_rows(head, vectors):
    found = evaluate(head, vectors[:20], ks=(4, 16), fit_on=vectors[:8])
    assert set(found.scores["recall@1"]["pca"]) == {4}
    assert set(found.scores["recall@1"]["truncation"]) == {4, 16}


@pytest.mark.parametrize(("n", "cutoffs"), [(10, [1]), (49, [1]), (50, [1, 5]), (100, [1, 5, 10])])
def test_pairs_are_looked_for_no_deeper_than_a_tenth(head, vectors, n, cutoffs):
    report = csr_st.evaluate_pairs(head, {"image": vectors[:n], "text": vectors[:n]}, ks=(4,))
    assert list(report.recall["image to text"]) == cutoffs
    assert all(f"recall@{cutoff}" in report.table() for cutoff in cutoffs)
    with pytest.raises(ValueError, match="9 pairs are too few to measure on; give at least 10"):
        csr_st.evaluate_pairs(head, {"image": vectors[:9], "text": vectors[:9]})
