"""Figures of an evaluation against scikit-learn, brute force and arithmetic on paper."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import ndcg_score, r2_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.embeddings import EmbeddingStore
from csr_st.encoding import encode_vectors
from csr_st.evaluation import plots
from csr_st.evaluation.brute_force import cosine_top, rescored_top, sparse_top, top_rows, unit_rows
from csr_st.evaluation.held_out import evaluate_held_out
from csr_st.evaluation.metrics import knn_accuracy, ndcg_at, overlap_at
from csr_st.evaluation.quality import evaluate
from csr_st.evaluation.results import METHODS, WORD_METHODS, Evaluation
from csr_st.head import SparseCSRHead


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def brute_force(scores, top):
    return np.argsort(-scores, axis=1, kind="stable")[:, :top]


def dense_codes(head, vectors, k):
    """Unit codes of equation 2 by sorting, as a matrix."""
    with torch.no_grad():
        pre = head.pre_activations(torch.from_numpy(vectors)).numpy()
    kth = np.sort(pre, axis=1)[:, -k][:, None]
    return unit(np.where(pre >= kth, pre, 0).clip(0))


@pytest.fixture
def vectors(rng):
    """120 vectors of 16 dimensions around 6 centres."""
    centres = 2 * rng.normal(size=(6, 16))
    return (centres[np.arange(120) % 6] + rng.normal(size=(120, 16))).astype(np.float32)


@pytest.fixture
def classes():
    return np.arange(120) % 6


# ---- measures


def test_ndcg_by_hand():
    ranking = np.array([[4, 7, 1], [0, 1, 2], [3, 4, 5]])
    relevant = [{7: 1.0, 9: 2.0}, {5: 1.0}, {}]  # the last was judged by no one
    ideal = 2 + 1 / math.log2(3)
    assert ndcg_at(ranking, relevant, 3) == pytest.approx((1 / math.log2(3) / ideal + 0) / 2)
    assert ndcg_at(ranking, relevant, 1) == 0
    assert ndcg_at(ranking, [{}, {}, {}], 3) == 0
    assert ndcg_at(np.array([[7, -1, -1]]), [{7: 3.0}], 3) == 1


@pytest.mark.parametrize("cutoff", [1, 3, 10])
def test_ndcg_is_what_scikit_learn_gives(rng, cutoff):
    gains = rng.integers(0, 4, size=(8, 20)) * (rng.random((8, 20)) < 0.4)
    gains[:, 0] = 1  # each query has something to find
    scores = rng.random((8, 20))
    relevant = [{i: float(g) for i, g in enumerate(row) if g} for row in gains]
    found = ndcg_at(brute_force(scores, cutoff), relevant, cutoff)
    assert found == pytest.approx(ndcg_score(gains, scores, k=cutoff))


def test_overlap_by_hand():
    assert overlap_at(np.array([[1, 2], [3, 4]]), np.array([[2, 1], [5, 3]])) == 3 / 4


def test_nearest_neighbours_vote_as_in_scikit_learn(vectors, classes):
    classes = np.where(classes > 2, 1, 0)  # two classes and odd k: no ties to break
    known, asked = unit(vectors[:90]), unit(vectors[90:])
    ranking = brute_force(asked @ known.T, 5)
    expected = KNeighborsClassifier(5).fit(known, classes[:90]).score(asked, classes[90:])
    assert knn_accuracy(ranking, classes[:90], classes[90:]) == pytest.approx(expected)


def test_tied_votes_go_to_the_nearest():
    labels = np.array([5, 8, 8, 5, 9])
    neighbours = np.array([[0, 1, 2, 3, 4], [1, 0, 3, 2, 4]])
    assert knn_accuracy(neighbours, labels, np.array([5, 8])) == 1
    assert knn_accuracy(neighbours, labels, np.array([8, 8])) == 0.5


# ---- rankings


def test_top_rows_are_the_best_in_order(rng):
    scores = rng.permutation(60).reshape(4, 15).astype(np.float32)
    np.testing.assert_array_equal(top_rows(scores, 4), brute_force(scores, 4))
    np.testing.assert_array_equal(top_rows(scores, 99), brute_force(scores, 15))


def test_dense_neighbours_are_those_of_scikit_learn(vectors):
    found = cosine_top(vectors[:100], vectors[100:] * 7, 5)
    search = NearestNeighbors(n_neighbors=5, metric="cosine").fit(vectors[:100])
    np.testing.assert_array_equal(found, search.kneighbors(vectors[100:], return_distance=False))


def test_a_document_left_out_is_not_found(vectors):
    with_itself = cosine_top(vectors, vectors, 5)
    np.testing.assert_array_equal(with_itself[:, 0], np.arange(120))
    without = cosine_top(vectors, vectors, 4, leave_out=np.arange(120))
    np.testing.assert_array_equal(without, with_itself[:, 1:])


def test_more_queries_than_a_block(rng):
    known, asked = rng.normal(size=(30, 4)), rng.normal(size=(600, 4))
    leave = rng.integers(30, size=600)
    scores = unit(asked) @ unit(known).T
    scores[np.arange(600), leave] = -9
    np.testing.assert_array_equal(cosine_top(known, asked, 3, leave), brute_force(scores, 3))


def test_sparse_ranking_is_that_of_the_dense_products(head, vectors):
    found = sparse_top(
        encode_vectors(head, vectors[:100], 6), encode_vectors(head, vectors[100:], 12), 7
    )
    scores = dense_codes(head, vectors[100:], 12) @ dense_codes(head, vectors[:100], 6).T
    np.testing.assert_array_equal(found, brute_force(scores, 7))


@pytest.mark.parametrize(("k", "candidates"), [(6, 12), (1, 40)])
def test_rescored_ranking_is_that_of_dense_reconstructions(head, vectors, rng, k, candidates):
    codes, asked = (encode_vectors(head, x, k) for x in (vectors[:100], vectors[100:]))
    weight = head.decoder_weight.detach().numpy()
    bias = rng.normal(size=16).astype(np.float32)
    leave = rng.integers(100, size=20)
    found = rescored_top(codes, asked, Decoder(weight, bias), vectors[100:], candidates, 5, leave)
    scores = unit(vectors[100:]) @ unit(codes.raw().to_dense() @ weight + bias).T
    shared = asked.to_dense() @ codes.to_dense().T
    shared[np.arange(20), leave] = -1
    least = np.sort(shared, axis=1)[:, -candidates, None]
    if k == 1:
        assert (least == 0).any()  # some share a latent with too few: all others tie
    expected = brute_force(np.where(shared >= least, scores, -9), 5)
    np.testing.assert_array_equal(found, expected)


def test_rows_of_zeros_stay_zeros():
    found = unit_rows(np.array([[0.0, 0], [3, 4]]))
    np.testing.assert_allclose(found, [[0, 0], [0.6, 0.8]], rtol=1e-6)


def test_codes_of_vectors_do_not_depend_on_the_batch(head, vectors):
    whole, parts = (encode_vectors(head, vectors, 8, batch_size=size) for size in (999, 7))
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_allclose(whole.values, parts.values, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole.values, axis=1), 1, rtol=1e-5)


# ---- evaluate


def test_recall_of_each_method_by_brute_force(head, vectors):
    known, asked = vectors[:100], vectors[100:]
    found = evaluate(head, known, asked, ks=(2, 8), rescore=100)
    dense = brute_force(unit(asked) @ unit(known).T, 10)
    pca = PCA(8).fit(known)
    weight, bias = (x.detach().numpy() for x in (head.decoder_weight, head.pre_bias))
    for k in (2, 8):
        codes = encode_vectors(head, known, k).raw().to_dense()
        scores = {
            "symmetric": dense_codes(head, asked, k) @ dense_codes(head, known, k).T,
            "query_4k": dense_codes(head, asked, 4 * k) @ dense_codes(head, known, k).T,
            "rescored": unit(asked) @ unit(codes @ weight + bias).T,
            "pca": unit(pca.transform(asked)[:, :k]) @ unit(pca.transform(known)[:, :k]).T,
            "truncation": unit(asked[:, :k]) @ unit(known[:, :k]).T,
        }
        assert scores.keys() == METHODS.keys() - set(WORD_METHODS)
        for method, values in scores.items():
            hits = [
                len(set(a) & set(b)) for a, b in zip(brute_force(values, 10), dense, strict=True)
            ]
            # Documents without a common latent tie at 0, and either order of them is right.
            assert found.scores["recall@10"][method][k] == pytest.approx(
                np.mean(hits) / 10, abs=0.02
            )
    assert found.dense == {"recall@10": 1}


def test_unexplained_variance_and_dead_latents(head, vectors):
    found = evaluate(head, vectors, ks=(2, 8))
    x = torch.from_numpy(vectors)
    for k in (2, 8):
        with torch.no_grad():
            guess = head.decode(*head.encode(x, k)).numpy()
        expected = 1 - r2_score(vectors, guess, multioutput="variance_weighted")
        assert found.fvu[k] == pytest.approx(expected, rel=1e-4)
        used = (dense_codes(head, vectors, k) > 0).any(axis=0)
        assert found.dead_fraction[k] == pytest.approx(1 - used.mean())


@pytest.mark.parametrize(("hidden_dim", "width"), [(64, 1), (256, 1), (257, 2)])
def test_bytes_of_an_item_are_those_of_stored_codes(vectors, hidden_dim, width):
    head = SparseCSRHead(16, hidden_dim, k=8)
    found = evaluate(head, vectors, ks=(2, 8))
    # k latents of 1 or 2 bytes, k float16 values, and a float32 norm
    assert found.bytes_per_item == {2: 2 * width + 4 + 4, 8: 8 * width + 16 + 4}
    codes = encode_vectors(head, vectors, 8)
    half = SparseCodes(codes.indices, codes.values.astype(np.float16), hidden_dim, codes.norms)
    assert found.bytes_per_item[8] == half.nbytes / 120
    assert found.dense_bytes_per_item == 64


def test_labels_add_accuracy(head, vectors, classes):
    names = np.array(["a", "b", "c", "d", "e", "f"])[classes]
    found = evaluate(
        head,
        vectors[:90],
        vectors[90:],
        ks=(4,),
        document_labels=names[:90],
        query_labels=names[90:],
    )
    expected = KNeighborsClassifier(5, metric="cosine").fit(vectors[:90], names[:90])
    assert found.dense["accuracy"] == pytest.approx(expected.score(vectors[90:], names[90:]))
    assert found.main_metric == "accuracy"
    assert found.scores["accuracy"].keys() == METHODS.keys() - set(WORD_METHODS)
    # Labels of another order are another truth.
    wrong = evaluate(
        head,
        vectors[:90],
        vectors[90:],
        ks=(4,),
        document_labels=names[:90],
        query_labels=np.roll(names[90:], 1),
    )
    assert wrong.dense["accuracy"] < 0.2 < 0.8 < found.dense["accuracy"]


def test_judgements_add_ndcg(head, vectors):
    asked = vectors[:20] + 0.01
    relevant = [{i: 1.0} for i in range(20)]
    found = evaluate(head, vectors, asked, ks=(4,), relevant=relevant)
    assert found.dense["ndcg@10"] == 1  # each query is nearest to what it was made from
    assert found.main_metric == "ndcg@10"
    shifted = evaluate(head, vectors, asked, ks=(4,), relevant=relevant[1:] + relevant[:1])
    assert shifted.dense["ndcg@10"] < 0.6


def test_documents_that_ask_leave_themselves_out_and_keep_their_own_truth(head, vectors, classes):
    twins = np.concatenate([vectors, vectors + 1e-3])
    relevant = [{(i + 120) % 240: 1.0} for i in range(240)]
    labels = np.concatenate([classes, classes])
    found = evaluate(head, twins, ks=(4,), relevant=relevant, document_labels=labels)
    assert found.n_queries == 240
    assert found.dense["ndcg@10"] == 1
    others = unit(twins) @ unit(twins).T - 9 * np.eye(240)
    expected = knn_accuracy(brute_force(others, 5), labels, labels)
    assert found.dense["accuracy"] == pytest.approx(expected)
    itself = evaluate(head, twins, ks=(4,), relevant=[{i: 1.0} for i in range(240)])
    assert itself.dense["ndcg@10"] == 0


def test_ks_above_what_there_is_are_left_out(vectors):
    head = SparseCSRHead(16, 32, k=8)
    found = evaluate(head, vectors, ks=(4, 32, 64))
    assert found.ks == (4, 32)
    assert set(found.scores["recall@10"]["symmetric"]) == {4, 32}
    assert set(found.scores["recall@10"]["pca"]) == {4}  # there are only 16 dimensions
    assert found.scores["recall@10"]["symmetric"][32] > found.scores["recall@10"]["symmetric"][4]


def test_ks_above_the_usual_ones_are_measured(vectors):
    found = evaluate(SparseCSRHead(16, 256, k=8), vectors, ks=(128, 2))
    assert found.ks == (2, 128)
    assert found.fvu.keys() == {2, 128}


def test_a_perfect_head_keeps_everything(vectors):
    vectors = np.abs(vectors)
    head = SparseCSRHead(16, 16, k=16)
    with torch.no_grad():
        head.encoder_weight.copy_(torch.eye(16))
        head.decoder_weight.copy_(torch.eye(16))
    found = evaluate(head, vectors, ks=(16,))
    assert found.fvu[16] == pytest.approx(0, abs=1e-6)
    assert found.kept("symmetric", 16) == 1
    assert found.kept("rescored", 16) == 1


def test_equal_documents_have_no_variance_to_divide_by(head):
    found = evaluate(head, np.ones((30, 16), np.float32), ks=(2,))
    assert np.isfinite(found.fvu[2])


def test_baselines_are_fitted_on_other_vectors_where_given(head, vectors, rng):
    known, asked = vectors[:100], vectors[100:]
    turned = np.zeros((50, 16), np.float32)
    turned[:, 13:] = rng.normal(size=(50, 3)) * [3, 2, 1]  # principal: the last three dimensions
    found = evaluate(head, known, asked, ks=(3,), fit_on=turned)
    mean = turned.mean(axis=0)[13:]
    ranking = brute_force(unit(asked[:, 13:] - mean) @ unit(known[:, 13:] - mean).T, 10)
    dense = brute_force(unit(asked) @ unit(known).T, 10)
    assert found.scores["recall@10"]["pca"][3] == pytest.approx(
        overlap_at(ranking, dense), abs=0.01
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"documents": np.ones((20, 5))},
            r"documents have shape \(20, 5\); the head needs \(n, 16\)",
        ),
        ({"queries": np.ones((20, 5))}, r"queries have shape \(20, 5\); the head needs \(n, 16\)"),
        ({"queries": np.ones((0, 16))}, r"queries have shape \(0, 16\)"),
        ({"documents": np.ones((10, 16))}, "10 documents are too few .* at least 11"),
        ({"documents": np.full((20, 16), np.nan)}, "NaN or Inf"),
        ({"relevant": [{0: 1.0}]}, "relevant has 1 entries; give one for each of 20 rows"),
        ({"document_labels": np.zeros(99)}, "document_labels has 99 entries; .* 120 rows"),
        (
            {"document_labels": np.zeros(120), "query_labels": np.zeros(1)},
            "query_labels has 1 entries; give one for each of 20 rows",
        ),
        ({"ks": (0, 2)}, "k=0 is below 1"),
        ({"ks": (65,)}, r"ks=\(65,\) has none within 1\.\.hidden_dim=64"),
    ],
)
def test_what_does_not_fit_is_refused(head, vectors, given, message):
    arguments = {"documents": vectors, "queries": vectors[:20], "ks": (2,), **given}
    with pytest.raises(ValueError, match=message):
        evaluate(head, **arguments)


# ---- what becomes of the figures


@pytest.fixture
def evaluation():
    """Figures chosen by hand: what a table and a picture show can be read off here."""
    rows = {
        "symmetric": {2: 0.3, 16: 0.5},
        "query_4k": {2: 0.35, 16: 0.55},
        "rescored": {2: 0.4, 16: 0.6123},
        "pca": {2: 0.1},
        "truncation": {2: 0.05},
    }
    return Evaluation(
        ks=(2, 16),
        n_documents=100,
        n_queries=20,
        input_dim=8,
        hidden_dim=1000,
        rescore=200,
        fvu={2: 0.7, 16: 0.25},
        dead_fraction={2: 0.5, 16: 0.01},
        bytes_per_item={2: 12, 16: 1068},
        dense_bytes_per_item=4096,
        dense={"recall@10": 1.0, "ndcg@10": 0.8},
        scores={"recall@10": rows, "ndcg@10": rows},
        about={"data": "made by hand"},
    )


def test_saved_figures_come_back(tmp_path, evaluation):
    evaluation.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_measured_figures_come_back(tmp_path, head, vectors, classes):
    found = evaluate(head, vectors, ks=(2, 8), document_labels=classes, about={"model": "m"})
    found.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == found


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"ks": [2]}', "null", '{"ks": 3}'])
def test_other_files_are_no_evaluation(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is not a saved evaluation"):
        Evaluation.load(path)


def test_figures_with_an_unknown_field_are_refused(tmp_path, evaluation):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(dataclasses.asdict(evaluation) | {"extra": 1}))
    with pytest.raises(ValueError, match="is not a saved evaluation"):
        Evaluation.load(path)


def test_the_table_shows_the_figures(evaluation):
    assert evaluation.table().splitlines() == [
        "| nDCG@10 (dense: 80.0) | k=2 | k=16 |",
        "| --- | ---: | ---: |",
        "| sparse, query at k | 30.0 | 50.0 |",
        "| sparse, query at 4k | 35.0 | 55.0 |",
        "| rescored through the decoder | 40.0 | 61.2 |",
        "| PCA to k dimensions | 10.0 |  |",
        "| first k dimensions | 5.0 |  |",
        "| bytes per item (dense: 4,096) | 12 | 1,068 |",
    ]
    assert evaluation.table("recall@10").startswith(
        "| Recall@10 of the dense neighbours (dense: 100"
    )


def test_share_kept_of_the_dense_figure(evaluation):
    assert evaluation.kept("rescored", 2) == pytest.approx(0.4 / 0.8)
    assert evaluation.kept("rescored", 2, "recall@10") == pytest.approx(0.4)


def test_the_picture_is_a_png_with_every_method_in_its_colour(tmp_path, evaluation):
    path = tmp_path / "new" / "quality.png"
    plots.draw(evaluation, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300
        shown = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for method, (colour, _, _) in plots.STYLES.items():
        assert (tuple(bytes.fromhex(colour[1:])) in shown) == (method not in WORD_METHODS)
    assert [found.name for found in path.parent.iterdir()] == ["quality.png"]


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, evaluation, monkeypatch):
    path = tmp_path / "quality.png"
    path.write_bytes(b"the old one")

    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        plots.draw(evaluation, path)
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"the old one"]


def test_without_matplotlib_the_error_names_what_to_install(tmp_path, evaluation, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "csr-st\[plots\]"'):
        plots.draw(evaluation, tmp_path / "quality.png")


@pytest.mark.parametrize("name", ["document_labels", "query_labels"])
def test_unknown_classes_are_no_class(vectors, classes, name):
    labels = {"document_labels": classes, "query_labels": classes}
    labels[name] = np.where(classes == 3, -1, classes)
    with pytest.raises(ValueError, match=f"{name} has 20 entries below 0, .* leave these rows"):
        evaluate(SparseCSRHead(16, 32, k=4), vectors, vectors, **labels)


def test_held_out_figures_are_of_rows_with_a_class(vectors, classes):
    """Two thirds of the rows have none; what the others give is what they give alone."""
    head = SparseCSRHead(16, 32, k=4)
    known = np.arange(120) // 6 % 3 == 0
    some = EmbeddingStore.from_array(vectors, labels=np.where(known, classes, -1))
    labelled = EmbeddingStore.from_array(vectors[known], labels=classes[known])
    found, alone = (evaluate_held_out(head, store, store) for store in (some, labelled))
    assert found.scores["accuracy"]["symmetric"] == alone.scores["accuracy"]["symmetric"]
    assert found.n_documents == alone.n_documents == 42
    few = EmbeddingStore.from_array(vectors, labels=np.where(np.arange(120) < 9, classes, -1))
    assert "accuracy" not in evaluate_held_out(head, few, few).scores
