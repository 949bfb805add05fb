"""What an index holds at one moment: documents, their ids, and which of them were removed.

Nothing here is edited in place: a change gives new contents, so a search that took the old ones
goes on undisturbed. Knows nothing of postings or files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.search.checks import check_new_ids
from csr_st.search.documents import Documents
from csr_st.search.ids import MAX_ID, IdLookup, Ids, as_id_array


@dataclass(frozen=True, eq=False)
class Contents:
    """Documents by position, removed ones among them until they are more than half.

    Attributes:
        documents: n stored documents.
        ids: (n,) external ids, int64 or strings as objects.
        lookup: From ids to positions.
        alive: (n,) bool, False where a document was removed.
        n_alive: Documents not removed; kept, as counting takes longer than a search.
        next_id: The smallest integer above every id there ever was.
    """

    documents: Documents
    ids: NDArray[Any]
    lookup: IdLookup
    alive: NDArray[np.bool_]
    n_alive: int
    next_id: int

    @classmethod
    def of(cls, documents: Documents, ids: NDArray[Any]) -> Contents:
        """All of these documents."""
        alive = np.ones(len(ids), bool)
        return cls(documents, ids, IdLookup(ids), alive, len(ids), _next_id(ids))

    def added(self, more: Documents, ids: Ids | None) -> Contents:
        """With ``more`` behind; ids go on counting if None.

        Raises:
            TypeError: If ids are of another type than those there are.
            ValueError: If hidden_dim or k differ, or ids repeat or are held already.
        """
        new = self._numbered(len(more)) if ids is None else as_id_array(ids)
        check_new_ids(new, len(more))
        known = self._held(self.lookup.positions(new))
        if known.any():
            taken = new[known].tolist()[0]
            raise ValueError(f"id {taken!r} is in the index; remove it first, or pass another id")
        joined = np.concatenate([self.ids, new]) if len(self.ids) else new
        return Contents(
            self.documents.joined(more),
            joined,
            IdLookup(joined),
            np.concatenate([self.alive, np.ones(len(new), bool)]),
            self.n_alive + len(new),
            max(self.next_id, _next_id(new)),
        )

    def _numbered(self, count: int) -> NDArray[np.int64]:
        if self.ids.dtype == object and len(self.ids):
            raise ValueError("the ids of this index are strings; pass ids for the added documents")
        if self.next_id + count - 1 > MAX_ID:
            raise ValueError(
                f"{count} ids from {self.next_id} on exceed {MAX_ID}; pass ids for the added "
                "documents"
            )
        return np.arange(count, dtype=np.int64) + self.next_id

    def removed(self, ids: Ids) -> Contents:
        """Without these; documents are dropped once more than half of them are removed.

        Raises:
            ValueError: If an id is not held.
        """
        alive = self.alive.copy()
        alive[self.known_positions(as_id_array(ids))] = False
        left = replace(self, alive=alive, n_alive=int(alive.sum()))
        # Fewer rows are copied than were removed since the last time.
        return left.compacted() if 2 * left.n_alive < len(alive) else left

    def compacted(self) -> Contents:
        """The same without the rows of removed documents."""
        if self.n_alive == len(self.alive):
            return self
        kept = Contents.of(self.documents.rows(self.alive), self.ids[self.alive])
        return replace(kept, next_id=self.next_id)

    def allowed(self, wanted: Ids | NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(n,) bool, the documents that a filter of ids, or of bools along the ids, leaves.

        Raises:
            ValueError: If an id is not held or the bools are not one a document.
        """
        allowed = np.zeros(len(self.alive), bool)
        if isinstance(wanted, np.ndarray) and wanted.dtype == bool:
            if wanted.shape != (self.n_alive,):
                raise ValueError(
                    f"the filter has shape {wanted.shape}; a bool filter has one entry for each of "
                    f"the {self.n_alive} documents, along index.ids"
                )
            allowed[np.flatnonzero(self.alive)[wanted]] = True
        else:
            allowed[self.known_positions(as_id_array(wanted))] = True
        return allowed

    def known_positions(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Where the ids stand.

        Raises:
            ValueError: If one is not held.
        """
        places = self.lookup.positions(ids)
        missing = ~self._held(places)
        if missing.any():
            raise ValueError(
                f"id {ids[missing].tolist()[0]!r} is not in the index of {self.n_alive} documents"
            )
        return places

    def _held(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether there is a document at each place, -1 being none."""
        if not len(self.alive):
            return places >= 0
        held: NDArray[np.bool_] = (places >= 0) & self.alive[places]
        return held


def _next_id(ids: NDArray[Any]) -> int:
    return int(ids.max()) + 1 if len(ids) and ids.dtype != object else 0
