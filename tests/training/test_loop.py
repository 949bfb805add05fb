"""Training: a head learns, runs repeat and resume to the bit, and odd data does no harm."""

import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from training_runs import KINDS, run, store_of

from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.training import checkpoint
from csr_st.training.loop import train
from csr_st.training.setup import fill_in, rate_at

RUNS = str(Path(__file__).parents[1].joinpath("training_runs.py"))
TINY = {"hidden_dim": 32, "k": 4, "ks": (2, 4), "batch_size": 32, "steps": 12}


def sparse_sums(n=600, dim=16, atoms=32, seed=0):
    """Sums of two of 32 directions: two latents could give each row, two dimensions cannot."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(atoms, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = np.argsort(rng.random((n, atoms)), axis=1)[:, :2]
    sizes = 1 + rng.random((n, 2))
    return np.einsum("nk,nkd->nd", sizes, directions[chosen]).astype(np.float32)


def fit(data, name="nested", **settings):
    options = {key: settings.pop(key) for key in ("output", "resume") if key in settings}
    store = data if isinstance(data, EmbeddingStore) else EmbeddingStore.from_array(data)
    return train(store, recipe(name, **{**TINY, **settings}), show_progress=False, **options)


def unexplained(head, vectors, k):
    """The fraction of variance that a head misses, from its public encode and decode."""
    x = torch.from_numpy(vectors)
    with torch.no_grad():
        error = (x - head.decode(*head.encode(x, k))).square().sum()
    return float(error / (x - x.mean(dim=0)).square().sum())


def parameters_of(result):
    return {name: value.detach() for name, value in result.head.named_parameters()}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["nested", "csr"])
def test_a_head_explains_far_more_than_pca_at_the_same_k(name):
    vectors = sparse_sums()
    result = fit(
        vectors,
        name,
        hidden_dim=64,
        k=2,
        batch_size=64,
        steps=250,
        learning_rate=1e-2,
        contrastive_weight=0.0,
    )
    missed_by_pca = 1 - PCA(2).fit(vectors).explained_variance_ratio_.sum()
    assert unexplained(result.head, vectors, 2) < missed_by_pca / 3
    unseen = sparse_sums(seed=0, n=900)[600:]  # the same directions
    assert unexplained(result.head, unseen, 2) < missed_by_pca / 2


def test_the_history_describes_the_head_that_comes_out():
    vectors = sparse_sums(n=96)
    as_trained = {"refit": 0, "pursuit_rounds": 0, "short_ks": (), "debias": False}
    result = fit(vectors, batch_size=96, steps=40, learning_rate=1e-6, **as_trained)
    last = result.history[-1]
    assert last["step"] == 40
    assert last["loss"] == pytest.approx(sum(last["terms"].values()))
    for k in (2, 4):  # at such a rate the last step changes nothing that counts
        assert last["fvu"][str(k)] == pytest.approx(unexplained(result.head, vectors, k), rel=1e-3)
    assert [record["step"] for record in result.history] == [25, 40]
    assert 0 <= last["dead_fraction"] <= 1


def test_dead_latents_are_those_that_no_row_activates_at_k():
    vectors = sparse_sums(n=64)
    result = fit(
        vectors,
        batch_size=64,
        steps=5,
        k=2,
        ks=(2,),
        cluster_rounds=0,
        dead_after_examples=64,
        learning_rate=1e-7,
    )
    code = result.head.encode(torch.from_numpy(vectors), 2)
    used = len(set(code.indices[code.values > 0].tolist()))
    assert 0 < used < 32
    assert result.history[-1]["dead_fraction"] == pytest.approx(1 - used / 32)


def test_pre_bias_starts_at_the_mean_of_the_data():
    vectors = sparse_sums(n=64) + 5
    result = fit(vectors, "csr", steps=1, learning_rate=1e-9)
    np.testing.assert_allclose(result.head.pre_bias.detach(), vectors.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_takes_the_same_course_without_numba(tmp_path, kind, monkeypatch):
    pytest.importorskip("numba")
    found = run(tmp_path / "compiled", kind, {"steps": 20})
    monkeypatch.setattr("csr_st.training.compiled.dispatch.available", lambda: False)
    expected = run(tmp_path / "plain", kind, {"steps": 20})
    for name, term in expected.history[-1]["terms"].items():
        assert found.history[-1]["terms"][name] == pytest.approx(term, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_seed_gives_the_same_bits_again(tmp_path, kind):
    settings = {"steps": 8}
    first, again = (run(tmp_path / name, kind, settings) for name in ("one", "two"))
    assert_same_bits(parameters_of(first), parameters_of(again))
    other = run(tmp_path / "three", kind, settings | {"seed": 4})
    assert not torch.equal(first.head.encoder_weight, other.head.encoder_weight)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, kind, monkeypatch):
    # The last checkpoint of a stopped run is older than the moment at which it stopped.
    settings = {"steps": 30}
    uninterrupted = run(tmp_path / "uninterrupted", kind, settings)
    stop_at_step(monkeypatch, 25)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", kind, settings, checkpoint_every=9)
    monkeypatch.undo()
    names = [path.name for path in sorted((tmp_path / "parts" / "checkpoints").iterdir())]
    assert names == ["step-000000009.safetensors", "step-000000018.safetensors"]
    resumed = run(tmp_path / "parts", kind, settings, resume=True)
    assert_same_bits(parameters_of(uninterrupted), parameters_of(resumed))
    assert uninterrupted.history == resumed.history
    assert uninterrupted.evaluations == resumed.evaluations


def stop_at_step(monkeypatch, number):
    from csr_st.training import loop as training

    def stopping(*arguments):
        for step, batch in feed(*arguments):
            if step == number:
                raise KeyboardInterrupt
            yield step, batch

    feed = training.feed
    monkeypatch.setattr(training, "feed", stopping)


def test_runs_killed_at_random_end_with_the_bits_of_an_uninterrupted_one(tmp_path):
    command = [sys.executable, RUNS, "kill", str(tmp_path / "run"), "8", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    killed, resumable = map(int, done.stdout.split())
    assert killed >= 4  # the rest ended before they were killed
    assert resumable >= 1
    for name in ("weights.safetensors", "history.json", "evaluations.json"):
        one, other = (tmp_path / folder / name for folder in ("run", "run.uninterrupted"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_two_processes_have_the_losses_of_one(tmp_path, kind):
    # On a machine without accelerators `accelerate launch` needs MPI for a second process;
    # torchrun is what it runs elsewhere.
    (tmp_path / "two").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [RUNS, "once", str(tmp_path / "two"), kind]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    one = run(tmp_path / "one", kind)
    two = json.loads((tmp_path / "two" / "history.json").read_text())
    assert len(two) == len(one.history) == 3
    for expected, found in zip(one.history, two, strict=True):
        for name in ("terms", "fvu"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4)
        assert found["dead_fraction"] == pytest.approx(expected["dead_fraction"])
    found = json.loads((tmp_path / "two" / "evaluations.json").read_text())
    figures, expected = ([e["log_fvu"] for e in run] for run in (found, one.evaluations))
    assert figures == pytest.approx(expected, rel=1e-4)
    assert one.history[-1]["terms"]["aux"] > 0  # some latents are dead, so AuxK was compared too


def test_a_process_leaves_the_others_before_python_ends(tmp_path):
    script = f"""
