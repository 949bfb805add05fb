"""What is trained is kept: last steps that fail warn, and a run that stops says how to go on."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import workflow
from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.training import checkpoint
from csr_st.training.loop import train

TINY = {"hidden_dim": 32, "k": 4, "ks": (2, 4), "batch_size": 32, "steps": 12, "short_ks": (2,)}


def noise(n=400, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def fit(**options):
    return train(EmbeddingStore.from_array(noise()), recipe(**TINY), show_progress=False, **options)


def fail(*_, **__):
    raise RuntimeError("planted")


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "words", "short_ks"),
    [
        ("refit_decoder", "fitting the decoder failed .RuntimeError: planted.; the head has", [2]),
        ("refit_for_pursuit", "codes by pursuit failed .RuntimeError: planted.; codes by", [2]),
        ("fit_residual_basis", "axes of residual bits failed .RuntimeError: planted.*alike", [2]),
        ("fit_short_maps", r"fitting maps for codes of k=\[2\] failed .*resume=True", []),
        ("logging.end_trackers", "closing the trackers failed", [2]),
        ("write_atomically", "writing .*history.json failed", [2]),
    ],
)
def test_a_last_step_of_training_that_fails_warns_and_leaves_the_trained_head(
    tmp_path, monkeypatch, step, words, short_ks
):
    whole = fit()
    monkeypatch.setattr(f"csr_st.training.loop.{step}", fail)
    with pytest.warns(UserWarning, match=words):
        result = fit(output=tmp_path)
    assert result.head.short_ks == short_ks
    assert len(result.history) == 1
    vectors = torch.from_numpy(noise(seed=1))
    for one, other in zip(result.head.encode(vectors), whole.head.encode(vectors), strict=True):
        assert torch.equal(one, other)
    monkeypatch.undo()
    # The trained state was on disk before: resuming goes on from there to the last steps.
    monkeypatch.setattr("csr_st.training.loop.Objective.forward", fail)
    again = fit(output=tmp_path, resume=True)
    for one, other in zip(again.head.parameters(), whole.head.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("step", "words", "files"),
    [
        ("workflow.evaluate_held_out", "the evaluation failed .*csr-st evaluate", set()),
        ("workflow.search_time", "timing the search failed", {"evaluation.json", "quality.png"}),
        ("evaluation.plots.draw", "drawing .*quality.png failed", {"evaluation.json"}),
        ("workflow.update_card", "writing figures and card failed", set()),
        ("publishing.hub.updated", "writing the card in .* failed", None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*Figures")
def test_a_step_after_training_that_fails_warns_and_leaves_a_model_saved(
    tmp_path, monkeypatch, step, words, files
):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    monkeypatch.setattr(f"csr_st.{step}", fail)
    store = EmbeddingStore.from_array(noise())
    with pytest.warns(UserWarning, match=words):
        done = workflow.train_vectors(store, tmp_path, recipe(**TINY))
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    one, other = (csr_st.encode(m, noise(seed=1), k=4) for m in (loaded, done.model))
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.values, other.values)
    if files is not None:
        found = {"evaluation.json", "quality.png"} & {path.name for path in tmp_path.iterdir()}
        assert found == files
        assert (done.evaluation is None) == (step == "workflow.evaluate_held_out")
        assert (tmp_path / "README.md").is_file()


def test_a_model_is_saved_before_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "evaluate_held_out", interrupt)
    with pytest.raises(KeyboardInterrupt):
        workflow.train_vectors(EmbeddingStore.from_array(noise()), tmp_path, recipe(**TINY))
    SentenceTransformer(str(tmp_path), device="cpu")


def test_figures_of_an_earlier_head_do_not_stay_when_the_new_one_is_not_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "csr_st.evaluation.plots.draw", lambda _, path: path.write_bytes(b"picture")
    )
    store = EmbeddingStore.from_array(noise())
    workflow.train_vectors(store, tmp_path, recipe(**TINY))
    assert (tmp_path / "evaluation.json").is_file()
    monkeypatch.setattr(workflow, "evaluate_held_out", fail)
    with pytest.warns(UserWarning, match="the evaluation failed"):
        workflow.train_vectors(store, tmp_path, recipe(**TINY, seed=2))
    assert not {"evaluation.json", "quality.png"} & {path.name for path in tmp_path.iterdir()}
    assert "Not measured yet" in (tmp_path / "README.md").read_text()


def test_an_interrupt_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("csr_st.training.loop.refit_decoder", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"at step 12[.] Nothing of this run is kept"):
        fit()
    with pytest.raises(
        KeyboardInterrupt,
        match=r"step 12\. Resume from the checkpoint of step 12 in .* resume=True .*--resume",
    ):
        fit(output=tmp_path / "a")
    monkeypatch.setattr("csr_st.training.loop.Objective.forward", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 0\. There is no checkpoint"):
        fit(output=tmp_path / "b")


def test_an_interrupt_within_numba_is_an_interrupt(tmp_path, monkeypatch):
    def within_numba(*_, **__):
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as interrupt:
                raise SystemError(
                    "unpickling returned a result with an exception set"
                ) from interrupt
        except SystemError as error:
            raise SystemError("CPUDispatcher returned a result with an exception set") from error

    for place in ("loop.Objective.forward", "loop.refit_decoder"):
        with monkeypatch.context() as patch:
            patch.setattr(f"csr_st.training.{place}", within_numba)
            with pytest.raises(KeyboardInterrupt, match="stopped at step"):
                fit(output=tmp_path)


def test_an_interrupt_ends_training_within_a_second():
    script = """
