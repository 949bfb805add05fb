"""The file of a segmented index that names its segments: replaced in one step by each change."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from csr_st._io.files import read_json, refuse_newer_format, write_atomically

STATE = "segments.json"
DECODER = "decoder.safetensors"
FORMAT = "csr_st.segments"
FORMAT_VERSION = 1
_MOST = 2**63  # of next_id after the largest id


@dataclass(frozen=True)
class Entry:
    """One segment.

    Attributes:
        number: Its number, which no other segment of the folder ever had.
        n: Documents, removed ones too.
        removed: The generation that last removed some of them, or None.
    """

    number: int
    n: int
    removed: int | None = None

    @property
    def file(self) -> str:
        """Name of the file of its documents."""
        return f"{self.number:08d}.index"

    @property
    def postings_file(self) -> str:
        """Name of the file of its inverted index, which only large segments have."""
        return f"{self.number:08d}.postings"

    @property
    def removed_file(self) -> str | None:
        """Name of the file that says which documents were removed."""
        return None if self.removed is None else f"{self.number:08d}-{self.removed:08d}.removed"

    def files(self) -> set[str]:
        """Names of all its files."""
        named = {self.file, self.postings_file}
        return named if self.removed_file is None else named | {self.removed_file}


@dataclass(frozen=True)
class State:
    """What a segmented index has.

    Attributes:
        generation: Number of changes so far.
        next_id: The smallest integer above every id that was ever used.
        next_number: Of the next segment.
        entries: The segments, in the order of their documents.
    """

    generation: int
    next_id: int
    next_number: int
    entries: tuple[Entry, ...]

    def files(self) -> set[str]:
        """Names of the files of all segments."""
        return set[str]().union(*(entry.files() for entry in self.entries))

    def write(self, folder: Path) -> None:
        """Put this state in the place of the one in the folder; survives a power cut."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        write_atomically(folder / STATE, json.dumps(content, indent=1))

    @classmethod
    def read(cls, folder: Path) -> State:
        """The state in a folder.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, of another format or of a newer version.
        """
        path = folder / STATE
        found = read_json(path)
        if found.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a {FORMAT} file; its format is {found.get('format')!r}"
            )
        refuse_newer_format(path, found.get("format_version"), FORMAT_VERSION)
        try:
            numbers = [_number(found[name]) for name in ("generation", "next_id", "next_number")]
            entries = tuple(_entry(each) for each in found["entries"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged: {error!r}; take the folder from a copy"
            ) from error
        if not entries or len({entry.number for entry in entries}) < len(entries):
            raise ValueError(f"{path} is damaged: it has no segment, or one twice")
        return cls(numbers[0], numbers[1], numbers[2], entries)


def _entry(found: Any) -> Entry:
    removed = found["removed"]
    removed = None if removed is None else _number(removed)
    return Entry(_number(found["number"]), _number(found["n"]), removed)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a number within 0..{_MOST}")
    return value