import atexit, torch.distributed as processes
atexit.register(lambda: print(processes.is_initialized()))
from csr_st.processes import leave_at_exit
processes.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=0, world_size=1)
leave_at_exit()
print(processes.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_finished_runs_resume_to_what_they_were(tmp_path):
    first = fit(sparse_sums(n=64), output=tmp_path)
    again = fit(sparse_sums(n=64), output=tmp_path, resume=True)
    assert_same_bits(parameters_of(first), parameters_of(again))
    assert json.loads((tmp_path / "history.json").read_text()) == again.history


def test_resuming_where_nothing_was_begun_begins(tmp_path):
    result = fit(sparse_sums(n=64), output=tmp_path / "new", resume=True)
    assert result.history[-1]["step"] == 12


def test_without_resume_an_earlier_run_does_not_matter(tmp_path):
    fit(sparse_sums(n=64), output=tmp_path, seed=1)
    second = fit(sparse_sums(n=64), output=tmp_path, seed=2)
    fresh = fit(sparse_sums(n=64), seed=2)
    assert_same_bits(parameters_of(second), parameters_of(fresh))


def test_a_run_that_stops_early_in_a_used_folder_resumes_as_itself(tmp_path, monkeypatch):
    settings = {"steps": 30, "seed": 2}
    uninterrupted = run(tmp_path / "uninterrupted", settings=settings)
    run(tmp_path / "used", settings={"steps": 40})
    stop_at_step(monkeypatch, 25)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "used", settings=settings, checkpoint_every=9)
    monkeypatch.undo()
    resumed = run(tmp_path / "used", settings=settings, resume=True)
    assert_same_bits(parameters_of(uninterrupted), parameters_of(resumed))


