"""A document store of Haystack over a `csr_st.SparseIndex`.

::

    from csr_st.frameworks.haystack import CSRDocumentStore
    from csr_st.frameworks.haystack_components import CSRDocumentEmbedder

    store = CSRDocumentStore(hidden_dim=1536)
    store.write_documents(CSRDocumentEmbedder("org/my-csr").run(documents)["documents"])

Haystack's way is that components embed and stores keep: a store takes the ``sparse_embedding`` of a
document, made by `csr_st.frameworks.haystack_components` or by any other component. Pipelines that
were saved name the class by its path, which therefore never changes.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    from haystack import default_from_dict, default_to_dict
    from haystack.dataclasses import Document, SparseEmbedding
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy
    from haystack.errors import FilterError
    from haystack.utils.filters import document_matches_filter
except ModuleNotFoundError as error:
    raise ImportError('haystack is missing: pip install "csr-st[haystack]"') from error

from csr_st.frameworks.coding import checked_weight, found_by_one
from csr_st.frameworks.documents import IndexedDocuments, Selection, empty_index, for_which
from csr_st.frameworks.folder import MANIFEST, load_documents, restored, save_documents
from csr_st.frameworks.haystack_metadata import Filters, MetadataQueries
from csr_st.frameworks.sparse_rows import codes_of_embeddings
from csr_st.search import SparseIndex
from csr_st.search.documents import Similarity, check_similarity

_NAME = "haystack"


class CSRDocumentStore(MetadataQueries):
    """Documents of Haystack, searched exactly by their sparse embeddings and, where wanted, words.

    The index is in memory; `save` writes it and the documents to a folder. Several threads may use
    a store at once. Documents without a sparse embedding are kept, and found by words alone.

    Args:
        hidden_dim: Width of the sparse embeddings: the latents of the head (``hidden_dim`` of its
            config.json), the vocabulary of SPLADE.
        k: The most values above 0 that a document's sparse embedding may have; 64, or hidden_dim if
            that is less, when None.
        words: Index the words of contents too; needs ``csr-st[words]``.
        language: Language of the contents, for ``words``.
        weight: Weight of BM25 in a score; the default of `csr_st.SparseIndex.build` if None.
        similarity: What embeddings are compared by, "cosine" or, for SPLADE, "dot".
        path: A folder that `save` writes to; what was saved there is opened.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of bounds, or the folder has other sizes or is damaged.
        ImportError: If numba, or what words need, is not installed.
    """

    def __init__(  # what a store is, once for all documents
        self,
        hidden_dim: int,
        k: int | None = None,
        *,
        words: bool = False,
        language: str = "english",
        weight: float | None = None,
        similarity: Similarity = "cosine",
        path: str | None = None,
    ) -> None:
        similarity = check_similarity(similarity)
        k = min(64, hidden_dim) if k is None else k
        sizes: dict[str, Any] = {"hidden_dim": hidden_dim, "k": k, "similarity": similarity}
        about: dict[str, Any] = {"words": words, "language": language, "weight": weight}
        self.path = None if path is None else str(path)
        self._options = {**sizes, **about, "path": self.path}
        self._documents = IndexedDocuments[Document](empty_index(**sizes, **about))
        # Whether all of these documents have sparse embeddings
        self._complete: tuple[Mapping[str, Document], bool] = {}, False
        if self.path is not None and (Path(self.path) / MANIFEST).exists():
            self._documents = _opened(Path(self.path) / MANIFEST, self._documents.index)

    def to_dict(self) -> dict[str, Any]:
        """The settings of the store, without its documents, as a pipeline saves it."""
        return default_to_dict(self, **self._options)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CSRDocumentStore:
        """The store of these settings; with a ``path``, what was saved there."""
        found: CSRDocumentStore = default_from_dict(cls, data)
        return found

    @property
    def index(self) -> SparseIndex:
        """The index."""
        return self._documents.index

    def count_documents(self) -> int:
        """Number of documents."""
        return len(self._documents)

    def filter_documents(self, filters: Filters | None = None) -> list[Document]:
        """The documents that match; all of them without filters.

        Raises:
            haystack.errors.FilterError: If filters are not those of Haystack.
        """
        return [_copy(document) for document in self._matching(filters)]

    def _matching(self, filters: Filters | None = None) -> list[Document]:
        return list(self._documents.where(_selection(filters)).values())

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Add documents, and return how many were written.

        Args:
            documents: With ``sparse_embedding`` to be found by it.
            policy: For ids that are known, or given twice: OVERWRITE, SKIP, or FAIL, as NONE does.

        Raises:
            haystack.document_stores.errors.DuplicateDocumentError: If an id is known and may not
                be. Nothing is written then, and so with the other errors.
            TypeError: If the policy is no DuplicatePolicy.
            ValueError: If they are no documents, or a sparse embedding does not fit.
        """
        if not isinstance(policy, DuplicatePolicy):
            raise TypeError(f"policy={policy!r}; pass one such as DuplicatePolicy.OVERWRITE")
        documents = list(documents)
        for document in documents:
            if not isinstance(document, Document):
                raise ValueError(f"{document!r} is no Document; pass a list of Documents")
        documents = [_copy(document) for document in documents]
        named = [(f"document {each.id!r}", each.sparse_embedding) for each in documents]
        codes = codes_of_embeddings(named, self.index.hidden_dim, self.index.k)
        with self._documents.lock:
            rows, written = self._chosen(documents, policy)
            chosen = {documents[row].id: documents[row] for row in rows}
            texts = [document.content or "" for document in chosen.values()]
            self._documents.put(chosen, codes[rows], texts)
        return written

    def _chosen(self, documents: list[Document], policy: DuplicatePolicy) -> tuple[list[int], int]:
        """Rows of the documents to write, each id once, and how many count as written."""
        chosen: dict[str, int] = {}
        written = 0
        for row, document in enumerate(documents):
            known = document.id in self._documents or document.id in chosen
            if known and policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
                raise DuplicateDocumentError(
                    f"id {document.id!r} is in the store; write with DuplicatePolicy.OVERWRITE or "
                    "SKIP"
                )
            if not known or policy == DuplicatePolicy.OVERWRITE:
                chosen[document.id] = row
                written += 1
        return list(chosen.values()), written

    def delete_documents(self, document_ids: list[str]) -> None:
        """Remove the documents of these ids; unknown ids are skipped."""
        self._documents.remove(document_ids)

    def delete_all_documents(self) -> None:
        """Remove all documents."""
        self._documents.remove_where(None)

    def delete_by_filter(self, filters: Filters) -> int:
        """Remove the documents that match, and return how many there were."""
        return self._documents.remove_where(_selection(filters))

    def update_by_filter(self, filters: Filters, meta: dict[str, Any]) -> int:
        """Set entries of ``meta`` of the documents that match, and return how many there are."""
        with self._documents.lock:
            found = self._documents.where(_selection(filters))
            changed = {
                id: replace(each, meta={**each.meta, **copy.deepcopy(meta)})
                for id, each in found.items()
            }
            self._documents.replace(changed)
        return len(changed)

    async def count_documents_async(self) -> int:
        """As `count_documents`."""
        return self.count_documents()

    async def filter_documents_async(self, filters: Filters | None = None) -> list[Document]:
        """As `filter_documents`."""
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """As `write_documents`."""
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """As `delete_documents`."""
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self) -> None:
        """As `delete_all_documents`."""
        await asyncio.to_thread(self.delete_all_documents)

    async def delete_by_filter_async(self, filters: Filters) -> int:
        """As `delete_by_filter`."""
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: Filters, meta: dict[str, Any]) -> int:
        """As `update_by_filter`."""
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    def search(
        self,
        query_sparse_embedding: SparseEmbedding | None,
        query: str | None = None,
        filters: Filters | None = None,
        top_k: int = 10,
    ) -> list[Document]:
        """The best documents of a query, with their scores.

        Args:
            query_sparse_embedding: Code of the query; None to search by words alone.
            query: Its text, to search by words too.
            filters: Return only documents that match.
            top_k: Documents to return; all where there are fewer that can be found by what is
                searched by.

        Returns:
            Documents, best first. A score is the cosine (or dot product) of the embeddings, plus
            the part of the words.

        Raises:
            TypeError: If top_k is not an integer.
            ValueError: If it is below 1, the embedding does not fit, a text is given to a store
                without words, or neither text nor embedding is given.
        """
        index, weight = self.index, self._options["weight"]
        if query is not None and index.language is None:
            raise ValueError("this store has no words; leave query out, or make it with words=True")
        if query_sparse_embedding is None and query is None:
            raise ValueError("there is nothing to search for; pass query_sparse_embedding or query")
        codes = None
        if query_sparse_embedding is not None:
            named = [("the query", query_sparse_embedding)]
            codes = codes_of_embeddings(named, index.hidden_dim)
            if not codes.values.any() and query is None:
                return []

        def ask(
            index: SparseIndex, top_k: int, allowed: list[str] | None
        ) -> list[tuple[str, float]]:
            if query is None:
                return found_by_one(index, top_k, allowed, query_codes=codes)
            words = {"words": [query], "weight": checked_weight(index, weight)}
            return found_by_one(index, top_k, allowed, query_codes=codes, **words)

        select = self._to_be_found(filters, codes is not None, query is not None)
        return [
            replace(_copy(document), score=score)
            for _, document, score in self._documents.search(ask, top_k, select)
        ]

    def _to_be_found(
        self, filters: Filters | None, by_codes: bool, by_words: bool
    ) -> Selection[Document]:
        """Selects the documents that match and have what is searched by."""
        matching = _selection(filters)

        def has(document: Document) -> bool:
            codes = by_codes and document.sparse_embedding is not None
            return codes or (by_words and bool(document.content))

        def select(documents: Mapping[str, Document]) -> Mapping[str, Document]:
            found = documents
            if not (by_codes and self._all_have_codes(documents)):
                found = for_which(has)(found)
            return found if matching is None else matching(found)

        return select

    def _all_have_codes(self, documents: Mapping[str, Document]) -> bool:
        known, complete = self._complete
        if known is not documents:  # looked at once after a change, not at every search
            complete = all(each.sparse_embedding is not None for each in documents.values())
            self._complete = documents, complete
        return complete

    def save(self, path: str | Path | None = None) -> None:
        """Write documents and index to a folder, completely or not at all.

        Args:
            path: The folder; the store's ``path`` if None.

        Raises:
            TypeError: If a document has something that JSON cannot express.
            ValueError: If JSON would change it, or there is no path.
        """
        path = self.path if path is None else path
        if path is None:
            raise ValueError("the store has no path; pass one")
        index, documents = self._documents.state()
        rows = ((id, _as_dict(document)) for id, document in documents.items())
        save_documents(Path(path) / MANIFEST, _NAME, index, rows, {})


