"""What the readers of all formats give: the columns, or named arrays, of a file of vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

USUAL_COLUMNS = ("vectors", "embeddings", "embedding")


class VectorFile(NamedTuple):
    """The columns, or named arrays, of a file.

    Attributes:
        names: All of them; none in a file of one array.
        candidates: Gives those that can be vectors; "dim_*" stands for dim_0, dim_1, ...
        load: Opens one of vectors as consecutive parts.
        labels: Reads one of labels.
        label_names: Gives the names of its classes, or None.
        mapped: Whether the parts are mapped, so that the file must stay as it is.
        bfloat16: Whether parts of uint16 are the bits of bfloat16, which NumPy does not have.
    """

    names: list[str]
    candidates: Callable[[], list[str]]
    load: Callable[[str], Sequence[NDArray[Any]]]
    labels: Callable[[str], Any] = lambda _: None
    label_names: Callable[[str], list[str] | None] = lambda _: None
    mapped: bool = False
    bfloat16: bool = False


def choose_column(file: VectorFile, path: Path, column: str | None, label: str | None) -> str:
    """The column of vectors; refuses names that are not there.

    Raises:
        ValueError: If a column is missing, or none or several could be meant.
    """
    if label is not None and label not in file.names:
        raise ValueError(f"{label!r} is not a column of {path}; it has {_some(file.names)}")
    if column is not None and column in file.names:
        return column
    candidates = file.candidates()
    if column is not None:
        if column in candidates:
            return column
        raise ValueError(f"{column!r} is not a column of {path}; it has {_some(file.names)}")
    usual = [name for name in candidates if name in USUAL_COLUMNS]
    chosen = candidates if len(candidates) == 1 else usual
    if len(chosen) != 1:
        raise ValueError(
            f"name the column of vectors in {path}: it has {_some(file.names)}, of which "
            f"{candidates or 'none'} can be vectors (a list of floating-point numbers in each row, "
            "or columns dim_0, dim_1, ...)"
        )
    return chosen[0]


def _some(names: list[str]) -> str:
    if not names:
        return "one array without columns"
    return str(names) if len(names) <= 20 else f"{names[:20]} and {len(names) - 20} more"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a reader of the format raises into a ValueError that names the file.

    Readers of foreign files raise what their parsers meet, from SyntaxError to MemoryError.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise  # says it already
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is cut short, damaged or not a {path.suffix} file: {reason}"
        ) from error
