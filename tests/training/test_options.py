"""Training's options: validation set, maps of short codes, trackers, damaged checkpoints."""

import json
import math

import datasets
import numpy as np
import pytest
import tiny_clip
import torch
from accelerate.tracking import GeneralTracker
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer

from csr_st import embed_and_train, workflow
from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.evaluation import held_out
from csr_st.training import checkpoint
from csr_st.training.early_stopping import best_of, out_of_patience
from csr_st.training.loop import train

TINY = {
    "hidden_dim": 32,
    "k": 4,
    "ks": (2, 4),
    "batch_size": 32,
    "steps": 12,
    "evaluate_every": 4,
}
NESTED = {**TINY, "refit": 0, "pursuit_rounds": 0, "short_ks": (), "debias": False}


def noise(n=64, dim=8, seed=0):
    """Vectors with nothing to learn that holds for others: training soon overfits."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def fit(vectors, name="nested", validation=None, **settings):
    names = ("output", "resume", "checkpoint_every", "log_with")
    options = {key: settings.pop(key) for key in names if key in settings}
    if validation is not None:
        options["validation"] = EmbeddingStore.from_array(validation)
    store = EmbeddingStore.from_array(vectors)
    config = recipe(name, **{**(NESTED if name == "nested" else TINY), **settings})
    return train(store, config, show_progress=False, **options)


def test_the_last_head_has_maps_too():
    result = fit(noise(), validation=noise(n=20, seed=1), short_ks=(2,))
    assert result.last.short_ks == result.head.short_ks == [2]


@pytest.mark.parametrize(
    ("settings", "short_ks"),
    [
        ({"short_ks": (2, 4, 8)}, [2, 4, 8]),
        ({"short_ks": (2, 33)}, [2]),  # beyond hidden_dim
        ({"short_ks": ()}, []),
        ({"name": "csr"}, []),  # as the paper has it
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


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_the_best_head_is_kept_and_training_ends_when_none_better_comes(factor):
    vectors, unseen = noise() * np.float32(factor), noise(n=200, seed=1) * np.float32(factor)
    result = fit(vectors, validation=unseen, patience=5, **OVERFITTING)
    figures = [evaluation["log_fvu"] for evaluation in result.evaluations]
    assert len(figures) == np.argmin(figures) + 1 + 5
    assert result.evaluations[-1]["step"] == 4 * len(figures) < 400
    variance = float(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert log_fvu(result.head, unseen, variance) == pytest.approx(min(figures), rel=1e-4)
    assert log_fvu(result.last, unseen, variance) == pytest.approx(figures[-1], rel=1e-4)


def test_measuring_changes_nothing_of_the_training():
    plain = fit(noise())
    measured = fit(noise(), validation=noise(n=20, seed=1))
    assert [evaluation["step"] for evaluation in measured.evaluations] == [4, 8, 12]
    assert same_bits(plain.head, measured.last)
    assert plain.history == measured.history
    assert plain.evaluations == []
    assert plain.last is None


def test_both_heads_get_a_decoder_that_is_solved_for():
    vectors, unseen = noise(), noise(n=200, seed=1)
    rough, solved = (
        fit(vectors, validation=unseen, patience=2, refit=refit, **OVERFITTING) for refit in (0, 5)
    )
    for name in ("head", "last"):
        before, after = getattr(rough, name), getattr(solved, name)
        assert torch.equal(before.encoder_weight, after.encoder_weight)
        assert log_fvu(after, vectors, 1.0) < log_fvu(before, vectors, 1.0)


def test_labels_of_the_validation_set_count_as_they_do_in_training():
    classes = np.arange(64) % 4
    stores = [EmbeddingStore.from_array(noise(seed=seed), labels=classes) for seed in (0, 1)]
    settings = recipe(**NESTED, supervised_weight=2.0, supervised_temperature=0.5)
    result = train(stores[0], settings, validation=stores[1], show_progress=False)
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
    options = {"validation": noise(n=200, seed=1), "patience": 2, "output": tmp_path, **OVERFITTING}
    first = fit(noise(), **options)
    again = fit(noise(), resume=True, **options)
    assert first.evaluations == again.evaluations
    assert first.history == again.history
    assert same_bits(first.head, again.head)
    assert same_bits(first.last, again.last)


def test_another_validation_set_is_another_run(tmp_path):
    fit(noise(), validation=noise(seed=1), output=tmp_path)
    with pytest.raises(ValueError, match=r"another run: validation was '.*', is '.*'"):
        fit(noise(), validation=noise(seed=2), output=tmp_path, resume=True)


def test_a_validation_set_must_fit_and_patience_needs_it():
    with pytest.raises(ValueError, match=r"patience=3 needs validation=.*store\.split"):
        fit(noise(), patience=3)
    with pytest.raises(ValueError, match=r"validation has 64 vectors of width 9; .* width 8"):
        fit(noise(), validation=noise(dim=9))


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


@pytest.mark.parametrize(("patience", "validated"), [(0, 0), (1, 36)])
def test_what_decides_when_to_stop_is_neither_trained_nor_measured_on(
    tmp_path, monkeypatch, patience, validated
):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    trained = seen_by(embed_and_train, "train", monkeypatch)
    measured = seen_by(held_out, "evaluate", monkeypatch)
    vectors = noise(n=400)
    store = EmbeddingStore.from_array(vectors)
    done = workflow.train_vectors(store, tmp_path, recipe(**NESTED, patience=patience))
    ((training, *_), options), ((_, figures_on), about) = trained[0], measured[0]
    validation = options["validation"]
    groups = [row_set(training.vectors()), row_set(figures_on)]
    groups.append(row_set(validation.vectors()) if patience else set())
    assert row_set(about["fit_on"]) == groups[0]
    assert [len(group) for group in groups] == [360 - validated, 40, validated]
    assert set.union(*groups) == row_set(vectors)
    assert len(done.result.evaluations) == (3 if patience else 0)


@pytest.mark.filterwarnings("ignore:.*vectors are few")
def test_pairs_of_modalities_are_validated_together(tmp_path, monkeypatch):
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
    trained = seen_by(embed_and_train, "train_pairs", monkeypatch)
    measured = seen_by(workflow, "evaluate_pairs", monkeypatch)
    config = recipe(**NESTED, patience=9)
    done = workflow.train_model(
        clip, data, tmp_path / "m", config, pair_columns=("image", "caption")
    )
    ((sides, _), options), ((_, queries), _) = trained[0], measured[0]
    validation = options["validation"].vectors()
    # The validation set is shifted as training's rows are, to the mean that both sides have there.
    means = {name: side.vectors().mean(axis=0) for name, side in sides.items()}
    shared = (means["image"] + means["text"]) / 2
    for name, part in zip(sides, np.split(validation, 2), strict=True):
        whole = EmbeddingStore.open(tmp_path / "m" / "vectors" / name).vectors()
        seen = np.concatenate([sides[name].vectors(), queries[name], part + means[name] - shared])
        assert [len(sides[name]), len(queries[name]), len(part)] == [44, 11, 5]
        np.testing.assert_allclose(np.sort(seen, axis=0), np.sort(whole, axis=0), atol=1e-5)
    assert [evaluation["step"] for evaluation in done.result.evaluations] == [4, 8, 12]


class Notebook(GeneralTracker):
    """Remembers what is logged."""

    name = "notebook"
    requires_logging_directory = False

    def __init__(self):
        super().__init__()
        self.settings, self.logged, self.finished = {}, [], 0

    @property
    def tracker(self):
        return self.logged

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1


def test_trackers_get_settings_and_figures():
    notebook = Notebook()
    result = fit(noise(), steps=30, validation=noise(n=9), evaluate_every=15, log_with=notebook)
    assert notebook.settings["learning_rate"] == result.config.learning_rate
    assert notebook.finished == 1
    assert [step for step, _ in notebook.logged] == [15, 25, 30, 30]
    last = result.history[-1]
    assert notebook.logged[2][1]["loss"] == last["loss"]
    assert notebook.logged[2][1]["fvu/4"] == last["fvu"]["4"]
    figure = result.evaluations[-1]["log_fvu"]
    assert notebook.logged[3][1] == {"validation_log_fvu": figure, "validation_loss": figure}
    assert same_bits(result.last, fit(noise(), steps=30).head)


def test_trackers_that_are_not_installed_are_refused(monkeypatch):
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


def test_a_store_given_to_train_model_fits_the_model_and_has_no_columns(backbone, rng, tmp_path):
    narrow = EmbeddingStore.from_array(rng.normal(size=(60, 9)))
    with pytest.raises(ValueError, match="store of width 9, the model has width 16"):
        workflow.train_model(backbone, narrow, tmp_path / "m")
    store = EmbeddingStore.from_array(rng.normal(size=(60, 16)))
    with pytest.raises(ValueError, match=r"no columns: leave out \['label_column'\]"):
        workflow.train_model(backbone, store, tmp_path / "m", label_column="label")


def test_a_checkpoint_from_before_a_setting_of_the_last_step_continues(tmp_path):
    settings = {**TINY, "pursuit_rounds": 1}
    store = EmbeddingStore.from_array(noise())
    whole = train(store, recipe(**settings), output=tmp_path, checkpoint_every=6)
    newest, path = sorted((tmp_path / "checkpoints").glob("*"), reverse=True)
    newest.unlink()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    identity = json.loads(metadata["identity"])
    for name in ("debias", "pursuit_rounds"):
        del identity["config"][name]
    metadata["identity"] = json.dumps(identity, sort_keys=True)
    del metadata["checksum"]
    metadata["checksum"] = checkpoint._checksum(tensors, metadata)
    save_file(tensors, path, metadata)
    resumed = train(store, recipe(**settings), output=tmp_path, resume=True)
    torch.testing.assert_close(resumed.head.decoder_weight, whole.head.decoder_weight)
    assert resumed.head.debias
