"""Heads of the default recipe on the vectors of a set, kept in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from quality_sets import Task

from csr_st import EmbeddingStore, SparseCSRHead, recipe, train


def head_path(task_name: str, seed: int, folder: Path) -> Path:
    name = task_name.replace(", ", "-").replace(" ", "-")
    return folder / (f"{name}-default" + f"-{seed}" * (seed > 0))


def head_for(task: Task, seed: int, folder: Path) -> SparseCSRHead:
    """The default recipe on the training vectors, without labels; trained once, kept in folder."""
    path = head_path(task.name, seed, folder)
    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small data sets are measured too
            found = train(
                EmbeddingStore.from_array(task.train), recipe(seed=seed), show_progress=False
            )
        path.mkdir(parents=True)
        found.head.save(str(path))
    return SparseCSRHead.load(str(path))
