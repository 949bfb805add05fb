"""SegmentedIndex: an exact index on disk that can be changed while it is searched.

The parts are in `csr_st.search.segments`. Search treats all segments as one collection.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from typing_extensions import Self

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.hub_data.published_index import PublishedIndex
from csr_st.packed_codes import PackedCodes
from csr_st.search.collection import next_id, numbered
from csr_st.search.documents import Similarity, check_similarity
from csr_st.search.ids import Ids, as_id_array, as_new_ids
from csr_st.search.index import SparseIndex
from csr_st.search.parts import Parts
from csr_st.search.requests import checked_threads
from csr_st.search.rescoring import check_decoder
from csr_st.search.searchable import Searchable
from csr_st.search.segments.folder import Folder
from csr_st.search.segments.merging import Merger
from csr_st.search.segments.state import Entry
from csr_st.search.segments.writing import (
    CodeShards,
    FromCollections,
    checked_addition,
    joined_ids,
    joined_words,
    source_of,
    write_segment,
)
from csr_st.search.tokenizing import Language, as_texts, check_language
from csr_st.search.words import WEIGHT, Words, check_weight

Merging = Literal["background", "asked"]

_alive: weakref.WeakSet[SegmentedIndex] = weakref.WeakSet()


class SegmentedIndex(Searchable, PublishedIndex):
    """An exact index in a folder, for collections that change, or are larger than the memory.

    It finds what a `SparseIndex` of the same documents finds, with the same scores::

        index = SegmentedIndex.create("documents", store)  # a CodeStore, SparseCodes, or words=
        index.add(codes, ids)
        index.remove([17])
        SegmentedIndex.open("documents").search(queries, top_k=10)  # in another process

    What is promised:

    - **Durable**: when `add`, `remove` or `merge` returns, its change is on the disk. A process
      that is killed at any moment leaves the index as it was before the change, or after it.
    - **Exact**: a search sees the documents of one moment, never a part of a change, and scores are
      those of an index that was built anew from these documents, words included.
    - **Processes**: any number may read. Several may write; their changes follow each other, as
      each waits for the one before. A process sees its own changes at once, and those of others
      when it asks, by `refresh` or by a change of its own.
    - **Threads**: one object may be used by several, also to change it while others search.
    - **Memory**: documents, and the inverted indexes of segments of 700,000 documents or more, are
      memory-mapped files. Building such an inverted index takes about 120 bytes of memory per
      document of 32 latents. All other inverted indexes (of smaller segments, a smaller k, dot
      products, words) are built in memory by the first search that needs them.
    - **Forks, copies, interrupts**: a forked process can use the object at once; copies and pickles
      open the folder again. After Ctrl-C a change has happened as a whole or not at all, and the
      object stays usable.

    A change takes effect by renaming files in the folder, under file locks. The folder must be on a
    file system that supports both: a local disk, not an object store.
    """

    def __init__(self, folder: Folder, merging: Merging) -> None:
        if merging not in ("background", "asked"):
            raise ValueError(f"merging={merging!r:.60} is not 'background' or 'asked'")
        self._folder = folder
        self._merger = Merger(folder)
        self._merging: Merging = merging
        _alive.add(self)

    # Each argument says one thing of the documents, as those of SparseIndex.build do
    @classmethod
    def create(
        cls,
        path: str | Path,
        codes: SparseCodes | PackedCodes | CodeShards | None = None,
        ids: Ids | None = None,
        decoder: Decoder | None = None,
        *,
        words: Sequence[str] | None = None,
        language: Language = "english",
        weight: float = WEIGHT,
        similarity: Similarity = "cosine",
        merging: Merging = "background",
        threads: int | None = None,
    ) -> Self:
        """Make an index in a new or empty folder.

        Args:
            path: The folder.
            codes: Documents, k latents each. A `csr_st.CodeStore` is read shard by shard, so it may
                be larger than memory. Packed codes are unpacked.
            ids: See `SparseIndex.build`.
            decoder: See `SparseIndex.build`.
            words: See `SparseIndex.build`; all of them are held in memory.
            language: See `SparseIndex.build`.
            weight: See `SparseIndex.build`.
            similarity: See `SparseIndex.build`.
            merging: "background" merges eight segments of similar size in a thread after a change;
                "asked" only merges when `merge` is called: call it before there are hundreds.
            threads: Threads to build with; all available CPUs if None.

        Raises:
            FileExistsError: If the folder has an index, or other files, or is a file.
            TypeError: As `SparseIndex.build`.
            ValueError: As `SparseIndex.build`.
            ImportError: As `SparseIndex.build`.
            OSError: If the disk is full.
        """
        if codes is None and words is None:
            raise ValueError("there is nothing to index; pass codes, words=texts, or both")
        if codes is None and check_similarity(similarity) != "cosine":
            raise ValueError(
                f"similarity={similarity!r} applies to codes; pass codes, or leave it out"
            )
        index = cls(Folder(Path(path), language if callable(language) else None), merging)
        index._folder.check_empty()
        source, n = source_of(codes, words, check_similarity(similarity))
        new, found = as_new_ids(ids, n), None
        threads = checked_threads(threads)
        if decoder is not None:
            check_decoder(decoder, source.like())
        if words is not None:
            check_language(language)
            found = Words.of(as_texts(words, n, "documents"), language, check_weight(weight))
        index._folder.begin(source, new, found, decoder, threads)
        return index

    @classmethod
    def from_index(
        cls,
        path: str | Path,
        index: Searchable,
        *,
        merging: Merging = "background",
        threads: int | None = None,
    ) -> Self:
        """Copy the documents of another index into a new or empty folder.

        Args:
            path: The folder.
            index: A `SparseIndex`, or another `SegmentedIndex`. Packed codes are unpacked.
            merging: See `create`.
            threads: See `create`.

        Raises:
            FileExistsError: If the folder has an index, or other files, or is a file.
            TypeError: If ``index`` is not an index, or threads are not an integer.
            OSError: If the disk is full.
        """
        if not isinstance(index, Searchable):
            raise TypeError(
                f"index is a {type(index).__name__}; pass a SparseIndex or a SegmentedIndex, or "
                "make one of codes by SegmentedIndex.create"
            )
        parts, decoder = index._parts(), index.decoder
        words = parts.words
        language = words.language if words is not None and callable(words.language) else None
        made = cls(Folder(Path(path), language), merging)
        threads = checked_threads(threads)
        collections = [part.collection for part in parts.all]
        ids, found = joined_ids(collections), joined_words(collections)
        made._folder.begin(FromCollections(collections), ids, found, decoder, threads)
        return made

    @classmethod
    def load_from_hub(
        cls,
        repo_id: str,
        path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        language: Language | None = None,
        merging: Merging = "background",
        threads: int | None = None,
    ) -> Self:
        """Download an index that `push_to_hub` published, into a new or empty folder.

        Args:
            repo_id: Data set such as "org/my-index".
            path: The folder.
            revision: Branch, tag or commit; the main branch when None.
            token: Hub token; the one that ``hf auth login`` saved when None.
            language: See `open`.
            merging: See `create`.
            threads: See `create`.

        Raises:
            FileExistsError: As `from_index`.
            ValueError: As `SparseIndex.load_from_hub`.
            ConnectionError: As `SparseIndex.load_from_hub`.
            ImportError: If numba is not installed.
            OSError: If the disk is full.
        """
        Folder(Path(path), None).check_empty()
        found = SparseIndex.load_from_hub(
            repo_id, revision=revision, token=token, language=language
        )
        return cls.from_index(path, found, merging=merging, threads=threads)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        verify: bool = False,
        language: Language | None = None,
        merging: Merging = "background",
    ) -> Self:
        """Open the index in a folder; its files are mapped.

        Args:
            path: The folder.
            verify: Read all files once and compare their checksums. By default only sizes are
                checked: pass True for a folder that you do not trust.
            language: See `SparseIndex.load`.
            merging: See `create`.

        Raises:
            FileNotFoundError: If there is no index.
            ValueError: If a file is damaged or of a newer version, or the language is another one.
            ImportError: If numba is not installed.
        """
        index = cls(Folder(Path(path), language), merging)
        index._folder.refresh(verify)
        if language is not None and index.language is None:
            raise ValueError(
                f"language={language!r} is given, but the index in {path} has no words"
            )
        return index

    def add(
        self,
        codes: SparseCodes | PackedCodes | CodeShards | None = None,
        ids: Ids | None = None,
        *,
        words: Sequence[str] | None = None,
        replace: bool = False,
        threads: int | None = None,
    ) -> None:
        """Add documents at the end; when it returns, they are on the disk.

        Args:
            codes: See `create`; with the index's hidden_dim and k, or None if it has only words.
            ids: See `SparseIndex.add`.
            words: See `SparseIndex.add`.
            replace: Remove documents that have one of the ids, in the same step.
            threads: See `create`.

        Raises:
            TypeError: As `SparseIndex.add`.
            ValueError: As `SparseIndex.add`.
            OSError: If the disk is full; the index stays as it was.
        """
        threads = checked_threads(threads)
        source, n, found = checked_addition(self._parts(), codes, words)
        given, folder = None if ids is None else as_new_ids(ids, n), self._folder
        if not n:
            return
        with folder.changing() as (state, parts):
            new = numbered(state.next_id, n, parts.ids_are_strings) if given is None else given
            places = parts.known_places(new)
            if places and not replace:
                number, positions = places[0]
                known = parts.all[number].collection.ids[positions[:1]].tolist()[0]
                raise ValueError(
                    f"id {known!r} is in the index; remove it first, pass replace=True, or pass "
                    "another id"
                )
            entry = Entry(state.next_number, n)
            folder.write((entry.file, entry.postings_file), source, new, found, threads)
            entries = (*folder.write_removed(state, parts, places), entry)
            least_id = max(state.next_id, next_id(new))
            folder.commit(state.following(entries, least_id, new=1))
        self._changed()

    def remove(self, ids: Ids) -> None:
        """Remove documents: all of them or, if an id is unknown, none.

        When it returns, this is on the disk. Their rows are freed by the next merge.

        Raises:
            TypeError: As `SparseIndex.remove`.
            ValueError: As `SparseIndex.remove`.
            OSError: If the disk is full; the index stays as it was.
        """
        wanted, folder = as_id_array(ids), self._folder
        with folder.changing() as (state, parts):
            places = parts.places(wanted)
            if not places:
                return
            entries = folder.write_removed(state, parts, places)
            folder.commit(state.following(entries, state.next_id))
        self._changed()

    def refresh(self) -> bool:
        """Load the changes of other processes; return whether there were any."""
        return self._folder.refresh()

    def merge(self, threads: int | None = None) -> None:
        """Merge all segments into one and drop the removed documents.

        Other threads and processes may search and change the index meanwhile.

        Args:
            threads: See `create`.

        Raises:
            OSError: If the disk is full; the index stays as it was.
        """
        self._merger.merge_all(checked_threads(threads))

    def verify(self) -> None:
        """Read all files once and compare their checksums.

        Raises:
            FileNotFoundError: If one is missing.
            ValueError: If one was altered.
        """
        Folder(self.path, self._folder.language).refresh(verify=True)

    def save(self, path: str | Path) -> None:
        """Write the documents as one file, completely or not at all, for `SparseIndex.load`.

        Removed documents are left out. Others may change the index meanwhile.

        Raises:
            OSError: If the disk is full.
        """
        collections = [part.collection for part in self._parts().all]
        ids, words = joined_ids(collections), joined_words(collections)
        source, threads = FromCollections(collections), checked_threads(None)
        write_segment(Path(path), source, ids, words, threads, self.decoder)

    def close(self) -> None:
        """Wait for a merge in the background."""
        self._merger.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        folder = self._folder
        return {"path": folder.path, "language": folder.language, "merging": self._merging}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(Folder(state["path"], state["language"]), state["merging"])  # type: ignore[misc]
        self._folder.refresh()

    def __repr__(self) -> str:
        words = "" if self.language is None else f", words={self.language!r}"
        codes = f", k={self.k}, hidden_dim={self.hidden_dim}" if self.hidden_dim else ""
        about = f"n={len(self)}, segments={self.n_segments}{codes}{words}"
        return f"SegmentedIndex({str(self.path)!r}, {about})"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def n_segments(self) -> int:
        """Number of segments."""
        return len(self._folder.now.all)

    @property
    def decoder(self) -> Decoder | None:
        """The decoder stored with the index."""
        return self._folder.decoder

    def _parts(self) -> Parts:
        return self._folder.now

    def _changed(self) -> None:
        if self._merging == "background":
            self._merger.start()


def _renew_locks() -> None:
    """After a fork, let go of locks of threads that the child does not have."""
    for index in _alive:
        index._folder.renew_locks()
        index._merger.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
