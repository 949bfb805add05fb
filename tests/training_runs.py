"""Training runs in processes of their own, for tests that kill them or compare their number.

``python training_runs.py kill DIRECTORY KILLS SEED``: trains once without a stop, then starts a run
repeatedly, kills it with SIGKILL at random moments, lets the last one end, and prints how many were
killed and how many of those left a checkpoint to resume from.

``torchrun ... training_runs.py once DIRECTORY KIND``: trains once, into DIRECTORY.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np
from killing import in_child, kill_at_random
from safetensors.torch import save_file

from csr_st.config import recipe
from csr_st.embeddings import EmbeddingStore
from csr_st.training.loop import train

# Latents count as dead at once, so that AuxK and the ages matter within so few steps.
TINY = {
    "k": 4,
    "ks": (2, 4, 8),
    "hidden_dim": 48,
    "batch_size": 32,
    "steps": 60,
    "dead_after_examples": 32,
    "seed": 3,
}
KINDS = {
    "nested": {},
    "untied": {"tied": False, "distillation_weight": 0.3},
    "csr": {"name": "csr"},
    "csrv2": {"name": "csrv2", "initial_k": 8},
    "validation": {"evaluate_every": 7},
}


def store_of(kind):
    """480 rows of 12 dimensions in eight classes, a third of them unlabelled, and pairs."""
    rng = np.random.default_rng(5)
    classes = np.arange(480) % 8
    vectors = 3 * rng.normal(size=(8, 12))[classes] + rng.normal(size=(480, 12))
    labels = np.where(rng.random(480) < 0.3, -1, classes)
    pairs = rng.permutation(480).reshape(-1, 2)[:100]
    scores = rng.random(100) if kind == "untied" else None
    return EmbeddingStore.from_array(
        vectors.astype(np.float32), labels=labels, pairs=pairs, scores=scores
    )


def run(path, kind="nested", settings=None, **options):
    """Train, and write the head's weights beside the history."""
    config = recipe(**{**TINY, **KINDS[kind], **(settings or {})})
    store = store_of(kind)
    if kind == "validation":
        store, options["validation"] = store.split(91)
    result = train(store, config, output=path, show_progress=False, **options)
    if os.environ.get("RANK", "0") == "0":
        weights = {name: value.detach() for name, value in result.head.named_parameters()}
        save_file(weights, Path(path) / "weights.safetensors")
        Path(path, "evaluations.json").write_text(json.dumps(result.evaluations))
    return result


def kill(path, kills, seed):
    def train_into(folder):
        settings = {"steps": 150, "evaluate_every": 10, "patience": 14}
        run(folder, "validation", settings, checkpoint_every=3, resume=True)

    with contextlib.suppress(ImportError):  # numba begins once for all, not within each run
        from csr_st.training.compiled import loops

        loops.by_latent(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32), 1)
    assert os.waitpid(in_child(lambda: train_into(path + ".first")), 0)[1] == 0  # compiles
    killed, resumable = kill_at_random(
        lambda: train_into(path),
        lambda: train_into(path + ".uninterrupted"),
        kills,
        seed,
        after_kill=lambda: any(Path(path, "checkpoints").glob("step-*")),
    )
    print(killed, resumable)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        run(sys.argv[2], sys.argv[3])
