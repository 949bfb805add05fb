"""Opening an index of either kind: one file, or a folder."""

from __future__ import annotations

from pathlib import Path

from csr_st.search.index import SparseIndex
from csr_st.search.segmented_index import SegmentedIndex


def open_index(path: str | Path, verify: bool = True) -> SparseIndex | SegmentedIndex:
    """The index in a file, or in a folder.

    Args:
        path: The file or folder.
        verify: Read a file once and compare its checksum; a folder is opened without.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: As `SparseIndex.load` and `SegmentedIndex.open`.
    """
    path = Path(path)
    return SegmentedIndex.open(path) if path.is_dir() else SparseIndex.load(path, verify)