def test_checkpoints_of_other_settings_or_data_are_refused(tmp_path):
    vectors = sparse_sums(n=64)
    fit(vectors, output=tmp_path)
    with pytest.raises(ValueError, match="another run: seed was 0, is 5; train into another"):
        fit(vectors, output=tmp_path, resume=True, seed=5)
    with pytest.raises(ValueError, match=r"another run: data was '.*', is '.*'; train"):
        fit(vectors[::-1].copy(), output=tmp_path, resume=True)
    labelled = EmbeddingStore.from_array(vectors, labels=np.arange(64) % 2)
    with pytest.raises(ValueError, match="another run: data was"):
        fit(labelled, output=tmp_path, resume=True)


OLD = {  # what version 0.1 kept of a configuration beside the settings of today
    **dict.fromkeys(("ema", "curriculum", "weight_decay"), 0.0),
    **{"anchors": 1.0, "accumulate": 1, "compile": False, "wide_weight": 0.125},
    **{"adam_epsilon": 1e-8, "initial_k": 64, "anneal": 0.7},
}


def as_of_version_0_1(path, **changes):
    """Rewrite a checkpoint with the names and the settings of version 0.1."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["checksum"]
    identity = json.loads(metadata["identity"])
    identity["config"] |= OLD | changes
    identity["held_out"] = identity.pop("validation")
    metadata["identity"] = json.dumps(identity, sort_keys=True)
    old = {name.replace("logit_scale", "log_sharpness"): x for name, x in tensors.items()}
    metadata["checksum"] = checkpoint._checksum(old, metadata)
    save_file(old, path, metadata)


def test_a_checkpoint_of_version_0_1_resumes_to_the_same_bits(tmp_path):
    uninterrupted = run(tmp_path / "uninterrupted", "validation", {"steps": 30})
    run(tmp_path / "parts", "validation", {"steps": 30}, checkpoint_every=9)
    folder = tmp_path / "parts" / "checkpoints"
    (folder / "step-000000030.safetensors").unlink()
    as_of_version_0_1(folder / "step-000000027.safetensors")
    resumed = run(tmp_path / "parts", "validation", {"steps": 30}, resume=True)
    assert_same_bits(parameters_of(uninterrupted), parameters_of(resumed))
    assert uninterrupted.history == resumed.history
    assert uninterrupted.evaluations == resumed.evaluations


@pytest.mark.parametrize(
    ("name", "value"), [("ema", 0.9), ("accumulate", 4), ("weight_decay", 0.01)]
)
def test_a_checkpoint_with_an_option_of_version_0_1_in_use_is_refused(tmp_path, name, value):
    run(tmp_path, "validation", {"steps": 9})
    as_of_version_0_1(tmp_path / "checkpoints" / "step-000000009.safetensors", **{name: value})
    with pytest.raises(ValueError, match=f"trained with {name}={value}, an option that this"):
        run(tmp_path, "validation", {"steps": 9}, resume=True)


@pytest.mark.parametrize("keep", [0, 20, 0.5, -1])
def test_damaged_checkpoints_are_refused_and_the_one_before_resumes(tmp_path, keep, monkeypatch):
    vectors = sparse_sums(n=64)
    uninterrupted = fit(vectors)
    train(
        EmbeddingStore.from_array(vectors),
        recipe("nested", **TINY),
        output=tmp_path,
        checkpoint_every=7,
        show_progress=False,
    )
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=f"{re.escape(str(newest))} is damaged .*; delete it"):
        fit(vectors, output=tmp_path, resume=True)
    newest.unlink()
    assert_same_bits(
        parameters_of(fit(vectors, output=tmp_path, resume=True)), parameters_of(uninterrupted)
    )


def test_resuming_needs_a_folder_and_checkpoints_a_distance():
    with pytest.raises(ValueError, match="resume=True needs output="):
        fit(sparse_sums(n=64), resume=True)
    with pytest.raises(ValueError, match="checkpoint_every=0 must be at least 1"):
        train(EmbeddingStore.from_array(sparse_sums(n=64)), checkpoint_every=0)


@pytest.mark.parametrize("factor", [30.0, 1 / 30])
def test_the_size_of_vectors_does_not_matter(factor):
    vectors = sparse_sums(n=200)
    plain, scaled = (fit(x, steps=40).head for x in (vectors, vectors * np.float32(factor)))
    x = torch.from_numpy(vectors)
    one, other = plain.encode(x), scaled.encode(x * factor)
    assert torch.equal(one.indices, other.indices)
    torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        plain.decode(*one) * factor, scaled.decode(*other), rtol=1e-3, atol=1e-4 * factor
    )


def test_fewer_vectors_than_a_batch():
    result = fit(sparse_sums(n=33), batch_size=512)
    assert result.config.batch_size == 33
    assert np.isfinite(result.history[-1]["loss"])


def test_two_vectors_are_enough_and_one_is_not():
    with pytest.warns(UserWarning, match="2 vectors are few for hidden_dim=32"):
        result = fit(sparse_sums(n=2))
    assert np.isfinite(result.history[-1]["loss"])
    with pytest.raises(ValueError, match="1 vectors cannot be trained on; give at least 2"):
        fit(sparse_sums(n=1))


def test_few_vectors_for_many_latents_give_a_warning():
    with pytest.warns(UserWarning, match=r"100 vectors are few for hidden_dim=128: .*give more"):
        fit(sparse_sums(n=100), hidden_dim=128)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(sparse_sums(n=128), hidden_dim=128)


@pytest.mark.parametrize("name", ["nested", "csr", "csrv2"])
@pytest.mark.parametrize("kind", ["equal", "zero", "twice", "one row is zero"])
def test_odd_data_gives_finite_heads(name, kind):
    vectors = sparse_sums(n=64)
    data = {
        "equal": np.repeat(vectors[:1] * 5, 64, axis=0),
        "zero": np.zeros((64, 16), np.float32),
        "twice": np.repeat(vectors[:32], 2, axis=0),
        "one row is zero": np.concatenate([np.zeros((1, 16), np.float32), vectors[1:]]),
    }[kind]
    result = fit(data, name, dead_after_examples=64)
    assert all(torch.isfinite(value).all() for value in parameters_of(result).values())
    assert np.isfinite(result.history[-1]["loss"])
    code = result.head.encode(torch.from_numpy(data))
    assert torch.isfinite(result.head.decode(*code)).all()


def test_equal_rows_are_reconstructed():
    data = np.repeat(sparse_sums(n=1) * 5, 64, axis=0)
    head = fit(data, steps=60).head
    x = torch.from_numpy(data)
    error = (x - head.decode(*head.encode(x))).norm(dim=1) / x.norm(dim=1)
    assert float(error.detach().max()) < 0.05


def test_every_latent_may_be_active():
    for name in ("nested", "csr", "csrv2"):
        result = fit(sparse_sums(n=64), name, hidden_dim=8, k=8, ks=(2, 8, 64))
        assert np.isfinite(result.history[-1]["loss"])


def labelled_blobs(n=800, seed=0):
    """Sums of one of 8 class centres and one of 32 louder centres that say nothing of the class."""
    fixed = np.random.default_rng(99)
    centres, loud = fixed.normal(size=(8, 24)), 2 * fixed.normal(size=(32, 24))
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=n)
    vectors = centres[labels] + loud[rng.integers(32, size=n)] + 0.2 * rng.normal(size=(n, 24))
    return vectors.astype(np.float32), labels


def neighbour_accuracy(head, k):
    """5-NN on unseen rows, by scikit-learn on dense unit codes."""
    (known, classes), (queries, truth) = labelled_blobs(), labelled_blobs(n=300, seed=1)

    def codes(vectors):
        code = head.encode(torch.from_numpy(vectors), k)
        rows = torch.zeros(len(vectors), head.hidden_dim).scatter(1, code.indices, code.values)
        return torch.nn.functional.normalize(rows).detach().numpy()

    return KNeighborsClassifier(5).fit(codes(known), classes).score(codes(queries), truth)


# csrv2 weighs the term against squared errors of raw vectors, which are large here.
@pytest.mark.parametrize(("name", "weight"), [("nested", 3.0), ("csrv2", 300.0)])
def test_labels_raise_accuracy_at_two_latents(name, weight):
    vectors, labels = labelled_blobs()
    settings = {
        "hidden_dim": 96,
        "k": 2,
        **({"initial_k": 8} if name == "csrv2" else {}),
        "batch_size": 100,
        "steps": 120,
        "learning_rate": 5e-3,
        "supervised_weight": weight,
    }
    plain, taught = (
        neighbour_accuracy(
            fit(EmbeddingStore.from_array(vectors, labels=given), name, **settings).head, 2
        )
        for given in (None, labels)
    )
    assert taught > plain + 0.15


def test_pairs_bring_their_codes_together():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 24)).astype(np.float32)
    vectors[200:, :6] = vectors[:200, :6]  # partners agree in a quarter of the dimensions
    pairs = np.stack([np.arange(200), np.arange(200, 400)], axis=1)
    settings = {"hidden_dim": 96, "k": 8, "ks": (4, 8), "steps": 120, "batch_size": 100}

    def found(store):
        """How often the partner is the nearest of all."""
        head = fit(store, **settings, learning_rate=5e-3).head
        code = head.encode(torch.from_numpy(vectors), 8)
        rows = torch.zeros(400, 96).scatter(1, code.indices, code.values).detach()
        rows = torch.nn.functional.normalize(rows)
        return float(
            ((rows[:200] @ rows[200:].T).argmax(dim=1) == torch.arange(200)).float().mean()
        )

    alone = found(EmbeddingStore.from_array(vectors))
    assert found(EmbeddingStore.from_array(vectors, pairs=pairs)) > alone + 0.15


def test_one_pair_is_no_trouble():
    store = EmbeddingStore.from_array(sparse_sums(n=64), pairs=[[3, 5]])
    assert fit(store).history[-1]["terms"]["pairs"] == pytest.approx(0, abs=1e-6)


def test_bf16_learns_like_fp32_and_either_may_follow_the_other():
    vectors = sparse_sums(n=256)
    settings = {"batch_size": 64, "steps": 60, "learning_rate": 5e-3, "dead_after_examples": 128}
    exact, rough, again = (
        fit(vectors, precision=precision, **settings) for precision in ("fp32", "bf16", "fp32")
    )
    assert_same_bits(parameters_of(exact), parameters_of(again))
    assert {value.dtype for value in parameters_of(rough).values()} == {torch.float32}
    assert not torch.equal(exact.head.encoder_weight, rough.head.encoder_weight)
    assert unexplained(rough.head, vectors, 4) == pytest.approx(
        unexplained(exact.head, vectors, 4), abs=0.05
    )


def test_the_rate_rises_and_falls_by_the_schedule():
    config = recipe("nested", steps=100, warmup=0.1, schedule="cosine")
    rates = [rate_at(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1
    assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[99] < 0.001
    flat = recipe("nested", steps=100, warmup=0.0, schedule="constant")
    assert {rate_at(flat, step) for step in range(100)} == {1.0}


def test_settings_left_open_are_filled_in_from_the_data():
    config = fill_in(recipe("nested", batch_size=100), 5_000, 64)
    assert config.hidden_dim > 64
    assert config.steps * 100 >= 5_000  # at least one pass over the data
    assert fill_in(config, 5_000, 64) == config
    few, many = (fill_in(recipe("nested", hidden_dim=512), n, 64).fvu_floor for n in (512, 51_200))
    assert (few, many) == (pytest.approx(0.05), pytest.approx(0.0005))
    assert fill_in(recipe("nested", fvu_floor=0.0), 5_000, 64).fvu_floor == 0
    with pytest.raises(ValueError, match=r"batch_size=5 is that of all 2 processes .*multiple"):
        fill_in(recipe("nested", batch_size=5, hidden_dim=32), 100, 8, processes=2)


@pytest.mark.parametrize(
    ("kind", "weight"), [("nested", "pair_weight"), ("untied", "score_weight")]
)
def test_labels_and_pairs_of_a_store_are_what_the_recipe_weighs(kind, weight):
    terms = fit(store_of(kind)).history[-1]["terms"]
    assert {"supervised", "pairs"} <= terms.keys()
    without = fit(store_of(kind), supervised_weight=0.0, **{weight: 0.0}).history[-1]["terms"]
    assert not {"supervised", "pairs"} & without.keys()