def _as_dict(document: Document) -> dict[str, Any]:
    """As Haystack has it, which copies number after number of an embedding, but for embeddings."""
    sparse = document.sparse_embedding
    bare = replace(document, embedding=None, sparse_embedding=None)
    found: dict[str, Any] = bare.to_dict(flatten=False)
    found["embedding"] = document.embedding
    if sparse is not None:
        found["sparse_embedding"] = {"indices": sparse.indices, "values": sparse.values}
    return found


def _opened(path: Path, wanted: SparseIndex) -> IndexedDocuments[Document]:
    saved = load_documents(path, _NAME, {})
    for name in ("hidden_dim", "k", "similarity", "language"):
        stored, given = (_setting(index, name) for index in (saved.index, wanted))
        if stored != given:
            raise ValueError(f"{path.parent} was saved with {stored}, not {given}")
    documents = restored(path, saved.documents, lambda _, row: Document.from_dict(row))
    return IndexedDocuments(saved.index, documents)


def _setting(index: SparseIndex, name: str) -> str:
    """A setting of the store that an index belongs to, as it is passed."""
    value = getattr(index, name)
    if name == "language":
        return "words=False" if value is None else f"words=True, language={value!r}"
    return f"{name}={value!r}"


def _copy(document: Document) -> Document:
    """Another document, so that its changes leave the other as it is; embeddings are shared."""
    return replace(document, meta=copy.deepcopy(document.meta), blob=copy.deepcopy(document.blob))


def _selection(filters: Filters | None) -> Selection[Document] | None:
    if not filters:
        return None
    _check(filters)
    return for_which(lambda document: bool(document_matches_filter(filters, document)))


def _check(filters: Any) -> None:
    """Let Haystack refuse what no filters are, also where there is no document to look at."""
    if not isinstance(filters, dict):
        raise FilterError(f"filters {filters!r} are no dict")
    document_matches_filter(filters, Document())
    for each in () if "field" in filters else filters["conditions"]:
        _check(each)
