"""Replace a saved model in its folder so that it loads as the old or the new one at any moment.

A model is many files, and only one can be replaced at a time. The new model is therefore written
completely into a hidden folder beside the old one. Then ``modules.json``, which says where each
module's files are, is replaced by one that points there: from this moment the new model loads. Its
files are then put in their usual places, and last its own ``modules.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from csr_st._io.files import read_json, sync_directory
from csr_st._io.staging import files_in, staging, sync_files

PREFIX = ".saving-"
MODULES_NAME = "modules.json"
PART = ".part"  # in the hidden folder: what is about to be moved
# What transformers writes as one file or as several: of another number, the old ones are read.
WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


@contextmanager
def replacing(folder: Path, optional: Collection[str] = ()) -> Iterator[Path]:
    """A hidden folder to write a model to, which replaces that in ``folder`` after the block.

    When the block raises, or the process is killed in it, the old model stays.

    Args:
        folder: Folder of the model; made when missing. Files of others stay as they are.
        optional: Files to remove from ``folder`` where the new model has none of that name.
    """
    finish(folder)
    with staging(folder, PREFIX, needed=lambda staged: staged == _unfinished(folder)) as staged:
        yield staged
        sync_files(staged)
        modules = read_json(staged / MODULES_NAME, list)
        moved = [{**one, "path": f"{staged.name}/{one['path']}".rstrip("/")} for one in modules]
        (staged / PART).write_text(json.dumps(moved, indent=2), encoding="utf-8")
        move(staged / PART, folder / MODULES_NAME)
        _put_in_place(staged, folder)
        for name in optional:
            if not (staged / name).exists():
                (folder / name).unlink(missing_ok=True)


def finish(folder: Path) -> None:
    """Put the files of a model in place whose process was killed while it did so."""
    staged = _unfinished(folder)
    if staged is not None:
        _put_in_place(staged, folder)
        shutil.rmtree(staged, ignore_errors=True)


def _unfinished(folder: Path) -> Path | None:
    """The hidden folder that a model's modules.json points to, if it does."""
    with suppress(OSError, ValueError):
        for module in read_json(folder / MODULES_NAME, list):
            first, *_ = Path(str(_path_of(module))).parts or ("",)
            if first.startswith(PREFIX) and (folder / first / MODULES_NAME).is_file():
                return folder / first
    return None


def _path_of(module: Any) -> Any:
    return module.get("path") if isinstance(module, dict) else None


def move(source: Path, target: Path) -> None:
    """Replace a file by another one, which is first made to survive a power cut."""
    with source.open("rb+") as file:
        os.fsync(file.fileno())
    target.parent.mkdir(exist_ok=True)
    source.replace(target)
    sync_directory(target.parent)


def _put_in_place(staged: Path, folder: Path) -> None:
    """Put the staged files in their places, modules.json as the last; the staged ones stay."""
    names = [name for name in files_in(staged) if name.name not in (MODULES_NAME, PART)]
    for name in [*names, Path(MODULES_NAME)]:
        (staged / PART).unlink(missing_ok=True)
        try:
            os.link(staged / name, staged / PART)
        except OSError:  # a file system without hard links
            shutil.copyfile(staged / name, staged / PART)
        if name.name == MODULES_NAME:
            _remove_other_weights(folder, names)
        move(staged / PART, folder / name)


def _remove_other_weights(folder: Path, names: Collection[Path]) -> None:
    for directory in {name.parent for name in names}:
        for old in (folder / directory).iterdir():
            if WEIGHTS.fullmatch(old.name) and directory / old.name not in names:
                old.unlink()
