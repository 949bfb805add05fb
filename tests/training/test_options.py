"""Training's options: held-out vectors, parts of a batch, trackers, whole checkpoints."""

import json
import math

import datasets
import numpy as np
import pytest
import tiny_clip
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image
from sentence_transformers import SentenceTransformer

from csr_st import workflow
from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.training.batches import split_batch
from csr_st.training.early_stopping import best_of, out_of_patience
from csr_st.training.loop import fill_in, train
from csr_st.training.objective import Batch, Objective

TINY = {
    "hidden_dim": 32,
    "k": 4,
    "ks": (2, 4),
    "batch_size": 32,
    "steps": 12,
    "refit": 0,
    "short_ks": (),
    "evaluate_every": 4,
}


def noise(n=64, dim=8, seed=0):
    """Vectors with nothing to learn that holds for others: training soon overfits."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def fit(vectors, name="nested", held_out=None, **settings):
    names = ("output", "resume", "checkpoint_every", "log_with")
    options = {key: settings.pop(key) for key in names if key in settings}
    if held_out is not None:
        options["held_out"] = EmbeddingStore.from_array(held_out)
    store = EmbeddingStore.from_array(vectors)
    config = recipe(name, **{**TINY, **settings})
    return train(store, config, show_progress=False, **options)


def test_the_last_head_has_maps_too():
    result = fit(noise(), held_out=noise(n=20, seed=1), short_ks=(2,))
    assert result.last.short_ks == result.head.short_ks == [2]


@pytest.mark.parametrize(
    ("settings", "short_ks"),
    [
        ({"short_ks": (2, 4, 8)}, [2, 4, 8]),
        ({"short_ks": (2, 33)}, [2]),  # beyond hidden_dim
        ({"short_ks": ()}, []),
        ({"short_ks": (2,), "name": "csr"}, []),  # as the paper has it
    ],
)
def test_maps_of_short_codes(settings, short_ks):
    vectors = noise()
    found, plain = fit(vectors, **settings).head, fit(vectors, settings.get("name", "nested")).head
    assert found.short_ks == short_ks
    x = torch.from_numpy(vectors)
    assert torch.equal(found.encode(x, 4).values, plain.encode(x, 4).values)
    errors = [(x - head.decode(*head.encode(x, 2))).square().mean() for head in (found, plain)]
    assert errors[0] < errors[1] if 2 in short_ks else errors[0] == errors[1]


def log_fvu(head, vectors, variance):
    """The mean over ks of ln fvu, from the head's public encode and decode."""
    x = torch.from_numpy(vectors)
    with torch.no_grad():
        errors = [(x - head.decode(*head.encode(x, k))).square().sum(dim=1).mean() for k in (2, 4)]
    return float(np.mean([math.log(float(error) / variance) for error in errors]))


