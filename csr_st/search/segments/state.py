"""The file of a segmented index that names its segments: replaced in one step by each change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
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
        next_number: Number of the next segment.
        entries: The segments, in the order of their documents.
        made: Unlike that of every other index, also of one made later in the same folder.
        decoder: Checksum of the decoder, or None without one.
    """

    generation: int
    next_id: int
    next_number: int
    entries: tuple[Entry, ...]
    made: str
    decoder: str | None

    def following(self, entries: Iterable[Entry], next_id: int, new: int = 0) -> State:
        """The state after a change.

        Args:
            entries: The segments after it.
            next_id: The smallest integer above every id that was ever used.
            new: How many segments it makes.
        """
        return replace(
            self,
            generation=self.generation + 1,
            next_id=next_id,
            next_number=self.next_number + new,
            entries=tuple(entries),
        )

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
        if not path.exists():
            fix = "SparseIndex.load opens a file" if folder.is_file() else "create it first"
            raise FileNotFoundError(f"{folder} is no folder of a SegmentedIndex; {fix}")
        found = read_json(path)
        if found.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a {FORMAT} file; its format is {found.get('format')!r}"
            )
        refuse_newer_format(path, found.get("format_version"), FORMAT_VERSION)
        try:
            numbers = [_number(found[name]) for name in ("generation", "next_id", "next_number")]
            entries = tuple(_entry(each) for each in found["entries"])
            made, decoder = _text(found["made"]), found["decoder"]
            decoder = None if decoder is None else _text(decoder)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged: {error!r}; take the folder from a copy"
            ) from error
        if not entries or len({entry.number for entry in entries}) < len(entries):
            raise ValueError(f"{path} is damaged: it has no segment, or one twice")
        return cls(numbers[0], numbers[1], numbers[2], entries, made, decoder)


def _entry(found: Any) -> Entry:
    removed = found["removed"]
    removed = None if removed is None else _number(removed)
    return Entry(_number(found["number"]), _number(found["n"]), removed)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a string")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(f"{value!r} is not a number within 0..{_MOST}")
    return value
