"""`open_index`: open a `SparseIndex` from a file or a `SegmentedIndex` from a folder."""

from __future__ import annotations

from pathlib import Path

from csr_st.search.index import SparseIndex
from csr_st.search.segmented_index import SegmentedIndex


def open_index(path: str | Path, verify: bool = True) -> SparseIndex | SegmentedIndex:
    """Open the index in a file (`SparseIndex`) or in a folder (`SegmentedIndex`).

    Args:
        path: The file or folder.
        verify: Compare the checksum of a file, which reads it once. Has no effect on a folder: for
            that, call ``SegmentedIndex.open(path, verify=True)``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: As `SparseIndex.load` and `SegmentedIndex.open`.
    """
    path = Path(path)
    return SegmentedIndex.open(path) if path.is_dir() else SparseIndex.load(path, verify)
