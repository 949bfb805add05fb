"""Codes of documents and queries, made of texts by a model or of dense vectors by a head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from sentence_transformers import SentenceTransformer

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.encoding import encode, encode_vectors
from csr_st.frameworks.documents import Ask
from csr_st.head import SparseCSRHead, find_head
from csr_st.model.settings import integer
from csr_st.search import SparseIndex
from csr_st.search.documents import Similarity
from csr_st.search.words import check_weight
from csr_st.searcher import Searcher
from csr_st.sparse_encoders import AnyModel, coder_of, ready, similarity_of


def checked_weight(index: SparseIndex, weight: float | None) -> float | None:
    """The weight of the words of a search: that of the index if None.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative, or the index has no words.
    """
    if weight is None:
        return None
    if index.language is None:
        raise ValueError(f"weight={weight} applies to words; pass words=True to the store")
    return check_weight(weight)


def check_width(hidden_dim: int, index: SparseIndex) -> None:
    """Refuse a model whose codes have another width than those of an index."""
    if hidden_dim != index.hidden_dim:
        raise ValueError(
            f"the model has hidden_dim={hidden_dim}, the store {index.hidden_dim}; open it with "
            "the model that its documents were encoded with"
        )


def usual_query_k(model: AnyModel, k: int | None = None) -> int | None:
    """Latents per query, as `csr_st.Searcher` has them, for documents of k latents.

    Args:
        model: A model with a head, or a `SparseEncoder`.
        k: Latents per document; the head's default when None.
    """
    coder = coder_of(ready(model, 1).model)
    if not isinstance(coder, SparseCSRHead):
        return None
    return coder.query_k or min(4 * (k or coder.k), coder.hidden_dim)


class TextCoder:
    """Codes of texts by a model.

    Args:
        model: A model with a head, or a `SparseEncoder`; or the folder or Hub id of the first.
        k: Latents per document; the head's default when None.
        query_k: Latents per query, as in `csr_st.Searcher`.
        rescore: See `csr_st.Searcher`.
        batch_size: Texts per forward pass.

    Attributes:
        hidden_dim: Number of latents.
        k: Latents per document.
        similarity: What the model's codes are compared by.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If the model has no head, a number is out of bounds, or a model without a head
            has no k of its own.
    """

    def __init__(
        self,
        model: AnyModel | str | Path,
        k: int | None = None,
        *,
        query_k: int | None = None,
        rescore: int = 0,
        batch_size: int = 32,
    ) -> None:
        if isinstance(model, str | Path):
            model = SentenceTransformer(str(model))
        found = ready(model, k, "document")
        if found.all_active:
            raise ValueError(
                "the model has no k of its own, and each document of a store has equally many "
                "latents; pass k=, such as 128"
            )
        self.model: AnyModel = model
        self.hidden_dim, self.k = found.coder.hidden_dim, found.k
        self.similarity: Similarity = similarity_of(model)
        self.query_k, self.rescore = query_k, integer("rescore", rescore, 0, 2**31 - 1)
        self.batch_size = integer("batch_size", batch_size, 1, 2**31 - 1)
        self._searcher: Searcher | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a store keeps of it, beside k."""
        return {"query_k": self.query_k, "rescore": self.rescore}

    def documents(self, texts: Sequence[str], batch_size: int | None = None) -> SparseCodes:
        """Codes of documents: (n, k)."""
        options = {"role": "document", "batch_size": batch_size or self.batch_size}
        return encode(self.model, list(texts), self.k, **options)  # type: ignore[arg-type]

    def query(self, text: str, weight: float | None = None) -> Ask:
        """A query, which is encoded when it is asked."""

        def ask(
            index: SparseIndex, top_k: int, allowed: list[str] | None
        ) -> list[tuple[str, float]]:
            searcher = self.bind(index)
            if weight is not None:
                searcher = copy.copy(searcher)
                searcher.weight = checked_weight(index, weight)
            hits = searcher(text, top_k, filter=allowed)
            return [(hit.id, float(hit.score)) for hit in hits]

        return ask

    def bind(self, index: SparseIndex) -> Searcher:
        """What searches an index by text; made once, as it may copy a table of static queries.

        Raises:
            ValueError: If the index has codes of another width, or a size is out of bounds.
        """
        if self._searcher is None or self._searcher.index is not index:
            self._searcher = Searcher(self.model, index, **self.settings)
        return self._searcher

    def vectors(self) -> VectorCoder:
        """What makes codes of dense vectors by the model's head.

        Raises:
            ValueError: If the model has no head, or one of tokens.
        """
        head = find_head(self.model)
        head.refuse_reconstruction(vectors=True)
        return VectorCoder(head, self.k, query_k=self.query_k, rescore=self.rescore)


