"""A vector store of LlamaIndex over a `csr_st.SparseIndex`.

::

    from csr_st.frameworks.llama_index import CSRVectorStore

    store = CSRVectorStore(head=head)  # dense vectors of any embed_model, through a head
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(documents, context, embed_model=embed_model)

With ``CSRVectorStore("org/my-csr")`` the store encodes texts itself, queries too. LlamaIndex still
asks an ``embed_model`` for a vector of each text, which is not used: pass ``MockEmbedding(1)``. An
``IngestionPipeline`` gives a store only nodes that have a vector: put ``MockEmbedding(1)`` at the
end of its ``transformations``.

A store among what ``StorageContext.persist`` wrote is opened by itself, and passed on::

    store = CSRVectorStore.from_persist_dir("storage", "org/my-csr")
    context = StorageContext.from_defaults(persist_dir="storage", vector_store=store)
    index = load_index_from_storage(context, embed_model=MockEmbedding(1))
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Self

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ModuleNotFoundError as error:
    raise ImportError('llama_index.core is missing: pip install "csr-st[llama-index]"') from error

from csr_st.codes import SparseCodes
from csr_st.frameworks.coding import TextCoder, VectorCoder, by_words, check_width
from csr_st.frameworks.diversity import Diversity
from csr_st.frameworks.documents import Ask, IndexedDocuments, empty_index, for_which
from csr_st.frameworks.folder import (
    CODER_SETTINGS,
    load_documents,
    refuse_changed,
    restored,
    save_documents,
)
from csr_st.frameworks.llama_index_filters import selection
from csr_st.head import SparseCSRHead
from csr_st.search import SparseIndex
from csr_st.search.words import MAX_WEIGHT
from csr_st.sparse_encoders import AnyModel

_NAME = "llama_index"
_FILE = "vector_store.json"  # as StorageContext.persist names it, after the namespace
# LlamaIndex opens any file of that name as a SimpleVectorStore of its own. It fails at these: the
# first, which it shows, as it is no float; the other, in whatever version, as it is no dict.
_OPENED_BY = "open this with CSRVectorStore.from_persist_dir"
_REFUSED = {"embedding_dict": {"": [_OPENED_BY]}, "metadata_dict": _OPENED_BY}
_CODES = {VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.MMR}


class CSRVectorStore(BasePydanticVectorStore):
    """Nodes of LlamaIndex, searched exactly by their sparse codes and, where wanted, words.

    The index is in memory; `persist` writes it and the nodes. Several threads may use a store at
    once. Modes of queries: ``default`` and ``sparse`` search by codes; ``mmr`` too, and chooses
    among the best nodes some that are unlike each other; ``text_search`` by words; ``hybrid`` by
    both in one score, where ``alpha`` a, if given, weighs codes by a and words by 1 - a: a score is
    that of the codes plus (1 - a) / a times that of the words. The score of the codes is their
    cosine, or their dot product for a model that ranks by it; with ``rescore`` it is the cosine of
    the query's dense vector and the decoded node.

    Args:
        model: What encodes the texts of nodes and queries: a model with a head, its folder or Hub
            id, or a `SparseEncoder`. Or None, with a head:
        head: Encodes the dense vectors of nodes and queries, those of ``embed_model``, on which it
            was trained.
        k: Latents per node; the head's default when None.
        query_k: Latents per query, as in `csr_st.Searcher`.
        words: Index the words of texts too; needs ``csr-st[words]``.
        language: Language of the texts, for ``words``.
        weight: Weight of BM25 in a score; the default of `csr_st.SparseIndex.build` if None.
        rescore: Score this many of the best nodes again through the decoder; 0 for none.
        batch_size: Texts per forward pass of the model.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of bounds, or not one of model and head is given.
        ImportError: If numba, or what words need, is not installed.
    """

    stores_text: bool = True
    is_embedding_query: bool = True

    _coder: TextCoder | VectorCoder = PrivateAttr()
    _nodes: IndexedDocuments[BaseNode] = PrivateAttr()

    def __init__(  # what a store is, once for all nodes
        self,
        model: AnyModel | str | Path | None = None,
        *,
        head: SparseCSRHead | None = None,
        k: int | None = None,
        query_k: int | None = None,
        words: bool = False,
        language: str = "english",
        weight: float | None = None,
        rescore: int = 0,
        batch_size: int = 32,
    ) -> None:
        coder = _coder_of(model, head, k, query_k=query_k, rescore=rescore, batch_size=batch_size)
        index = empty_index(
            coder.hidden_dim,
            coder.k,
            words=words,
            language=language,
            weight=weight,
            similarity=coder.similarity,
        )
        super().__init__(stores_text=True, is_embedding_query=isinstance(coder, VectorCoder))
        self._begin(coder, IndexedDocuments(index))

    def _begin(self, coder: TextCoder | VectorCoder, nodes: IndexedDocuments[BaseNode]) -> None:
        check_width(coder.hidden_dim, nodes.index)
        if isinstance(coder, TextCoder):
            coder.bind(nodes.index)
        self._coder, self._nodes = coder, nodes

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return "CSRVectorStore"

    @property
    def client(self) -> SparseIndex:
        """The index."""
        return self._nodes.index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Encode nodes and add them; one whose id is known replaces the one that was there.

        Args:
            nodes: With embeddings in a store with a head.
            kwargs: None are used.

        Returns:
            The ids of the nodes.

        Raises:
            ValueError: If an embedding is missing, or of another width. Nothing is added then.
        """
        del kwargs
        by_id = {node.node_id: node for node in nodes}
        if not by_id:
            return []
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in by_id.values()]
        codes = self._encoded(list(by_id.values()), texts)
        bare = {id: node.model_copy(update={"embedding": None}) for id, node in by_id.items()}
        kept = {id: _copy(node) for id, node in bare.items()}
        self._nodes.put(kept, codes, texts)
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, in another thread."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def _encoded(self, nodes: list[BaseNode], texts: list[str]) -> SparseCodes:
        if isinstance(self._coder, TextCoder):
            return self._coder.documents(texts)
        missing = [node.node_id for node in nodes if node.embedding is None]
        if missing:
            raise ValueError(
                f"node {missing[0]!r} has no embedding, which this store's head encodes; add nodes "
                "by VectorStoreIndex, or make the store with a model"
            )
        return self._coder.documents([node.embedding for node in nodes])

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Remove the nodes of a document; it is no error if there are none."""
        del delete_kwargs
        self._nodes.remove_where(for_which(lambda node: node.ref_doc_id == ref_doc_id))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """As `delete`, in another thread."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Remove the nodes that have one of these ids, if given, and match the filters, if given.

        Raises:
            ValueError: If neither is given; `clear` removes all nodes.
        """
        del delete_kwargs
        if node_ids is None and filters is None:
            raise ValueError("pass node_ids or filters; clear() removes all nodes")
        self._nodes.remove_where(selection(node_ids, None, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """As `delete_nodes`, in another thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    def clear(self) -> None:
        """Remove all nodes."""
        self._nodes.remove_where(None)

    async def aclear(self) -> None:
        """As `clear`, in another thread."""
        await asyncio.to_thread(self.clear)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes that have one of these ids, if given, and match the filters, if given."""
        found = self._nodes.where(selection(node_ids, None, filters))
        return [_copy(node) for node in found.values()]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As `get_nodes`, in another thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes of a query.

        Args:
            query: Its ``similarity_top_k``, ``filters``, ``node_ids``, ``doc_ids``, ``mode``,
                ``alpha`` and ``mmr_threshold`` count.
            kwargs: For mode ``mmr``: ``mmr_threshold``, what a score counts, within 0..1, where
                likeness to a node that was chosen before counts the rest, 0.5 if not given; and
                ``mmr_prefetch_k``, among how many of the best nodes to choose, four times
                ``similarity_top_k`` if not given. Others are not used.

        Returns:
            Nodes, ids and scores, best first, of mode ``mmr`` in the order in which they are
            chosen.

        Raises:
            TypeError: If a number is of the wrong type.
            ValueError: If the mode is another one, a number is out of bounds, or what the mode
                needs is missing: a text, an embedding, or words.
        """
        node_ids = query.node_ids or None  # LlamaIndex passes [] for all nodes
        select = selection(node_ids, query.doc_ids or None, query.filters)
        ask, top_k = self._ask(query), query.similarity_top_k
        if query.mode == VectorStoreQueryMode.MMR:
            found = self._nodes.search_diverse(ask, top_k, _diversity(query, kwargs), select)
        else:
            found = self._nodes.search(ask, top_k, select)
        return VectorStoreQueryResult(
            nodes=[_copy(node) for _, node, _ in found],
            similarities=[score for *_, score in found],
            ids=[id for id, *_ in found],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`, in another thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _ask(self, query: VectorStoreQuery) -> Ask:
        mode, text = query.mode, query.query_str
        if mode not in _CODES | {VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.HYBRID}:
            raise ValueError(
                f"mode {mode.value!r}: use default, sparse, mmr, text_search or hybrid"
            )
        words = mode not in _CODES
        if words and self.client.language is None:
            raise ValueError(f"mode {mode.value!r} needs words; make the store with words=True")
        if text is None and (words or isinstance(self._coder, TextCoder)):
            raise ValueError("query_str is None; pass the text of the query")
        weight = _weight(query.alpha) if words else None
        if mode == VectorStoreQueryMode.TEXT_SEARCH or weight == float("inf"):
            assert text is not None
            return by_words(text)
        if isinstance(self._coder, TextCoder):
            assert text is not None
            no_words = None if self.client.language is None else 0.0
            return self._coder.query(text, weight if words else no_words)
        if query.query_embedding is None:
            raise ValueError(
                f"mode {mode.value!r} needs query_embedding in a store with a head; use mode "
                "default or hybrid, or make the store with a model"
            )
        return self._coder.query(query.query_embedding, text if words else None, weight)

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Write nodes and index, completely or not at all; without the model.

        Args:
            persist_path: A JSON file; two more files are written beside it.
            fs: None: other file systems than the local one are not written to.

        Raises:
            ValueError: If ``fs`` is given, or JSON cannot express the metadata of a node, or would
                change them. What was there stays.
        """
        if fs is not None:
            raise ValueError("fs: an index is written to local files only; leave it out")
        index, nodes = self._nodes.state()
        rows = ((id, _as_dict(id, node)) for id, node in nodes.items())
        save_documents(Path(persist_path), _NAME, index, rows, self._coder.settings, _REFUSED)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | Path,
        model: AnyModel | str | Path | None = None,
        *,
        namespace: str = "default",
        head: SparseCSRHead | None = None,
        batch_size: int = 32,
    ) -> Self:
        """Open what ``StorageContext.persist(persist_dir)`` wrote of a store.

        Args:
            persist_dir: The folder.
            model: The one that the nodes were encoded with; or None, with the head:
            namespace: Namespace of the store among those of the context.
            head: That the nodes were encoded with.
            batch_size: Texts per forward pass of the model.

        Raises:
            FileNotFoundError: As `from_persist_path`.
            ValueError: As `from_persist_path`.
        """
        path = Path(persist_dir) / f"{namespace}__{_FILE}"
        return cls.from_persist_path(path, model, head=head, batch_size=batch_size)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str | Path,
        model: AnyModel | str | Path | None = None,
        *,
        head: SparseCSRHead | None = None,
        batch_size: int = 32,
    ) -> Self:
        """Open what `persist` wrote, with the model or head that its nodes were encoded with.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or of a newer format, or the model of another width.
        """
        path = Path(persist_path)
        saved = load_documents(path, _NAME, CODER_SETTINGS)
        nodes = restored(path, saved.documents, lambda _, row: metadata_dict_to_node(row))
        settings = {**saved.settings, "batch_size": batch_size}
        coder = _coder_of(model, head, saved.index.k, **settings)
        store = cls.model_construct(is_embedding_query=isinstance(coder, VectorCoder))
        store._begin(coder, IndexedDocuments(saved.index, nodes))
        return store


def _coder_of(
    model: AnyModel | str | Path | None,
    head: SparseCSRHead | None,
    k: int | None,
    *,
    batch_size: int,
    **options: Any,
) -> TextCoder | VectorCoder:
    if (model is None) == (head is None):
        raise ValueError(
            "pass a model, which encodes texts, or head=, which encodes the vectors of embed_model"
        )
    if model is not None:
        return TextCoder(model, k, batch_size=batch_size, **options)
    assert head is not None
    return VectorCoder(head, k, **options)


def _diversity(query: VectorStoreQuery, kwargs: dict[str, Any]) -> Diversity:
    """How mode ``mmr`` chooses."""
    threshold = kwargs.get("mmr_threshold", query.mmr_threshold)
    candidates = kwargs.get("mmr_prefetch_k", 4 * query.similarity_top_k)
    names = "mmr_prefetch_k", "mmr_threshold"
    return Diversity.checked(candidates, 0.5 if threshold is None else threshold, names)


def _weight(alpha: float | None) -> float | None:
    """The weight of words of which codes have 1, for LlamaIndex' alpha; inf for words alone."""
    if alpha is None:
        return None
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} is not within 0..1, from words alone to codes alone")
    if not alpha:
        return float("inf")
    weight = (1 - alpha) / alpha
    if weight > MAX_WEIGHT:
        raise ValueError(
            f"alpha={alpha} is too small: words would weigh {weight:g} times as much as codes, and "
            f"at most {MAX_WEIGHT:g} is possible; pass 0 for words alone"
        )
    return weight


def _as_dict(id: str, node: BaseNode) -> dict[str, Any]:
    """What `metadata_dict_to_node` makes the same node of."""
    with refuse_changed(f"node {id!r}") as check:
        row = node_to_metadata_dict(node)
        check(json.loads(row["_node_content"])["metadata"], node.metadata)
    return row


def _copy(node: BaseNode) -> BaseNode:
    """Another node, so that a change of what was found leaves the store as it is."""
    return node.model_copy(deep=True)