def same_bits(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


OVERFITTING = {"steps": 400, "learning_rate": 2e-2, "schedule": "constant", "warmup": 0.0}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_the_best_head_is_kept_and_training_ends_when_none_better_comes(ema, factor):
    vectors, unseen = noise() * np.float32(factor), noise(n=200, seed=1) * np.float32(factor)
    result = fit(vectors, held_out=unseen, patience=5, ema=ema, **OVERFITTING)
    figures = [evaluation["log_fvu"] for evaluation in result.evaluations]
    assert len(figures) == np.argmin(figures) + 1 + 5
    assert result.evaluations[-1]["step"] == 4 * len(figures) < 400
    variance = float(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert log_fvu(result.head, unseen, variance) == pytest.approx(min(figures), rel=1e-4)
    assert log_fvu(result.last, unseen, variance) == pytest.approx(figures[-1], rel=1e-4)


def test_measuring_changes_nothing_of_the_training():
    plain = fit(noise())
    measured = fit(noise(), held_out=noise(n=20, seed=1))
    assert [evaluation["step"] for evaluation in measured.evaluations] == [4, 8, 12]
    assert same_bits(plain.head, measured.last)
    assert plain.history == measured.history
    assert plain.evaluations == []
    assert plain.last is None


def test_both_heads_get_a_decoder_that_is_solved_for():
    vectors, unseen = noise(), noise(n=200, seed=1)
    rough, solved = (
        fit(vectors, held_out=unseen, patience=2, refit=refit, **OVERFITTING) for refit in (0, 5)
    )
    for name in ("head", "last"):
        before, after = getattr(rough, name), getattr(solved, name)
        assert torch.equal(before.encoder_weight, after.encoder_weight)
        assert log_fvu(after, vectors, 1.0) < log_fvu(before, vectors, 1.0)


def test_held_out_labels_count_as_they_do_in_training():
    classes = np.arange(64) % 4
    stores = [EmbeddingStore.from_array(noise(seed=seed), labels=classes) for seed in (0, 1)]
    settings = recipe(**TINY, supervised_weight=2.0, supervised_temperature=0.5)
    result = train(stores[0], settings, held_out=stores[1], show_progress=False)
    for evaluation in result.evaluations:
        added = evaluation["log_fvu"] + 2 * evaluation["supervised"]
        assert evaluation["loss"] == pytest.approx(added)
    expected = []
    for k in (2, 4):
        with torch.no_grad():
            values, latents = result.last.encode(torch.from_numpy(noise(seed=1)), k)
        codes = np.zeros((64, result.last.hidden_dim))
        np.put_along_axis(codes, latents.numpy(), values.numpy(), axis=1)
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        similar = np.exp(codes @ codes.T / 0.5)
        np.fill_diagonal(similar, 0)
        for row, own in zip(similar, classes, strict=True):
            same = (classes == own) & (row > 0)
            expected.append(-np.log(row[same] / row.sum()).mean())
    assert result.evaluations[-1]["supervised"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_run_that_stopped_early_resumes_to_what_it_was(tmp_path):
    options = {"held_out": noise(n=200, seed=1), "patience": 2, "output": tmp_path, **OVERFITTING}
    first = fit(noise(), **options)
    again = fit(noise(), resume=True, **options)
    assert first.evaluations == again.evaluations
    assert first.history == again.history
    assert same_bits(first.head, again.head)
    assert same_bits(first.last, again.last)


def test_other_held_out_vectors_are_another_run(tmp_path):
    fit(noise(), held_out=noise(seed=1), output=tmp_path)
    with pytest.raises(ValueError, match=r"another run: held_out was '.*', is '.*'"):
        fit(noise(), held_out=noise(seed=2), output=tmp_path, resume=True)


def test_held_out_vectors_must_fit_and_patience_needs_them():
    with pytest.raises(ValueError, match=r"patience=3 needs held_out=.*store\.split"):
        fit(noise(), patience=3)
    with pytest.raises(ValueError, match=r"held_out has 64 vectors of width 9; .* width 8"):
        fit(noise(), held_out=noise(dim=9))


def test_patience_counts_from_the_best():
    def ran_out(figures, patience):
        return out_of_patience([{"loss": figure} for figure in figures], patience)

    assert not ran_out([], 1)
    assert not ran_out([3, 4, 5], 0)
    assert not ran_out([3, 2, 4], 2)
    assert ran_out([3, 2, 4, 5], 2)
    assert not ran_out([3, 2, 4, 1], 2)
    assert ran_out([3, 3], 1)  # equal is no better
    assert best_of([{"loss": math.inf}, {"loss": 2.0}, {"loss": 2.0}]) == 1


def seen_by(module, name, monkeypatch):
    """The arguments of each call of a module's function, which goes on as before."""
    calls = []
    inner = getattr(module, name)

    def call(*arguments, **named):
        calls.append((arguments, named))
        return inner(*arguments, **named)

    monkeypatch.setattr(module, name, call)
    return calls


def row_set(vectors):
    return {row.tobytes() for row in np.asarray(vectors, np.float32)}


@pytest.mark.parametrize(("patience", "watched"), [(0, 0), (1, 36)])
def test_what_decides_when_to_stop_is_neither_trained_nor_measured_on(
    tmp_path, monkeypatch, patience, watched
):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    trained = seen_by(workflow, "train", monkeypatch)
    measured = seen_by(workflow, "evaluate", monkeypatch)
    vectors = noise(n=400)
    store = EmbeddingStore.from_array(vectors)
    done = workflow.train_vectors(store, tmp_path, recipe(**TINY, patience=patience))
    ((training, *_), options), ((_, figures_on), about) = trained[0], measured[0]
    judges = options["held_out"]
    groups = [row_set(training.vectors()), row_set(figures_on)]
    groups.append(row_set(judges.vectors()) if patience else set())
    assert row_set(about["fit_on"]) == groups[0]
    assert [len(group) for group in groups] == [360 - watched, 40, watched]
    assert set.union(*groups) == row_set(vectors)
    assert len(done.result.evaluations) == (3 if patience else 0)


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_pairs_of_modalities_are_set_aside_together(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    clip = SentenceTransformer(tiny_clip.build(tmp_path / "clip"), device="cpu")
    colours = [(20 * i, 255 - 20 * i, 9 * i) for i in range(12)] * 5
    rows = {
        "image": [Image.new("RGB", (32, 32 + i), colour) for i, colour in enumerate(colours)],
        "caption": [f"a photo of {number} red" for number in range(60)],
    }
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    data = datasets.Dataset.from_dict(rows, features=features)
    trained = seen_by(workflow, "train_pairs", monkeypatch)
    measured = seen_by(workflow, "evaluate_pairs", monkeypatch)
    config = recipe(**TINY, patience=9)
    done = workflow.train_model(
        clip, data, tmp_path / "m", config, pair_columns=("image", "caption")
    )
    ((sides, _), options), ((_, asked), _) = trained[0], measured[0]
    judges = options["held_out"].vectors()
    # What judges is shifted as training's rows are, to the mean that both sides share there.
    means = {name: side.vectors().mean(axis=0) for name, side in sides.items()}
    shared = (means["image"] + means["text"]) / 2
    for name, part in zip(sides, np.split(judges, 2), strict=True):
        whole = EmbeddingStore.open(tmp_path / "m" / "vectors" / name).vectors()
        seen = np.concatenate([sides[name].vectors(), asked[name], part + means[name] - shared])
        assert [len(sides[name]), len(asked[name]), len(part)] == [44, 11, 5]
        np.testing.assert_allclose(np.sort(seen, axis=0), np.sort(whole, axis=0), atol=1e-5)
    assert [evaluation["step"] for evaluation in done.result.evaluations] == [4, 8, 12]


@pytest.mark.parametrize("name", ["csr", "csrv2"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_add_up_to_its_gradient(name, parts):
    # Without contrast the loss is a mean over the rows, so parts change nothing but rounding.
    settings = {"contrastive_weight": 0.0, "supervised_weight": 0.0, "aux_weight": 0.0, "k": 4}
    whole, divided = (fit(noise(), name, accumulate=n, **settings) for n in (1, parts))
    for one, other in zip(whole.head.parameters(), divided.head.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for one, other in zip(whole.history, divided.history, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["fvu"] == pytest.approx(one["fvu"], rel=1e-4)
        assert other["dead_fraction"] == one["dead_fraction"]


def in_two_halves(store, head, variance, steps, rate):
    """Nested's reconstruction by plain autograd: a backward pass for each half of every batch."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
    for epoch in range(steps):
        (order,) = store.batches(len(store), seed=0, epoch=epoch)
        for half in np.split(order, 2):
            x = torch.from_numpy(store.rows(half))
            errors = [(x - head.decode(*head.encode(x, k))).square().sum(dim=1) for k in (2, 4)]
            loss = torch.stack([(error.mean() / variance).log() for error in errors]).mean()
            (loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head


def test_nested_in_parts_is_the_mean_of_their_gradients():
    vectors = noise(n=32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # nothing left to scale by
    centre = vectors.mean(axis=0)
    variance = float(((vectors - centre) ** 2).sum(axis=1).mean())
    expected = SparseCSRHead(8, 32, 4, tied=True)
    expected.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected.pre_bias.copy_(torch.from_numpy(centre))
    in_two_halves(EmbeddingStore.from_array(vectors), expected, variance, steps=6, rate=1e-2)
    alone = {"contrastive_weight": 0.0, "distillation_weight": 0.0, "aux_weight": 0.0}
    alone["fvu_floor"] = 0.0
    plain = {"schedule": "constant", "warmup": 0.0, "gradient_clip": 0.0}
    settings = {**alone, **plain, "steps": 6, "learning_rate": 1e-2}
    whole, halves = (fit(vectors, accumulate=n, **settings).head for n in (1, 2))
    for one, other in zip(expected.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    # The mean of two logarithms is not the logarithm of the mean: one pass gives other weights.
    assert not torch.allclose(whole.encoder_weight, halves.encoder_weight, atol=1e-4)


def test_no_more_than_a_part_is_computed_at_once(monkeypatch):
    calls = seen_by(Objective, "forward", monkeypatch)
    fit(noise(), "csr", accumulate=4, steps=3)
    assert [len(batch.vectors) for (_, batch, _), _ in calls] == [32 // 4] * 4 * 3


def test_nested_learns_in_parts_too():
    result = fit(noise(), accumulate=4, steps=100, learning_rate=1e-2, batch_size=64)
    assert result.history[-1]["fvu"]["4"] < result.history[0]["fvu"]["4"]
    assert set(result.history[-1]["terms"]) == set(fit(noise()).history[-1]["terms"])


def test_a_batch_is_split_without_loss():
    rows = torch.arange(12.0).reshape(6, 2)
    batch = Batch(rows, torch.arange(6), rows[:1], rows[1:2], None)
    parts = split_batch(batch, 3)
    assert torch.equal(torch.cat([part.vectors for part in parts]), rows)
    assert [part.labels.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    held = [part.anchors for part in parts if part.anchors is not None]
    assert len(held) == 1
    assert torch.equal(held[0], rows[:1])
    assert split_batch(batch, 1)[0] is batch


def test_batches_must_divide_into_their_parts():
    with pytest.raises(ValueError, match=r"batch_size=32 .*accumulate=3 .*multiple of 3"):
        fit(noise(), accumulate=3)
    assert fill_in(recipe(batch_size=512, accumulate=8, hidden_dim=8, k=4), 100, 8).batch_size == 96
    for field in ("accumulate", "evaluate_every"):
        with pytest.raises(ValueError, match=f"{field}=0 must be within 1"):
            recipe(**{field: 0})
    with pytest.raises(ValueError, match="patience=-1 must be within 0"):
        recipe(patience=-1)
    with pytest.raises(TypeError, match="compile=1 must be True or False"):
        recipe(compile=1)


class Notebook(GeneralTracker):
    """Remembers what it is told."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.settings, self.told, self.finished = {}, [], 0

    @property
    def tracker(self):
        return self.told

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.told.append((step, values))

    def finish(self):
        self.finished += 1


def test_trackers_are_told_settings_and_figures():
    notebook = Notebook()
    result = fit(noise(), steps=30, held_out=noise(n=9), evaluate_every=15, log_with=notebook)
    assert notebook.settings["learning_rate"] == result.config.learning_rate
    assert notebook.finished == 1
    assert [step for step, _ in notebook.told] == [15, 25, 30, 30]
    last = result.history[-1]
    assert notebook.told[2][1]["loss"] == last["loss"]
    assert notebook.told[2][1]["fvu/4"] == last["fvu"]["4"]
    figure = result.evaluations[-1]["log_fvu"]
    assert notebook.told[3][1] == {"held_out_log_fvu": figure, "held_out_loss": figure}
    assert same_bits(result.last, fit(noise(), steps=30).head)


def test_trackers_that_are_not_installed_are_told(monkeypatch):
    from accelerate import accelerator

    monkeypatch.setattr(accelerator, "filter_trackers", lambda *_, **__: [])
    with pytest.raises(ValueError, match="log_with='wandb' is not installed; pip install wandb"):
        fit(noise(), log_with="wandb")


@pytest.mark.parametrize("place", [0.05, 0.5, 0.99])
def test_an_altered_checkpoint_is_noticed(tmp_path, place):
    fit(noise(), output=tmp_path)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    content = bytearray(newest.read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    content[begin + int(place * (len(content) - begin))] ^= 1
    newest.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged \(its bytes are not those .*; delete it"):
        fit(noise(), output=tmp_path, resume=True)


def test_an_altered_history_of_a_checkpoint_is_noticed(tmp_path):
    fit(noise(), output=tmp_path)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    content = newest.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["step"] = "11"
    changed = json.dumps(header).encode()
    newest.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(ValueError, match="is damaged"):
        fit(noise(), output=tmp_path, resume=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own parts
def test_a_compiled_loss_is_the_same_loss():
    plain, compiled = (
        fit(noise(), "csr", contrastive_weight=0.0, compile=wanted) for wanted in (False, True)
    )
    assert compiled.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=1e-4)
    torch.testing.assert_close(
        compiled.head.encoder_weight, plain.head.encoder_weight, rtol=1e-4, atol=1e-5
    )
