"""Components of Haystack: embedders by a model with a head, and a retriever of `CSRDocumentStore`.

::

    from csr_st.frameworks.haystack_components import CSRRetriever, CSRTextEmbedder

    pipeline = Pipeline()
    pipeline.add_component("embedder", CSRTextEmbedder("org/my-csr"))
    pipeline.add_component("retriever", CSRRetriever(store))
    pipeline.connect("embedder.sparse_embedding", "retriever.query_sparse_embedding")

The embedders differ from ``SentenceTransformersSparseTextEmbedder`` and its like, which load the
same models, in what codes need: k for each component, and the model's prompts for queries and
documents. Pipelines that were saved name classes by their paths, which therefore never change;
Haystack opens them with ``Pipeline.loads(text, allowed_modules=["csr_st.frameworks.*"])``.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

try:
    from haystack import component, default_from_dict, default_to_dict
    from haystack.dataclasses import Document, SparseEmbedding
    from haystack.document_stores.types import FilterPolicy, apply_filter_policy
except ModuleNotFoundError as error:
    raise ImportError('haystack is missing: pip install "csr-st[haystack]"') from error

from csr_st.codes import SparseCodes
from csr_st.encoding import encode
from csr_st.frameworks.coding import usual_query_k
from csr_st.frameworks.haystack import CSRDocumentStore
from csr_st.frameworks.haystack_metadata import Filters
from csr_st.sparse_encoders import AnyModel, ready


class _Model:
    """A model that is loaded when it is needed, for a component of Haystack.

    Args:
        model: A model with a head, or a `SparseEncoder`; or the folder or Hub id of the first.
        k: Active latents.
    """

    def __init__(self, model: AnyModel | str | Path, k: int | None) -> None:
        self._given = str(model) if isinstance(model, Path) else model
        self._k = k
        self._loaded: AnyModel | None = None

    def loaded(self) -> AnyModel:
        if self._loaded is None:
            given = self._given
            model = SentenceTransformer(given) if isinstance(given, str) else given
            ready(model, self._k)  # refuses a model without a head
            self._loaded = model
        return self._loaded

    def name(self) -> str:
        if not isinstance(self._given, str):
            raise ValueError(
                "a pipeline can be saved where its models are folders or Hub ids; this one is a "
                f"{type(self._given).__name__}"
            )
        return self._given


@component
class CSRDocumentEmbedder:
    """Gives documents the ``sparse_embedding`` of their content.

    Args:
        model: A model with a head, or a `SparseEncoder`; or the folder or Hub id of the first.
        k: Latents per document; the head's default when None.
        batch_size: Texts per forward pass.
        meta_fields_to_embed: Entries of ``meta`` to put before the content.
        embedding_separator: Between them.

    Raises:
        ValueError: When the model is loaded, if it has no head or k is out of bounds.
    """

    def __init__(
        self,
        model: AnyModel | str | Path,
        k: int | None = None,
        batch_size: int = 32,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._model, self.k = _Model(model, k), k
        self.batch_size = batch_size
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Load the model."""
        self._model.loaded()

    def to_dict(self) -> dict[str, Any]:
        """The settings of the component.

        Raises:
            ValueError: If the model is neither a folder nor a Hub id.
        """
        return default_to_dict(
            self,
            model=self._model.name(),
            k=self.k,
            batch_size=self.batch_size,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CSRDocumentEmbedder:
        """The component of these settings."""
        found: CSRDocumentEmbedder = default_from_dict(cls, data)
        return found

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Documents with their sparse embeddings; those given stay as they are.

        Raises:
            TypeError: If they are no list of documents.
        """
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise TypeError("documents must be a list of Documents; CSRTextEmbedder takes a text")
        model, options = self._model.loaded(), {"k": self.k, "batch_size": self.batch_size}
        texts = [self._text(document) for document in documents]
        codes = encode(model, texts, role="document", **options)  # type: ignore[arg-type]
        return {
            "documents": [
                replace(document, sparse_embedding=embedding)
                for document, embedding in zip(documents, _embeddings(codes), strict=True)
            ]
        }

    def _text(self, document: Document) -> str:
        fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
        parts = [str(field) for field in fields if field is not None]
        return self.embedding_separator.join([*parts, document.content or ""])


@component
class CSRTextEmbedder:
    """Gives the sparse embedding of a query.

    Args:
        model: See `CSRDocumentEmbedder`.
        k: Latents per query; when None, the head's ``query_k``, else four times its k.

    Raises:
        ValueError: When the model is loaded, if it has no head or k is out of bounds.
    """

    def __init__(self, model: AnyModel | str | Path, k: int | None = None) -> None:
        self._model, self.k = _Model(model, k), k

    def warm_up(self) -> None:
        """Load the model."""
        self._model.loaded()

    def to_dict(self) -> dict[str, Any]:
        """The settings of the component.

        Raises:
            ValueError: If the model is neither a folder nor a Hub id.
        """
        return default_to_dict(self, model=self._model.name(), k=self.k)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CSRTextEmbedder:
        """The component of these settings."""
        found: CSRTextEmbedder = default_from_dict(cls, data)
        return found

    @component.output_types(sparse_embedding=SparseEmbedding)
    def run(self, text: str) -> dict[str, SparseEmbedding]:
        """The sparse embedding of a text.

        Raises:
            TypeError: If it is not text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; CSRDocumentEmbedder takes documents")
        model = self._model.loaded()
        codes = encode(
            model, [text], usual_query_k(model) if self.k is None else self.k, role="query"
        )
        return {"sparse_embedding": _embeddings(codes)[0]}


@component
class CSRRetriever:
    """Retrieves documents of a `CSRDocumentStore` by sparse embedding and, where wanted, words.

    Args:
        document_store: The store.
        filters: Filters of every run.
        top_k: Documents of a run.
        filter_policy: Whether filters of a run replace ``filters`` or are added to them.

    Raises:
        TypeError: If the store is another one.
    """

    def __init__(
        self,
        document_store: CSRDocumentStore,
        filters: Filters | None = None,
        top_k: int = 10,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, CSRDocumentStore):
            raise TypeError(
                f"document_store is a {type(document_store).__name__}; pass a CSRDocumentStore"
            )
        self.document_store, self.filters, self.top_k = document_store, filters, top_k
        self.filter_policy = (
            FilterPolicy.from_str(filter_policy)
            if isinstance(filter_policy, str)
            else filter_policy
        )

    def to_dict(self) -> dict[str, Any]:
        """The settings of the component, and of its store."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CSRRetriever:
        """The component of these settings."""
        given = data["init_parameters"]
        store = given["document_store"]
        if isinstance(store, dict):  # newer versions of Haystack have made it already
            store = CSRDocumentStore.from_dict(store)
        found: CSRRetriever = default_from_dict(
            cls, {**data, "init_parameters": {**given, "document_store": store}}
        )
        return found

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_sparse_embedding: SparseEmbedding,
        query: str | None = None,
        filters: Filters | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """Retrieve documents; arguments and errors are those of `CSRDocumentStore.search`."""
        filters = apply_filter_policy(self.filter_policy, self.filters, filters)
        top_k = self.top_k if top_k is None else top_k
        search = self.document_store.search
        return {"documents": search(query_sparse_embedding, query, filters, top_k)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_sparse_embedding: SparseEmbedding,
        query: str | None = None,
        filters: Filters | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """As `run`."""
        found: dict[str, list[Document]] = await asyncio.to_thread(
            self.run, query_sparse_embedding, query, filters, top_k
        )
        return found


def _embeddings(codes: SparseCodes) -> list[SparseEmbedding]:
    return [
        SparseEmbedding(indices=indices[values > 0].tolist(), values=values[values > 0].tolist())
        for indices, values in zip(codes.indices, codes.values, strict=True)
    ]
