"""The folder of a segmented index: its locks, its newest state, and changes of it in one step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from csr_st._io.files import FileState
from csr_st._io.tensor_files import open_tensors, write_tensors
from csr_st._io.threads import available_cpus
from csr_st.decoder import Decoder
from csr_st.search.parts import Parts
from csr_st.search.segments.large_files import write_large
from csr_st.search.segments.segment import Segment, without, write_removed
from csr_st.search.segments.state import DECODER, STATE, Entry, State
from csr_st.search.segments.writing import Source, write_segment
from csr_st.search.storage import decoder_parts, read_index, stored_decoder
from csr_st.search.tokenizing import Language
from csr_st.search.words import Words

UNFINISHED = ".merging-"  # begin of the names of what a merge writes
_WRITING, _MERGING = ".writing.lock", ".merging.lock"
_ATTEMPTS = 20  # to open segments while another process merges them


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
        lock: Held while these change.
    """

    state: State
    now: Parts

    def __init__(self, path: Path, language: Language | None) -> None:
        self.path = path
        self.language = language
        self.renew_locks()
        self._segments: dict[int, Segment] = {}
        self._seen: FileState | None = None

    def renew_locks(self) -> None:
        """Forget who holds the locks: after a fork, threads that the child does not have."""
        self.lock = threading.RLock()
        self._merge_lock = threading.RLock()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else changes the folder."""
        with self.lock, FileLock(self.path / _WRITING):
            yield

    @contextlib.contextmanager
    def changing(self) -> Iterator[tuple[State, Parts]]:
        """Nobody else changes the folder, and its newest state is known."""
        with self.exclusive():
            self.refresh()
            yield self.state, self.now

    @contextlib.contextmanager
    def merging(self, timeout: float = -1) -> Iterator[None]:
        """Nobody else merges.

        Raises:
            filelock.Timeout: If another process does so for ``timeout`` seconds; -1 waits for it.
        """
        with self._merge_lock, FileLock(self.path / _MERGING, timeout=timeout):
            yield

    def check_empty(self) -> None:
        """Refuse a folder that has an index or other files; remove what a killed `create` left.

        Raises:
            FileExistsError: If there are any.
        """
        names = {path.name for path in self.path.iterdir()} - {_WRITING, _MERGING}
        if STATE in names:
            raise FileExistsError(
                f"{self.path} has an index; open it with SegmentedIndex.open, or name a new folder"
            )
        ours = Entry(1, 0).files() | {DECODER}
        others = sorted(name for name in names - ours if not _is_unfinished(name))
        if others:
            raise FileExistsError(f"{self.path} has other files ({others[0]}); name a new folder")
        for name in names:
            (self.path / name).unlink()

    def write_decoder(self, decoder: Decoder) -> None:
        """Write the decoder, which never changes."""
        about, arrays = decoder_parts(decoder)
        write_tensors(self.path / DECODER, arrays, {key: str(about[key]) for key in about})

    def read_decoder(self) -> Decoder | None:
        """The decoder, if there is one.

        Raises:
            ValueError: If its file is damaged.
        """
        path = self.path / DECODER
        if not path.exists():
            return None
        file = open_tensors(path)
        arrays = {name: np.array(file.map(name)) for name in file.tensors}
        return stored_decoder(arrays, file.metadata)

    def write(
        self,
        files: tuple[str, str],
        source: Source,
        ids: NDArray[Any],
        words: Words | None,
        threads: int | None,
    ) -> None:
        """Write the files of a segment; no state names them yet."""
        threads = threads or available_cpus()
        documents_file, postings_file = (self.path / name for name in files)
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
        """Make a state the newest; everything that it names is on the disk."""
        state.write(self.path)
        self.refresh()
        self._clean()

    def refresh(self, verify: bool = False) -> bool:
        """Open what is new in the folder; returns whether there was anything.

        Raises:
            FileNotFoundError: If there is no index, or a file of it is missing.
            ValueError: If a file is damaged.
        """
        with self.lock:
            for attempt in range(_ATTEMPTS):
                try:
                    seen = FileState.of(self.path / STATE)
                    if seen == self._seen:
                        return False
                    self._adopt(State.read(self.path), verify)
                    self._seen = seen
                    return True
                except FileNotFoundError:  # merged meanwhile by another process
                    if attempt + 1 == _ATTEMPTS or not (self.path / STATE).exists():
                        raise
            return False

    def _adopt(self, state: State, verify: bool) -> None:
        """Take a state that is on the disk as the newest."""
        segments = {}
        for entry in state.entries:
            known = self._segments.get(entry.number)
            segments[entry.number] = (
                Segment.open(self.path, entry, self.language, verify)
                if known is None
                else known.following(self.path, entry)
            )
        self._segments = segments
        self.state = state
        self.now = Parts([segment.live for segment in segments.values()])

    def _clean(self) -> None:
        """Remove files that the newest state does not name, as killed processes leave them."""
        kept = self.state.files() | {STATE, DECODER, _WRITING, _MERGING}
        left = [path for path in self.path.iterdir() if path.name not in kept]
        unfinished = [path for path in left if _is_unfinished(path.name)]
        with contextlib.suppress(OSError):  # on Windows files that are mapped stay
            for path in left:
                if path not in unfinished:
                    path.unlink(missing_ok=True)
        if unfinished and self._merge_lock.acquire(blocking=False):
            try:  # unless another process merges, and writes them
                with contextlib.suppress(Timeout, OSError), self.merging(timeout=0):
                    for path in unfinished:
                        path.unlink(missing_ok=True)
            finally:
                self._merge_lock.release()


def _is_unfinished(name: str) -> bool:
    return name.startswith(UNFINISHED) or name.endswith(".part")
