"""Which files a path of vectors stands for: one file, the shards of a folder, or of a pattern."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from csr_st.data.files import NUMBERS, in_order, is_pattern, matching
from csr_st.data.streams import LFS_POINTER, ending_of, refuse_pointer

COMPRESSIONS = {
    ".gz": "gunzip -k",
    ".bz2": "bunzip2 -k",
    ".zst": "unzstd",
    ".xz": "unxz -k",
    ".lz4": "unlz4",
}
STARTS = {
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\x1f\x8b\x08": ".gz",
    b"BZh": ".bz2",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\xfd7zXZ\0": ".xz",
    b"\x89HDF": ".h5",
}
ALIKE = {".feather": ".arrow"}
TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
OF_SHARDS = re.compile(r"-(\d+)-of-(\d+)")


def files_of(path: Path, suffixes: Collection[str]) -> list[Path]:
    """The files that a path stands for, in the order of their numbers: part-2 before part-10.

    A path that exists is a name. One that does not, and has ``*`` or ``?``, is a pattern;
    brackets are always a part of the name.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is no file or folder, or the shards are of several kinds or not complete.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        shards = [
            file
            for file in path.iterdir()
            if file.is_file() and ending_of(file) in suffixes and file.name[0] not in "._"
        ]
        if not shards:
            raise ValueError(
                f"{path} contains no embedding store, no data set that `datasets` saved and no "
                f"files of vectors ({', '.join(suffixes)})"
            )
        shards = in_order(shards)
        kinds = {NUMBERS.sub("*", file.name): file for file in shards}
        if len(kinds) > 1:
            raise ValueError(
                f"{path} contains several kinds of files of vectors ({', '.join(list(kinds)[:4])}):"
                f" pass one of them, or a pattern such as '{path / next(iter(kinds))}'"
            )
    elif path.exists():
        raise ValueError(f"{path} is a pipe or device; save the vectors to a file first")
    elif is_pattern(str(path)):
        shards = matching(str(path))
        if not shards:
            raise FileNotFoundError(f"no file matches {path}")
    else:
        raise FileNotFoundError(f"there is no embedding store or file of vectors at {path}")
    _refuse_missing(path, shards)
    return shards


def _refuse_missing(path: Path, shards: list[Path]) -> None:
    """Refuse part of a set whose names say how many there are, as data-00001-of-00004 does."""
    for name in {OF_SHARDS.sub("-*-of-*", str(file)) for file in shards}:
        of_set = [file for file in shards if OF_SHARDS.sub("-*-of-*", str(file)) == name]
        named = OF_SHARDS.findall(of_set[0].name)
        if named and len(of_set) != int(named[-1][1]):
            raise ValueError(
                f"{path} has {len(of_set)} of {int(named[-1][1])} shards such as "
                f"{of_set[0].name}; fetch the others, or name one file"
            )


def compression_of(path: Path) -> str | None:
    """The suffix of compression, as ".gz", or None."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSIONS else None


def refuse_misnamed(path: Path) -> None:
    """Raise a ValueError for an empty file, a git-lfs pointer, or content of another suffix."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if not start:
        raise ValueError(f"{path} is empty")
    refuse_pointer(path, start)
    if path.suffix.lower() in TEXTS and start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is text in UTF-16; save it in UTF-8")
    found = next((suffix for magic, suffix in STARTS.items() if start.startswith(magic)), None)
    named = ALIKE.get(path.suffix.lower(), path.suffix.lower())
    if found is not None and found != named:
        raise ValueError(
            f"{path} begins as a {found} file does; rename it if it is one, else write it again"
        )