import signal, sys, threading, time, numpy as np, csr_st
store = csr_st.EmbeddingStore.from_array(np.random.default_rng(0).normal(size=(600, 64)))
csr_st.train(store, csr_st.recipe(steps=2, hidden_dim=128), show_progress=False)
threading.Timer(1, lambda: (print(time.monotonic()), signal.raise_signal(signal.SIGINT))).start()
try:
    csr_st.train(store, csr_st.recipe(steps=10**6, hidden_dim=128), show_progress=False)
except KeyboardInterrupt as interrupt:
    print(time.monotonic(), interrupt)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sent, rest = done.stdout.split("\n", 1)
    ended, words = rest.split(" ", 1)
    assert float(ended) - float(sent) < 1
    assert words.startswith("stopped at step ")


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left on device"), OSError(28)]
)
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(tmp_path, monkeypatch, error):
    save_file = checkpoint.save_file

    def filling(tensors, path, metadata):
        if metadata["step"] == "10":
            path.write_bytes(b"half")
            raise error
        save_file(tensors, path, metadata)

    monkeypatch.setattr(checkpoint, "save_file", filling)
    with pytest.raises(OSError, match=r"checkpoint of step 10 \(0.0 MB\) cannot be .*step 5 in"):
        fit(output=tmp_path, checkpoint_every=5)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [
        "step-000000005.safetensors"
    ]
    monkeypatch.undo()
    again, whole = fit(output=tmp_path, resume=True), fit()
    for one, other in zip(again.head.parameters(), whole.head.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_full_disk_at_the_last_checkpoint_does_not_lose_the_trained_head(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "save_file", fail_to_write)
    with pytest.warns(UserWarning, match="writing the last checkpoint failed .*No space"):
        result = fit(output=tmp_path)
    for one, other in zip(result.head.parameters(), fit().head.parameters(), strict=True):
        assert torch.equal(one, other)


def fail_to_write(*_):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("which", ["file", "read-only"])
def test_an_output_that_cannot_be_written_to_is_refused_before_any_work(
    tmp_path, monkeypatch, which
):
    output = tmp_path / "there" / "m"
    if which == "file":
        (tmp_path / "there").write_text("a file")
    else:

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("csr_st.training.setup.new_head", fail)
    monkeypatch.setattr(EmbeddingStore, "embed", fail)
    store = EmbeddingStore.from_array(noise())
    for work in (
        lambda: fit(output=output),
        lambda: workflow.train_vectors(store, output),
        lambda: workflow.train_model(
            SentenceTransformer(modules=[torch.nn.Identity()]), [], output
        ),
    ):
        with pytest.raises(OSError, match=r"cannot be written to .*; name another folder"):
            work()