class VectorCoder:
    """Codes of dense vectors by a head: of any embedding model that the head was trained for.

    Args:
        head: A text-level head.
        k: Latents per document; the head's default when None.
        query_k: Latents per query; when None, the head's ``query_k``, else 4k.
        rescore: Score this many of the best documents again through the decoder; 0 for none.

    Attributes:
        hidden_dim: Number of latents.
        k: Latents per document.
        similarity: "cosine".

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If one is out of bounds, or the head is of tokens.
    """

    similarity: Similarity = "cosine"

    def __init__(
        self,
        head: SparseCSRHead,
        k: int | None = None,
        *,
        query_k: int | None = None,
        rescore: int = 0,
    ) -> None:
        head.refuse_reconstruction(encode_vectors=True)
        self.head, self.hidden_dim = head, head.hidden_dim
        self.k = head.resolve_k(k, task="document")
        usual = head.query_k or min(4 * self.k, head.hidden_dim)
        self.query_k = usual if query_k is None else head.check_k(query_k, "query_k")
        self.rescore = integer("rescore", rescore, 0, 2**31 - 1)
        self._decoder = Decoder.from_head(head) if self.rescore else None

    @property
    def settings(self) -> dict[str, Any]:
        """What a store keeps of it, beside k."""
        return {"query_k": self.query_k, "rescore": self.rescore}

    def documents(self, vectors: Any) -> SparseCodes:
        """Codes of documents, (n, k), of (n, input_dim) vectors."""
        return encode_vectors(self.head, vectors, self.k)

    def query(self, vector: Any, text: str | None = None, weight: float | None = None) -> Ask:
        """A query.

        Args:
            vector: (input_dim,) dense vector.
            text: For an index that has words; None to search by codes alone.
            weight: Weight of the words; the index's if None.
        """
        dense = np.asarray(vector, np.float32)[None]
        codes = encode_vectors(self.head, dense, self.query_k)

        def ask(
            index: SparseIndex, top_k: int, allowed: list[str] | None
        ) -> list[tuple[str, float]]:
            rescoring: dict[str, Any] = {}
            if self._decoder is not None:
                rescoring = {"queries_dense": dense, "decoder": self._decoder}
                rescoring["rescore"] = max(self.rescore, top_k)
            words = None if text is None or index.language is None else [text]
            asked = {"words": words, "weight": checked_weight(index, weight), **rescoring}
            return found_by_one(index, top_k, allowed, query_codes=codes, **asked)

        return ask


class Embeddings(Protocol):
    """What gives dense vectors of texts, as LangChain names its calls."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Those of documents."""

    def embed_query(self, text: str) -> list[float]:
        """That of a query."""


EmbeddingsT = TypeVar("EmbeddingsT", bound=Embeddings)


class EmbeddingsCoder(Generic[EmbeddingsT]):
    """Codes of texts by dense vectors and a head: what `TextCoder` is for a model.

    Args:
        embeddings: What gives the vectors.
        vectors: What makes codes of them.
    """

    def __init__(self, embeddings: EmbeddingsT, vectors: VectorCoder) -> None:
        self.embeddings, self._vectors = embeddings, vectors
        self.hidden_dim, self.k = vectors.hidden_dim, vectors.k
        self.similarity, self.settings = vectors.similarity, vectors.settings

    def documents(self, texts: list[str], batch_size: int | None = None) -> SparseCodes:
        """Codes of documents: (n, k). The embeddings have a batch size of their own."""
        del batch_size
        return self._vectors.documents(self.embeddings.embed_documents(texts))

    def query(self, text: str, weight: float | None = None) -> Ask:
        """A query, encoded now."""
        return self._vectors.query(self.embeddings.embed_query(text), text, weight)

    def vectors(self) -> VectorCoder:
        """What makes codes of dense vectors."""
        return self._vectors

    def bind(self, index: SparseIndex) -> None:
        """Nothing to prepare."""


def by_words(text: str) -> Ask:
    """A query of words alone, for an index that has words."""

    def ask(index: SparseIndex, top_k: int, allowed: list[str] | None) -> list[tuple[str, float]]:
        if index.language is None:
            raise ValueError("this store has no words to search; make it with words=True")
        return found_by_one(index, top_k, allowed, words=[text])

    return ask


def found_by_one(
    index: SparseIndex, top_k: int, allowed: list[str] | None, **query: Any
) -> list[tuple[str, float]]:
    """Ids and scores that one query finds, which is given as `csr_st.SparseIndex.search` takes it.

    In one thread, as several such searches may run side by side.
    """
    found = index.search(top_k=top_k, filter=allowed, threads=1, **query)
    return found_of(found.ids[0], found.scores[0])


def found_of(ids: Any, scores: Any) -> list[tuple[Any, float]]:
    """Ids and scores of one row of a search, without padding."""
    return [
        (id, score)
        for id, score in zip(ids.tolist(), scores.tolist(), strict=True)
        if score > -np.inf
    ]
