"""SparseIndex: exact search over sparse codes and words, in one process and one file.

`live` has the collection as it changes; `collection` documents with ids, removal and filters;
`documents` the stored codes and `words` the stored words; `postings` and `word_postings` their
inverted indexes; `bm25` what words are worth; `searching` one search; `rescoring` the scores
through the decoder; `storage` the file.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.threads import resolve_threads
from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.packed_codes import PackedCodes
from csr_st.search.collection import Collection
from csr_st.search.documents import Documents, Similarity, check_similarity
from csr_st.search.ids import Ids, as_new_ids
from csr_st.search.live import LiveCollection
from csr_st.search.numbers import whole
from csr_st.search.requests import (
    boosted_queries,
    checked_queries,
    checked_recall,
    checked_sizes,
    word_queries,
)
from csr_st.search.rescoring import Metric, check_decoder, check_metric, checked_dense
from csr_st.search.results import SearchResults
from csr_st.search.searching import Rescoring, Search
from csr_st.search.storage import read_index, write_index
from csr_st.search.tokenizing import Language, as_texts, check_language, tokenized
from csr_st.search.words import WEIGHT, Words, check_weight

_MAX_THREADS = 256


class SparseIndex:
    """An exact index of sparse codes, of the words of texts, or of both.

    The score of a query and a document is the dot product of their codes at unit norm (as they are
    with ``similarity="dot"``), over all latents they share; with words it is that plus ``weight``
    times the BM25 score divided by the square root of the number of the query's words
    (`csr_st.search.bm25`). A search finds the documents that are best by the sum; nothing is
    approximated. Build with `build`, open with `load`::

        index = SparseIndex.build(codes, words=texts)
        index.search(query_codes, top_k=10, words=queries)

    Several threads may search at once. `add` and `remove` may run at the same time: a search sees
    the documents from before or after, never a part of a change.
    """

    def __init__(
        self,
        documents: Documents,
        ids: NDArray[Any],
        decoder: Decoder | None,
        words: Words | None = None,
    ) -> None:
        if decoder is not None:
            check_decoder(decoder, documents)
        collection = Collection.of(documents, ids, words)
        self.__setstate__({"collection": collection, "decoder": decoder})

    @classmethod
    def build(
        cls,
        codes: SparseCodes | PackedCodes | None = None,
        ids: Ids | None = None,
        decoder: Decoder | None = None,
        *,
        words: Sequence[str] | None = None,
        language: Language = "english",
        weight: float = WEIGHT,
        similarity: Similarity = "cosine",
    ) -> SparseIndex:
        """Index codes, or the words of texts, or both.

        The index of packed codes has exactly the values of ``codes.unpack()``, and its file is as
        small as they are; memory and speed are those of other codes.

        Args:
            codes: Documents, k latents each.
            ids: One integer or string per document; 0..n-1 if None.
            decoder: The head's decoder, to rescore with (see `search`); saved with the index.
            words: The text of each document, '' where there is none; needs ``csr-st[words]``.
            language: Of the texts, for stems and stop words; saved with the index. Or a function
                from a text to the list of its words, which has to be given to `load` again.
            weight: Of the words' part in a score, if a search gives no other; saved with the index.
            similarity: What codes are compared by, saved with the index: "cosine", or "dot", the
                product of the values as they are, by which SPLADE and most models of the class
                `SparseEncoder` rank (``model.similarity_fn_name``). Their dot products may be 10 to
                30, not at most 1, so that words beside them need a larger weight.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If values are NaN, ids repeat, sizes do not fit each other, the language or
                similarity is unknown, or codes of unit norm are given for the dot product.
            ImportError: If numba, or what words need, is not installed.
        """
        if codes is None and words is None:
            raise ValueError("there is nothing to index; pass codes, words=texts, or both")
        similarity = check_similarity(similarity)
        if codes is None and similarity != "cosine":
            raise ValueError(f"similarity={similarity!r} is of codes; pass them, or leave it out")
        found = None
        if words is not None:
            texts = as_texts(words, None if codes is None else len(codes), "documents")
            check_language(language)
            found = Words.of(texts, language, check_weight(weight))
        if codes is None:
            documents = Documents.without_codes(len(texts))
        else:
            value_bits = codes.value_bits if isinstance(codes, PackedCodes) else None
            documents = Documents.from_codes(codes, value_bits, similarity)
        return cls(documents, as_new_ids(ids, len(documents)), decoder, found)

    def __getstate__(self) -> dict[str, Any]:
        """The content, also of a mapped file; what a search derives from it is derived again."""
        return {"collection": self._collection, "decoder": self._decoder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._live = LiveCollection(state["collection"])
        self._decoder: Decoder | None = state["decoder"]

    @property
    def _collection(self) -> Collection:
        return self._live.collection

    @property
    def _lock(self) -> threading.RLock:
        return self._live.lock

    def __len__(self) -> int:
        return self._collection.n_present

    def __repr__(self) -> str:
        packed = "" if self.value_bits is None else f", value_bits={self.value_bits}"
        codes = f", k={self.k}, hidden_dim={self.hidden_dim}{packed}" if self.hidden_dim else ""
        words = "" if self.language is None else f", words={self.language!r}"
        compared = ", similarity='dot'" if self.similarity == "dot" else ""
        return f"SparseIndex(n={len(self)}{codes}{compared}{words})"

    @property
    def k(self) -> int:
        """Latents stored for each document; 0 if the index has only words."""
        return self._collection.documents.k

    @property
    def hidden_dim(self) -> int:
        """Number of latents of the head; 0 if the index has only words."""
        return self._collection.documents.hidden_dim

    @property
    def value_bits(self) -> int | None:
        """Bits of a value in a file, if the index was built from packed codes, else None."""
        return self._collection.documents.value_bits

    @property
    def similarity(self) -> Similarity:
        """What codes are compared by: "cosine" or "dot"."""
        return self._collection.documents.similarity

    @property
    def language(self) -> str | None:
        """The language of the words, "function" if a function splits texts, None without words."""
        words = self._collection.words
        if words is None:
            return None
        return words.language if isinstance(words.language, str) else "function"

    @property
    def weight(self) -> float | None:
        """Weight of the words' part in a score, None without words."""
        words = self._collection.words
        return None if words is None else words.weight

    @property
    def decoder(self) -> Decoder | None:
        """The decoder stored with the index."""
        return self._decoder

    @property
    def ids(self) -> NDArray[Any]:
        """External ids of the documents, in order of position."""
        collection = self._collection
        ids: NDArray[Any] = collection.ids[collection.present]
        return ids

    def add(
        self,
        codes: SparseCodes | PackedCodes | None = None,
        ids: Ids | None = None,
        *,
        words: Sequence[str] | None = None,
    ) -> None:
        """Add documents at the end.

        They are kept as the index keeps its own: packed to its ``value_bits``, or unpacked. All
        scores are those of an index built from all documents.

        Args:
            codes: Codes with the index's hidden_dim and k; None if the index has only words.
            ids: One new id per document; if None, integers above every id that was ever used.
            words: The text of each document, if the index has words.

        Raises:
            TypeError: If ids are of another type than the index's.
            ValueError: If hidden_dim or k differ, values are NaN, ids repeat, or codes or words are
                missing.
        """
        texts, tokens = [], None
        if words is not None:
            texts = as_texts(words, None if codes is None else len(codes), "documents")
        if codes is None and self.hidden_dim:
            raise ValueError("this index has codes; pass those of the documents to add")
        if codes is not None and not self.hidden_dim:
            raise ValueError("this index has only words; pass words= and no codes")
        if codes is None:
            more = Documents.without_codes(len(texts))
        else:
            more = Documents.from_codes(codes, self.value_bits, self.similarity)
        of_index = self._collection.words
        if words is not None:
            # Without words in the index, a refusal follows.
            tokens = [] if of_index is None else list(tokenized(texts, of_index.known_language()))
        self._live.change(lambda collection: collection.added(more, ids, tokens))

    def remove(self, ids: Ids) -> None:
        """Remove documents: all of them or, if an id is unknown, none.

        Their memory is freed once more than half of the documents were removed.

        Raises:
            TypeError: If ids are a str, or of another type than the index's.
            ValueError: If an id is not in the index.
        """
        self._live.change(lambda collection: collection.removed(ids))

    def search(  # one request with its options
        self,
        query_codes: SparseCodes | None = None,
        top_k: int = 10,
        k: int | None = None,
        filter: Ids | NDArray[np.bool_] | None = None,
        rescore: int | None = None,
        queries_dense: NDArray[np.floating[Any]] | None = None,
        metric: Metric = "cosine",
        decoder: Decoder | None = None,
        threads: int | None = None,
        *,
        words: Sequence[str] | None = None,
        weight: float | None = None,
        boost: Mapping[int, float] | None = None,
        approximate: float | None = None,
    ) -> SearchResults:
        """The best documents of each query.

        Documents that share no latent and no word with the query have score 0 and follow the
        others, lower positions first.

        Args:
            query_codes: Queries of the index's hidden_dim, at any k; None to search by words alone.
            top_k: Documents per query, at most ``len(self)``.
            k: Latents per document to use: the first k, as if the index had been built from
                ``codes.prefix(k)``: scaled to unit norm again, but for the dot product. All of them
                if None.
            filter: Search only these: an array of ids, or a bool array along ``self.ids``.
            rescore: Score this many of the best documents (at least top_k) again through the
                decoder; needs ``queries_dense``. If fewer share a latent or a word with the query,
                which can happen at a small k, all documents are rescored. The words' part of a
                score stays as it is. See `csr_st.search.rescoring` for when it helps.
            queries_dense: (n_queries, input_dim) dense vectors of the queries.
            metric: Rescoring by the cosine of query and decoded document, or by their dot product.
            decoder: Used in place of the one stored with the index.
            threads: Threads to use; all available CPUs if None.
            words: The text of each query, '' where there is none; None to search by codes alone.
            weight: Of the words' part in a score; the index's if None.
            boost: Factors by which latents of the queries are raised, lowered or, with 0, removed:
                the search is that of ``query_codes.boost(boost)``. It does not go with ``rescore``,
                which ranks by dense vectors.
            approximate: The recall that is enough, such as 0.95: a faster search of 700,000
                documents or more, which may miss some of the best. How far it goes is measured once
                for an index and k (see `measured_recall`). Smaller collections, words and dot
                products are searched exactly whatever is asked. Exact if None.

        Returns:
            Ids and scores, (n_queries, top_k), padded where a filter leaves fewer documents.

        Raises:
            TypeError: If the queries are not SparseCodes, texts not str, or the filter has the
                wrong type.
            ValueError: If a size, a value or a combination is not possible.
        """
        collection = self._collection
        documents, n_present = collection.documents, collection.n_present
        threads = resolve_threads(
            None if threads is None else min(whole("threads", threads), _MAX_THREADS)
        )
        if boost is not None:
            query_codes = boosted_queries(query_codes, boost, rescore)
        queries, texts = checked_queries(query_codes, words, collection)
        top_k, k = checked_sizes(documents, n_present, top_k, k)
        asked = word_queries(texts, collection, weight)
        check_metric(metric)
        if approximate is not None:
            approximate = checked_recall(approximate)
        allowed = collection.present if filter is None else collection.allowed(filter)
        depth, rescoring = top_k, None
        if rescore is not None:
            decoder = decoder or self._decoder
            rescore = whole("rescore", rescore)
            dense = checked_dense(rescore, top_k, queries_dense, len(queries), decoder)
            assert decoder is not None
            depth = min(rescore, n_present)
            rescoring = Rescoring(dense, metric, decoder, decoder is self._decoder)
        elif queries_dense is not None:
            raise ValueError("queries_dense is only used by rescoring; pass rescore=200 with it")
        filtered = filter is not None or n_present < len(documents)
        asking = Search(collection, queries, asked, k, allowed, filtered)
        return asking.run(self._live, top_k, depth, rescoring, approximate, threads)

    def measured_recall(self, approximate: float, k: int | None = None) -> float:
        """What share of the 10 nearest a search with ``approximate`` found when it was measured.

        Once for an index and k, with 300 queries, each halfway between two documents taken at
        random. Other queries may have another recall.

        Args:
            approximate: As of `search`.
            k: As of `search`.

        Returns:
            The recall, 1.0 where the search is exact.

        Raises:
            ValueError: If it is not above 0 and at most 1, or k is not possible.
        """
        collection, asked = self._collection, checked_recall(approximate)
        _, k = checked_sizes(collection.documents, collection.n_present, 1, k)
        threads = resolve_threads(None)
        large = self._live.large_postings(k, collection.documents, threads)
        return 1.0 if large is None else large.recall(asked, threads)

    def save(self, path: str | Path) -> None:
        """Write one file, completely or not at all; removed documents are left out."""
        write_index(Path(path), self._collection.compacted(), self._decoder)

    @classmethod
    def load(
        cls, path: str | Path, verify: bool = True, *, language: Language | None = None
    ) -> SparseIndex:
        """Open a file that `save` wrote, memory-mapped.

        Args:
            path: The file.
            verify: Compare the checksum, which reads the file once.
            language: The function that split the texts, if one did: a file cannot contain it, and
                only without words can such an index be searched without it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is of another type or a newer version, truncated or altered, or
                has another language.
            ImportError: If numba is not installed.
        """
        documents, ids, decoder, words = read_index(Path(path), verify)
        if words is not None:
            words = words.spoken(language)
        elif language is not None:
            raise ValueError(
                f"language={language!r} is given, but the index in {path} has no words"
            )
        return cls(documents, ids, decoder, words)
