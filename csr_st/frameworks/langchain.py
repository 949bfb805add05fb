"""A vector store of LangChain over a `csr_st.SparseIndex`.

::

    from csr_st.frameworks.langchain import CSRVectorStore

    store = CSRVectorStore.from_texts(texts, "org/my-csr", words=True)
    store.as_retriever(search_kwargs={"k": 5}).invoke("how do planes fly?")
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer, SparseEncoder
from typing_extensions import Self

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ModuleNotFoundError as error:
    raise ImportError('langchain_core is missing: pip install "csr-st[langchain]"') from error

from csr_st.frameworks.coding import EmbeddingsCoder, TextCoder, VectorCoder, check_width
from csr_st.frameworks.diversity import Diversity
from csr_st.frameworks.documents import Ask, IndexedDocuments, Selection, empty_index, for_which
from csr_st.frameworks.folder import (
    CODER_SETTINGS,
    MANIFEST,
    load_documents,
    restored,
    save_documents,
)
from csr_st.head import SparseCSRHead
from csr_st.sparse_encoders import AnyModel

_NAME = "langchain"
Filter = dict[str, Any] | Callable[[Document], bool]


class CSRVectorStore(VectorStore):
    """Documents of LangChain, searched exactly by their sparse codes and, where wanted, words.

    The index is in memory; `save` writes it and the documents to a folder. Several threads may use
    a store at once.

    Args:
        model: What embeds texts: a model with a head, its folder or Hub id, or a `SparseEncoder`;
            or any ``Embeddings`` of LangChain, whose vectors ``head`` encodes.
        head: For ``Embeddings``: a head that was trained on their vectors.
        k: Latents per document; the head's default when None.
        query_k: Latents per query, as in `csr_st.Searcher`.
        words: Search the words of texts too, in one score; needs ``csr-st[words]``.
        language: Language of the texts, for ``words``.
        weight: Weight of BM25 in a score; the default of `csr_st.SparseIndex.build` if None.
        rescore: Score this many of the best documents again through the decoder; 0 for none.
        batch_size: Texts per forward pass of the model.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of bounds, ``head`` is missing, or is given beside a model.
        ImportError: If numba, or what words need, is not installed.
    """

    def __init__(  # what a store is, once for all documents
        self,
        model: AnyModel | Embeddings | str | Path,
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
        self._begin(coder, IndexedDocuments(index))

    def _begin(
        self, coder: TextCoder | EmbeddingsCoder[Embeddings], documents: IndexedDocuments[Document]
    ) -> None:
        check_width(coder.hidden_dim, documents.index)
        coder.bind(documents.index)
        self._coder, self._documents = coder, documents

    @property
    def embeddings(self) -> Embeddings | None:
        """The ``Embeddings`` that the store was made with; None with a model."""
        coder = self._coder
        return coder.embeddings if isinstance(coder, EmbeddingsCoder) else None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Encode texts and add them; a text whose id is known replaces the one that was there.

        Args:
            texts: The texts.
            metadatas: Metadata of each text.
            ids: Ids of each text; one is made where it is None.
            batch_size: Texts per forward pass of the model, the store's if None.
            kwargs: None are known.

        Returns:
            The ids. Where one is given twice, the later text counts.

        Raises:
            TypeError: If there are other arguments, or an id or text is not a str.
            ValueError: If there is not one entry per text. Nothing is added then.
        """
        _refuse(kwargs)
        texts = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given is not None and len(given) != len(texts):
                raise ValueError(
                    f"there are {len(given)} {name} for {len(texts)} texts; pass one for each"
                )
        names = [str(uuid.uuid4()) if id is None else id for id in ids or [None] * len(texts)]
        documents = {
            id: Document(id=id, page_content=text, metadata=copy.deepcopy(dict(metadata)))
            for id, text, metadata in zip(names, texts, metadatas or [{}] * len(texts), strict=True)
        }
        if documents:
            contents = [document.page_content for document in documents.values()]
            codes = self._coder.documents(contents, batch_size)
            self._documents.put(documents, codes, contents)
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Remove the documents of some ids, or all if None; unknown ids are skipped."""
        _refuse(kwargs)
        if ids is None:
            self._documents.remove_where(None)
        else:
            self._documents.remove(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents of some ids, in their order; unknown ids are skipped."""
        return [_copy(document) for document in self._documents.get(ids)]

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The best documents of a query; see `similarity_search_with_score`."""
        found = self.similarity_search_with_score(query, k, filter, **kwargs)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Filter | None = None,
        *,
        weight: float | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The best documents of a query, with their scores.

        Args:
            query: A text.
            k: Documents to return (not latents); all where there are fewer.
            filter: Return only documents for which this function holds, or whose metadata have
                these values: ``{"year": 1954}``.
            weight: Weight of BM25 in a score, the store's if None, 0 for codes alone.
            kwargs: None are known.

        Returns:
            Documents and scores, best first. A score is the cosine of the codes (their dot product
            for a model that ranks by it; with ``rescore`` the cosine of the query's dense vector
            and the decoded document), plus the part of the words in a store that has them.

        Raises:
            TypeError: If there are other arguments, or one is of the wrong type.
            ValueError: If k is below 1, or a weight is given in a store without words.
        """
        _refuse(kwargs)
        return self._search(self._coder.query(query, weight), k, filter)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The best documents of a dense vector, by codes alone: one that the head takes.

        Raises:
            TypeError: If there are other arguments.
            ValueError: If it has another width, or the model has no text-level head.
        """
        _refuse(kwargs)
        found = self._search(self._coder.vectors().query(embedding), k, filter)
        return [document for document, _ in found]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        *,
        weight: float | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Good documents of a query that are unlike each other, by their codes.

        Args:
            query: A text.
            k: Documents to return (not latents).
            fetch_k: Choose among this many of the best.
            lambda_mult: What a score counts, within 0..1; likeness to a document that was chosen
                before counts the rest.
            filter: See `similarity_search_with_score`.
            weight: See `similarity_search_with_score`.
            kwargs: None are known.

        Returns:
            Documents in the order in which they were chosen.

        Raises:
            TypeError: As `similarity_search_with_score`.
            ValueError: As `similarity_search_with_score`, or if a number is out of bounds.
        """
        _refuse(kwargs)
        diversity = _diversity(fetch_k, lambda_mult)
        found = self._search(self._coder.query(query, weight), k, filter, diversity)
        return [document for document, _ in found]

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, of a dense vector, as `similarity_search_by_vector`.

        Raises:
            TypeError: As `similarity_search_by_vector`.
            ValueError: As `similarity_search_by_vector`, or if a number is out of bounds.
        """
        _refuse(kwargs)
        diversity = _diversity(fetch_k, lambda_mult)
        found = self._search(self._coder.vectors().query(embedding), k, filter, diversity)
        return [document for document, _ in found]

    def _search(
        self, ask: Ask, k: int, filter: Filter | None, diversity: Diversity | None = None
    ) -> list[tuple[Document, float]]:
        select = None if filter is None else _matching(filter)
        if diversity is None:
            found = self._documents.search(ask, k, select)
        else:
            found = self._documents.search_diverse(ask, k, diversity, select)
        return [(_copy(document), score) for _, document, score in found]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        index = self._documents.index
        if index.language is not None or index.similarity == "dot":
            raise ValueError(
                "scores with words, and dot products, may be above 1 and are no relevance; use "
                "similarity_search_with_score, or a store without words"
            )
        return lambda score: min(max(score, 0.0), 1.0)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: AnyModel | Embeddings | str | Path,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store of texts; ``embedding`` is its model, and ``kwargs`` are its arguments."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def save(self, folder: str | Path) -> None:
        """Write documents and index to a folder, completely or not at all; without the model.

        Raises:
            TypeError: If metadata have something that JSON cannot express.
            ValueError: If JSON would change it.
        """
        index, documents = self._documents.state()
        rows = (
            (id, {"text": document.page_content, "metadata": document.metadata})
            for id, document in documents.items()
        )
        save_documents(Path(folder) / MANIFEST, _NAME, index, rows, self._coder.settings)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        model: AnyModel | Embeddings | str | Path,
        *,
        head: SparseCSRHead | None = None,
        batch_size: int = 32,
    ) -> Self:
        """Open a folder that `save` wrote, with the model that its documents were encoded with.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged or of a newer format, or the model of another width.
        """
        path = Path(folder) / MANIFEST
        saved = load_documents(path, _NAME, CODER_SETTINGS)

        def make(id: str, row: Any) -> Document:
            return Document(id=id, page_content=row["text"], metadata=row["metadata"])

        documents = IndexedDocuments(saved.index, restored(path, saved.documents, make))
        store = cls.__new__(cls)
        settings = {**saved.settings, "batch_size": batch_size}
        store._begin(_coder_of(model, head, saved.index.k, **settings), documents)
        return store


def _coder_of(
    model: Any, head: SparseCSRHead | None, k: int | None, *, batch_size: int, **options: Any
) -> TextCoder | EmbeddingsCoder[Embeddings]:
    if isinstance(model, Embeddings):
        if head is None:
            raise ValueError(
                "Embeddings give dense vectors; pass head=, trained on vectors of theirs: "
                "csr_st.train(vectors).head"
            )
        return EmbeddingsCoder(model, VectorCoder(head, k, **options))
    if not isinstance(model, SentenceTransformer | SparseEncoder | str | Path):
        raise TypeError(
            f"model is a {type(model).__name__}; pass a model with a head, its folder or Hub id, "
            "or Embeddings of LangChain with head="
        )
    if head is not None:
        raise ValueError("head= goes with Embeddings; this model has its own, so leave it out")
    return TextCoder(model, k, batch_size=batch_size, **options)


def _diversity(fetch_k: int, lambda_mult: float) -> Diversity:
    return Diversity.checked(fetch_k, lambda_mult, ("fetch_k", "lambda_mult"))


def _copy(document: Document) -> Document:
    """Another document, so that a change of what was found leaves the store as it is."""
    return document.model_copy(update={"metadata": copy.deepcopy(document.metadata)})


def _matching(filter: Filter) -> Selection[Document]:
    if callable(filter):
        return for_which(filter)
    if not isinstance(filter, dict):
        raise TypeError(f"filter={filter!r} must be a dict of metadata, or a function")
    missing = object()
    wanted = filter.items()
    return for_which(
        lambda document: all(document.metadata.get(key, missing) == value for key, value in wanted)
    )


def _refuse(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise TypeError(f"{', '.join(sorted(kwargs))}: not known to CSRVectorStore; leave it out")
