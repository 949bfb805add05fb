"""Making one segment of several: fewer are searched faster, and removed documents are left out.

Segments have levels by their size, each of eight times as many documents as the one below. Once
there are eight of a level at the end, they and smaller ones among them become one. So each document
is copied once a level, a logarithm of their number, as in log-structured merge trees (O'Neil et al.
1996).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Sequence

import numpy as np

from csr_st._io.files import sync_directory
from csr_st.search.collection import Collection
from csr_st.search.segments.folder import UNFINISHED, Folder
from csr_st.search.segments.state import Entry
from csr_st.search.segments.writing import FromCollections, joined_ids, joined_words

logger = logging.getLogger(__name__)

_SMALL = 64  # documents of the lowest level
_AT_ONCE = 8


def chosen(sizes: Sequence[int], present: Sequence[int]) -> tuple[int, int] | None:
    """The segments to merge next, as the first one and one after the last, or None.

    Args:
        sizes: Documents of each segment, removed ones too.
        present: Documents that were not removed.
    """
    levels = [_level(size) for size in sizes]
    for level in sorted(set(levels)):
        first = len(levels)
        while first and levels[first - 1] <= level:
            first -= 1
        if levels[first:].count(level) >= _AT_ONCE:
            return first, len(levels)
    for number, (size, left) in enumerate(zip(sizes, present, strict=True)):
        if size > _SMALL and 2 * left < size:  # most of its documents were removed
            return number, number + 1
    return None


def _level(size: int) -> int:
    level, most = 0, _SMALL
    while size > most:
        level, most = level + 1, most * _AT_ONCE
    return level


class Merger:
    """Merges segments of a folder, when asked or in a thread of its own."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._thread: threading.Thread | None = None

    def merge_all(self, threads: int | None) -> None:
        """Make one segment of all, without removed documents; does nothing if there is nothing."""
        self._merge(lambda sizes, _: (0, len(sizes)), threads)

    def start(self) -> None:
        """Merge in the background, unless that runs already or there are few segments."""
        folder = self._folder
        collections = [part.collection for part in folder.now.all]
        if chosen(*_sizes(collections)) is None:
            return
        with folder.lock:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="csr-st-merge")
                with contextlib.suppress(RuntimeError):  # no more threads, or Python ends
                    thread.start()
                    self._thread = thread

    def wait(self) -> None:
        """Wait until the thread ends."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def forget(self) -> None:
        """Forget the thread: after a fork the child does not have it."""
        self._thread = None

    def _run(self) -> None:
        try:
            while self._merge(chosen, threads=1, wait=False):
                pass
        except BlockingIOError:  # another process merges
            pass
        except Exception as error:
            logger.warning(
                "the segments of %s could not be merged, which only makes searches slower: %s",
                self._folder.path,
                error,
            )

    def _merge(
        self,
        choose: Callable[[Sequence[int], Sequence[int]], tuple[int, int] | None],
        threads: int | None,
        wait: bool = True,
    ) -> bool:
        """Make one segment of some; returns whether there were any."""
        folder = self._folder
        with folder.merging(wait):
            state, parts = folder.newest()
            collections = [part.collection for part in parts.all]
            run = choose(*_sizes(collections))
            if run is None or (run[1] - run[0] == 1 and not _any_removed(collections[run[0]])):
                return False
            collections = collections[slice(*run)]
            name = f"{UNFINISHED}{uuid.uuid4().hex}"
            files = f"{name}.index", f"{name}.postings"
            source, words = FromCollections(collections), joined_words(collections)
            try:
                folder.write(files, source, joined_ids(collections), words, threads)
                self._replace(state.entries[slice(*run)], collections, files)
            finally:
                for file in files:
                    with contextlib.suppress(OSError):
                        (folder.path / file).unlink(missing_ok=True)
            return True

    def _replace(
        self, merged: Sequence[Entry], collections: Sequence[Collection], files: tuple[str, str]
    ) -> None:
        """Put a merged segment in the place of others, of which more may have been removed."""
        folder = self._folder
        with folder.changing() as (state, parts):
            first = [entry.number for entry in state.entries].index(merged[0].number)
            last = first + len(merged)
            still = np.concatenate(
                [
                    part.collection.present[collection.present]
                    for part, collection in zip(parts.all[first:last], collections, strict=True)
                ]
            )
            entry = Entry(state.next_number, len(still))
            for file, name in zip(files, (entry.file, entry.postings_file), strict=True):
                (folder.path / name).unlink(missing_ok=True)  # of a change that was killed
                with contextlib.suppress(FileNotFoundError):  # small ones have no postings
                    (folder.path / file).replace(folder.path / name)
            sync_directory(folder.path)
            if not still.all():
                entry = folder.with_removed(entry, still, state.generation + 1)
            entries = (*state.entries[:first], entry, *state.entries[last:])
            folder.commit(state.following(entries, state.next_id, new=1))


def _sizes(collections: Sequence[Collection]) -> tuple[list[int], list[int]]:
    """Documents of each, and those that were not removed."""
    sizes = [len(collection.present) for collection in collections]
    return sizes, [collection.n_present for collection in collections]


def _any_removed(collection: Collection) -> bool:
    return collection.n_present < len(collection.present)
