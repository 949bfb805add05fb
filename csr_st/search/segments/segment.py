"""An open segment: documents in a file that never changes, and which of them were removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.tensor_files import digest, open_tensors, write_tensors
from csr_st.search.collection import Collection
from csr_st.search.live import LiveCollection
from csr_st.search.segments.large_files import read_large
from csr_st.search.segments.state import Entry
from csr_st.search.storage import read_index
from csr_st.search.tokenizing import Language

_REMOVED = "csr_st.removed"


class Segment:
    """One segment of a folder.

    Attributes:
        entry: What the folder's state says of it.
        live: Its documents, and what searches derive from them.
    """

    def __init__(self, entry: Entry, live: LiveCollection) -> None:
        self.entry = entry
        self.live = live

    @classmethod
    def open(cls, folder: Path, entry: Entry, language: Language | None, verify: bool) -> Segment:
        """Map a segment.

        Args:
            folder: The folder of the index.
            entry: What its state says of the segment.
            language: The function that split the texts, if one did.
            verify: Read the files once and compare their checksums.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If one is damaged, or has other documents than the state says.
        """
        path = folder / entry.file
        documents, ids, _, words = read_index(path, verify)
        if len(documents) != entry.n:
            raise ValueError(
                f"{path} has {len(documents)} documents where {entry.n} are expected; take the "
                "folder from a copy"
            )
        words = None if words is None else words.spoken(language)
        live = LiveCollection(Collection.of(documents, ids, words))
        large = read_large(folder / entry.postings_file, documents, verify)
        if large is not None:
            live.keep_large(large)
        return cls(Entry(entry.number, entry.n), live)

    def removed_since(self, folder: Path, entry: Entry) -> NDArray[np.int64] | None:
        """Positions of all documents that a newer entry says are removed; None if it is not newer.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If one is damaged.
        """
        if entry.removed_file is None or entry == self.entry:
            return None
        return read_removed(folder / entry.removed_file, entry.n)

    def follow(self, entry: Entry, removed: NDArray[np.int64] | None) -> None:
        """Leave out the documents of `removed_since`; searches that run do not notice."""
        if removed is not None:
            self.live.change(lambda collection: collection.without(removed))
        self.entry = entry


def write_removed(path: Path, present: NDArray[np.bool_]) -> None:
    """Write which documents of a segment were removed, one bit a document."""
    bits = np.packbits(~present)
    about = {"format": _REMOVED, "n": str(len(present)), "checksum": digest(bits)}
    write_tensors(path, {"removed": bits}, about)


def read_removed(path: Path, n: int) -> NDArray[np.int64]:
    """Positions of the removed documents among n.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged.
    """
    file = open_tensors(path)
    entry = file.tensors.get("removed", {})
    known = file.metadata.get("format") == _REMOVED and file.metadata.get("n") == str(n)
    if not known or entry.get("shape") != [-(-n // 8)] or entry.get("dtype") != "U8":
        raise ValueError(f"{path} is damaged; take the folder from a copy")
    packed = file.map("removed")
    if digest(packed) != file.metadata.get("checksum"):
        raise ValueError(f"{path} was altered; take the folder from a copy")
    bits: NDArray[Any] = np.unpackbits(packed, count=n)
    return np.flatnonzero(bits)


def without(
    collections: Sequence[Collection], places: Sequence[tuple[int, NDArray[np.int64]]]
) -> dict[int, NDArray[np.bool_]]:
    """What is left of each collection, by its number, of which some documents are to be removed."""
    left = {}
    for number, positions in places:
        present = collections[number].present.copy()
        present[positions] = False
        left[number] = present
    return left
