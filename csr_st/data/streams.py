"""The bytes and the text of a file: decompressed by its first bytes, decoded by its mark.

What cannot be read is a ValueError that names the file, the line where there is one, and the fix.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow has no type information

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".lz4")
LFS_POINTER = b"version https://git-lfs"
MAGIC = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
# The first is a part of the third, so the longest match counts.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def ending_of(path: str | Path) -> str:
    """What a file is, by its name: ".csv" for "rows.csv" and for "rows.CSV.gz"."""
    path = Path(path)
    if path.suffix.lower() in COMPRESSIONS:
        path = path.with_suffix("")
    return path.suffix.lower()


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise a ValueError if a file begins as a pointer of git-lfs does, in place of the data."""
    if start.startswith(LFS_POINTER):
        raise ValueError(
            f"{path} is a pointer of git-lfs, not the data: run `git lfs pull` in its repository"
        )


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed where it begins as .gz, .bz2, .xz, .zst or .lz4 files do.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or is cut short, or is a zip or a pointer of git-lfs.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        refuse_pointer(path, start)
        if start.startswith(b"PK\x03\x04"):
            raise ValueError(
                f"{path} is a zip or Excel file: unpack it, or save the sheet as CSV (UTF-8)"
            )
        kind = next((name for magic, name in MAGIC.items() if start.startswith(magic)), "")
        with _decompressed(path, kind) as content:
            yield content
    except FileNotFoundError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{path} cannot be read as {ending_of(path) or 'a file'}: {reason}"
        ) from error


def _decompressed(path: Path, kind: str) -> Any:
    if kind in ("zstd", "lz4"):
        return pa.input_stream(str(path), compression=kind)
    openers: dict[str, Any] = {"": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return openers[kind](path, "rb")


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 with a byte-order mark, which is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `open_bytes`, and if the text is in another encoding, naming the line.
    """
    with open_bytes(path) as content:
        start = content.read(4)
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    try:
        with (
            open_bytes(path) as content,
            io.TextIOWrapper(content, marked or "utf-8-sig", newline=newline) as text,
        ):
            yield text
    except UnicodeDecodeError as error:
        where = "" if marked else f", line {_bad_line(path)}"
        raise ValueError(
            f"{path}{where} is not {marked or 'UTF-8'}: {error.reason}; save the file as UTF-8, "
            f"as with `iconv -f latin1 -t utf-8 {path.name} > new{ending_of(path)}`"
        ) from error


def _bad_line(path: Path) -> int:
    """Number of the first line that is not UTF-8."""
    with open_bytes(path) as content:
        for number, line in enumerate(content, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def raw_lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, which are LF, CRLF or CR.

    Raises as `open_text` does, and a ValueError for a NUL, which text does not have.
    """
    with open_text(path, newline="") as text:
        for number, line in enumerate(text, start=1):
            if "\0" in line:
                raise ValueError(
                    f"{path}, line {number} has a NUL byte: it is not text, or UTF-16 without a "
                    "byte-order mark; save the file as UTF-8"
                )
            yield line


def lines(path: Path) -> Iterator[str]:
    """The lines of a file without their ends; raises as `raw_lines` does."""
    for line in raw_lines(path):
        yield line.removesuffix("\n").removesuffix("\r")
