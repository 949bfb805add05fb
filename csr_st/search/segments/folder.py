"""The folder of a segmented index: its locks, its newest state, and changes of it in one step."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st._io.files import sync_directory
from csr_st._io.locking import locked
from csr_st._io.tensor_files import digest, open_tensors, write_tensors
from csr_st.decoder import Decoder
from csr_st.search.collection import next_id
from csr_st.search.parts import Parts
from csr_st.search.requests import checked_threads
from csr_st.search.segments.large_files import write_large
from csr_st.search.segments.segment import Segment, without, write_removed
from csr_st.search.segments.state import DECODER, STATE, Entry, State
from csr_st.search.segments.writing import Source, write_segment
from csr_st.search.storage import decoder_parts, read_index, stored_decoder
from csr_st.search.tokenizing import Language
from csr_st.search.words import Words

UNFINISHED = ".merging-"  # begin of the names of what a merge writes
_WRITING, _MERGING = ".writing.lock", ".merging.lock"


class _Opened(NamedTuple):
    """What a state names, read but not shown to searches.

    Attributes:
        segments: Each with its newest entry, and what is removed since it was opened.
        decoder: The decoder, if there is one.
    """

    segments: list[tuple[Segment, Entry, NDArray[np.int64] | None]]
    decoder: Decoder | None


class Folder:
    """The files of a segmented index, as this process knows them.

    A change writes new files, then a state that names them, in one step. What no state names was
    left by a killed process, or is being written: it is removed by the next change.

    Args:
        path: The folder.
        language: The function that split the texts, if one did.

    Attributes:
        state: The newest state that this process has seen.
        now: Its documents.
        decoder: Its decoder.
        lock: Held while these change.
    """

    state: State | None
    now: Parts
    decoder: Decoder | None

    def __init__(self, path: Path, language: Language | None) -> None:
        self.path = path
        self.language = language
        self.state = None
        self.decoder = None
        self.renew_locks()
        self._segments: dict[int, Segment] = {}

    def renew_locks(self) -> None:
        """Replace the locks after a fork: their holders may be threads of the parent."""
        self.lock = threading.RLock()
        self._merge_lock = threading.RLock()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Context in which no other thread or process changes the folder."""
        with self.lock, locked(self.path / _WRITING):
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[tuple[State, Parts]]:
        """As `exclusive`; gives the newest state and its documents."""
        with self.exclusive():
            yield self.newest()

    @contextlib.contextmanager
    def merging(self, wait: bool = True) -> Iterator[None]:
        """Context in which no other thread or process merges segments.

        Args:
            wait: Wait for another merge to end.

        Raises:
            BlockingIOError: If another process does, and ``wait`` is False.
        """
        with self._merge_lock, locked(self.path / _MERGING, wait):
            yield

    def newest(self) -> tuple[State, Parts]:
        """The newest state, and its documents."""
        with self.lock:
            self.refresh()
            assert self.state is not None
            return self.state, self.now

    def check_empty(self) -> None:
        """Refuse a folder that has an index or other files; a killed `create` may have left some.

        Raises:
            FileExistsError: If there are any, or it is a file.
        """
        names = self._names()
        if STATE in names:
            raise FileExistsError(
                f"{self.path} has an index; open it with SegmentedIndex.open, or name a new folder"
            )
        others = sorted(name for name in names - _of_create() if not _is_unfinished(name))
        if others:
            raise FileExistsError(f"{self.path} has other files ({others[0]}); name a new folder")

    def _clear(self) -> None:
        """Remove what a killed `create` left."""
        for name in self._names():
            (self.path / name).unlink()

    def _names(self) -> set[str]:
        if self.path.is_file():
            raise FileExistsError(f"{self.path} is a file; name a folder")
        here = self.path.iterdir() if self.path.exists() else ()
        return {path.name for path in here} - {_WRITING, _MERGING}

    def begin(
        self,
        source: Source,
        ids: NDArray[Any],
        words: Words | None,
        decoder: Decoder | None,
        threads: int | None,
    ) -> None:
        """Make the folder and in it an index of one segment, and open it.

        Raises:
            FileExistsError: As `check_empty`.
            OSError: If the disk is full.
        """
        self.check_empty()
        self.path.mkdir(parents=True, exist_ok=True)
        sync_directory(self.path.parent)  # so that the folder survives a power cut
        with self.exclusive():
            self.check_empty()
            self._clear()
            checksum = None if decoder is None else self._write_decoder(decoder)
            entry = Entry(1, len(ids))
            self.write((entry.file, entry.postings_file), source, ids, words, threads)
            State(1, next_id(ids), 2, (entry,), uuid.uuid4().hex, checksum).write(self.path)
        self.refresh()

    def _write_decoder(self, decoder: Decoder) -> str:
        """Write the decoder, which never changes; returns its checksum."""
        about, arrays = decoder_parts(decoder)
        write_tensors(self.path / DECODER, arrays, {key: str(about[key]) for key in about})
        return _checksum(arrays)

    def write(
        self,
        files: tuple[str, str],
        source: Source,
        ids: NDArray[Any],
        words: Words | None,
        threads: int | None,
    ) -> None:
        """Write the files of a segment; no state names them yet."""
        threads = checked_threads(threads)
        documents_file, postings_file = (self.path / name for name in files)
        postings_file.unlink(missing_ok=True)  # a killed change may have left one of this number
        write_segment(documents_file, source, ids, words, threads)
        documents = read_index(documents_file, verify=False)[0]
        write_large(postings_file, documents, threads)

    def write_removed(
        self, state: State, parts: Parts, places: Sequence[tuple[int, NDArray[np.int64]]]
    ) -> list[Entry]:
        """Write which documents are removed by the next change; the entries that say so."""
        entries = list(state.entries)
        left = without([part.collection for part in parts.all], places)
        for number, present in left.items():
            entries[number] = self.with_removed(entries[number], present, state.generation + 1)
        return entries

    def with_removed(self, entry: Entry, present: NDArray[np.bool_], generation: int) -> Entry:
        """Write which documents of a segment are removed; the entry that says so."""
        entry = replace(entry, removed=generation)
        assert entry.removed_file is not None
        write_removed(self.path / entry.removed_file, present)
        return entry

    def commit(self, state: State) -> None:
        """Make a state the newest; everything that it names is on the disk.

        What can fail comes before it is written: after that the change has happened.
        """
        opened = self._opened(state, verify=False, known=dict(self._segments))
        state.write(self.path)
        self._take(state, opened)
        self._clean()

    def refresh(self, verify: bool = False) -> bool:
        """Open what is new in the folder; returns whether there was anything.

        Raises:
            FileNotFoundError: If there is no index, or a file of it is missing.
            ValueError: If a file is damaged.
        """
        with self.lock:
            before, found = None, dict(self._segments)
            while True:
                state = State.read(self.path)
                if state == self.state:
                    return False
                if self.state is not None and state.made != self.state.made:
                    found = {}  # another index was made in its place
                try:
                    self._take(state, self._opened(state, verify, found))
                except FileNotFoundError:
                    if state == before:
                        raise
                    before = state  # merged meanwhile by another process: there is a newer one
                else:
                    return True

    def _opened(self, state: State, verify: bool, known: dict[int, Segment]) -> _Opened:
        """Read what a state names and is not known.

        Args:
            state: The state.
            verify: Whether to compare the checksums of what is read.
            known: Open segments by number, changed.
        """
        segments = []
        for entry in state.entries:
            if entry.number not in known:
                known[entry.number] = Segment.open(self.path, entry, self.language, verify)
            segment = known[entry.number]
            segments.append((segment, entry, segment.removed_since(self.path, entry)))
        same = self.state is not None and self.state.decoder == state.decoder
        decoder = self.decoder if same else self._read_decoder(state.decoder)
        return _Opened(segments, decoder)

    def _take(self, state: State, opened: _Opened) -> None:
        """Show a state to searches. After Ctrl-C in between, the next refresh does it again."""
        for segment, entry, removed in opened.segments:
            segment.follow(entry, removed)
        self._segments = {entry.number: segment for segment, entry, _ in opened.segments}
        self.decoder = opened.decoder
        self.now = Parts([segment.live for segment, _, _ in opened.segments])
        self.state = state

    def _read_decoder(self, checksum: str | None) -> Decoder | None:
        if checksum is None:
            return None
        file = open_tensors(self.path / DECODER)
        arrays = {name: np.array(file.map(name)) for name in file.tensors}
        if _checksum(arrays) != checksum:
            raise ValueError(f"{file.path} was altered; take the folder from a copy")
        return stored_decoder(arrays, file.metadata)

    def _clean(self) -> None:
        """Remove files that the newest state does not name, as killed processes leave them."""
        assert self.state is not None
        kept = self.state.files() | {STATE, DECODER}
        with contextlib.suppress(OSError):
            left = [self.path / name for name in self._names() - kept]
            _unlink([path for path in left if not _is_unfinished(path.name)])
            unfinished = [path for path in left if _is_unfinished(path.name)]
            if unfinished and self._merge_lock.acquire(blocking=False):
                try:
                    with self.merging(wait=False):  # unless another process merges: it writes them
                        _unlink(unfinished)
                finally:
                    self._merge_lock.release()


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # on Windows files that are mapped stay
            path.unlink(missing_ok=True)


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    return digest(*(arrays[name] for name in sorted(arrays)))


def _of_create() -> set[str]:
    return Entry(1, 0).files() | {DECODER}


def _is_unfinished(name: str) -> bool:
    return name.startswith(UNFINISHED) or name.endswith(".part")
