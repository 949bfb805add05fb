"""Which files a name stands for: a file, a folder or pattern of shards, or standard input.

A path that exists is a name, whatever characters it has; only one that does not exist, and has
``*`` or ``?``, is a pattern. Brackets are always a part of the name.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from csr_st.data.streams import ending_of

STDIN = "-"
SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "eval": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SPLIT_IN_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(SPLITS)})(?=[-_.])", re.IGNORECASE)
NUMBERS = re.compile(r"\d+")
BEIR_FILES = ("corpus.jsonl", "queries.jsonl")


def is_stdin(source: str) -> bool:
    """Whether a name is that of standard input: ``-``, or ``-.csv`` to say what comes."""
    return source == STDIN or (source.startswith("-.") and "/" not in source)


def is_local(source: str) -> bool:
    """Whether a name is that of something on this machine, and not of a data set on the Hub."""
    path = os.path.expanduser(source)
    return is_stdin(source) or os.path.lexists(path) or is_pattern(source)


def is_pattern(name: str) -> bool:
    """Whether a path that does not exist is a pattern: it has ``*`` or ``?``."""
    return "*" in name or "?" in name


def matching(pattern: str) -> list[Path]:
    """The files of a pattern `in_order`; none where nothing matches."""
    found = glob.glob(pattern.replace("[", "[[]"), recursive=True)
    return in_order(path for path in map(Path, found) if path.is_file())


def in_order(files: Iterable[Path]) -> list[Path]:
    """Files in the order of the numbers in their names: part-2 before part-10."""

    def key(file: Path) -> tuple[list[str], list[int], str]:
        texts, numbers = NUMBERS.split(str(file)), NUMBERS.findall(str(file))
        return texts, [int(number) for number in numbers], str(file)

    return sorted(files, key=key)


def short_name(source: str) -> str:
    """Words for data of this machine, as on a model's card."""
    return "standard input" if is_stdin(source) else Path(source).name


@contextlib.contextmanager
def local_files(source: str, endings: Collection[str], split: str = "") -> Iterator[list[Path]]:
    """The files that a name stands for, in order; standard input and pipes as a copy.

    Args:
        source: A file, a folder of files, a pattern, or ``-``, also with an ending, as ``-.csv``.
        endings: Which files of a folder count, as ".csv".
        split: Of a folder whose files have "train", "test" or the like in their names: which.

    Raises:
        FileNotFoundError: If there is no such file, or no file of these endings in the folder.
        ValueError: If a folder has files of several kinds, or not of this split.
    """
    if is_stdin(source):
        with _copied(sys.stdin.buffer, source.removeprefix(STDIN)) as path:
            yield [path]
        return
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        yield _of_folder(path, endings, split)
    elif os.path.isfile(path):
        yield [path]
    elif os.path.exists(path):  # a pipe, as in `<(zcat rows.jsonl.gz)`
        with path.open("rb") as pipe, _copied(pipe, path.suffix) as copy:
            yield [copy]
    elif os.path.islink(path):
        raise FileNotFoundError(f"{source} is a link to {os.readlink(path)}, which does not exist")
    else:
        yield _of_pattern(source, path)


@contextlib.contextmanager
def _copied(content: IO[bytes], ending: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="csr-st-") as folder:
        path = Path(folder) / f"standard input{ending}"
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)
        yield path


def _of_pattern(source: str, path: Path) -> list[Path]:
    if not is_pattern(str(path)):
        raise FileNotFoundError(f"{source} does not exist; pass a file, a folder or a Hub id")
    files = matching(str(path))
    if not files:
        raise FileNotFoundError(f"{source} does not exist, and as a pattern it matches no file")
    return files


def _of_folder(folder: Path, endings: Collection[str], split: str) -> list[Path]:
    try:
        files = in_order(f for f in folder.iterdir() if f.is_file() and f.name[0] != ".")
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from error
    files = [file for file in files if ending_of(file) in endings]
    if beir := [file.name for file in files if file.name in BEIR_FILES]:
        raise ValueError(
            f"{folder} is a folder in BEIR's format, with {' and '.join(beir)}; pass the file that "
            f"is meant, such as {folder / beir[0]}"
        )
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no data set that `datasets` saved, and no file that ends in "
            f"{', '.join(sorted(endings))}; pass a file"
        )
    kinds = sorted({ending_of(file) for file in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} has files of several kinds: {', '.join(kinds)}; pass a pattern, such as "
            f"'{folder}/*{kinds[0]}'"
        )
    return _of_split(folder, files, split)


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """The files of a split, where their names say to which one they belong."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        named = SPLIT_IN_NAME.search(file.name)
        by_split.setdefault(SPLITS[named[1].lower()] if named else "", []).append(file)
    if set(by_split) == {""} or not split:
        return list(files)
    wanted = SPLITS.get(split, split)
    if wanted not in by_split:
        raise ValueError(
            f"{folder} has no files of split {split!r}, only of {sorted(by_split)} (--split)"
        )
    return by_split[wanted]
