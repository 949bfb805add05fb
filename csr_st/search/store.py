"""`Store`: the calls that both indexes and every engine share, so that they are interchangeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from csr_st.codes import SparseCodes
from csr_st.search.ids import Ids
from csr_st.search.results import SearchResults

if TYPE_CHECKING:
    from csr_st.search.engines.base import Engine
    from csr_st.search.index import SparseIndex
    from csr_st.search.segmented_index import SegmentedIndex


class Store(Protocol):
    """A searchable collection of codes: `SparseIndex`, `csr_st.SegmentedIndex` or an engine.

    They differ in where documents are and when they are durable: `SparseIndex` holds them in memory
    until `SparseIndex.save`; `SegmentedIndex` has them in its folder, and an
    `csr_st.search.engines.base.Engine` in its database, when `add` returns. `add` of an engine
    skips documents that are stored already; that of the indexes refuses them.
    tests/search/test_stores.py runs the same tests on all of them.
    """

    def __len__(self) -> int:
        """Number of documents."""

    def add(self, codes: SparseCodes, ids: Ids | None = None) -> Any:
        """Add documents, one id each.

        Raises:
            TypeError: If an argument is of the wrong type, or ids are of another kind.
            ValueError: If sizes do not fit, ids repeat, or values are NaN.
        """

    def remove(self, ids: Ids) -> None:
        """Remove documents: all of them or, if an id is unknown, none.

        Raises:
            TypeError: If ids are of the wrong type.
            ValueError: If an id is unknown.
        """

    def search(
        self, query_codes: SparseCodes, top_k: int = 10, *, filter: Ids | None = None
    ) -> SearchResults:
        """The best documents of each query, among those of a filter.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If hidden_dim differs, top_k is not within 1..the number of documents, or an
                id of the filter is unknown.
        """


if TYPE_CHECKING:

    def _are_stores(one: SparseIndex, two: SegmentedIndex, three: Engine) -> list[Store]:
        return [one, two, three]  # the type checker says so if one of them is no longer a store
