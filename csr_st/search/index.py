"""SparseIndex: exact search over sparse codes and words, in one process and one file.

Where the parts are: `documents` (stored codes), `words` (stored words), `collection` (documents
with ids, removal and filters), `live` (the current collection and its caches), `postings` and
`word_postings` (inverted indexes), `bm25` (weights of words), `searching` (one search),
`rescoring` (scores through the decoder), `storage` (the file).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.hub_data.index import load_index
from csr_st.hub_data.published_index import PublishedIndex
from csr_st.packed_codes import PackedCodes
from csr_st.search.collection import Collection
from csr_st.search.documents import Documents, Similarity, check_similarity
from csr_st.search.ids import Ids, as_new_ids
from csr_st.search.live import LiveCollection
from csr_st.search.parts import Parts
from csr_st.search.rescoring import check_decoder
from csr_st.search.searchable import Searchable
from csr_st.search.storage import read_index, write_index
from csr_st.search.tokenizing import Language, as_texts, check_language, tokenized
from csr_st.search.words import WEIGHT, Words, check_weight


class SparseIndex(Searchable, PublishedIndex):
    """An exact index of sparse codes, of the words of texts, or of both.

    A score is the cosine of the two codes (their dot product with ``similarity="dot"``). With words
    it is a hybrid score: ``weight`` times BM25, divided by the square root of the number of the
    query's words, is added (`csr_st.search.bm25`). A search returns the documents with the highest
    scores exactly, unless ``approximate`` is passed. Build with `build`, open with `load`::

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
            language: Language of the texts, which selects stemmer and stop words; saved with the
                index. Or a function from a text to its list of words: pass it to `load` again.
            weight: Default weight of BM25 in a score, at least 0; saved with the index.
            similarity: How codes are compared, saved with the index: "cosine", or "dot", the dot
                product of the unscaled values, by which SPLADE and most `SparseEncoder` models rank
                (``model.similarity_fn_name``). Such dot products reach 10 to 30 where a cosine is
                at most 1, so BM25 needs a larger ``weight`` beside them.

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
            raise ValueError(
                f"similarity={similarity!r} applies to codes; pass codes, or leave it out"
            )
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

    @property
    def decoder(self) -> Decoder | None:
        """The decoder stored with the index."""
        return self._decoder

    def _parts(self) -> Parts:
        return Parts([self._live])

    def __repr__(self) -> str:
        packed = "" if self.value_bits is None else f", value_bits={self.value_bits}"
        codes = f", k={self.k}, hidden_dim={self.hidden_dim}{packed}" if self.hidden_dim else ""
        words = "" if self.language is None else f", words={self.language!r}"
        compared = ", similarity='dot'" if self.similarity == "dot" else ""
        return f"SparseIndex(n={len(self)}{codes}{compared}{words})"

    def add(
        self,
        codes: SparseCodes | PackedCodes | None = None,
        ids: Ids | None = None,
        *,
        words: Sequence[str] | None = None,
        replace: bool = False,
    ) -> None:
        """Add documents at the end.

        They are kept as the index keeps its own: packed to its ``value_bits``, or unpacked. All
        scores are those of an index built from all documents.

        Args:
            codes: Codes with the index's hidden_dim and k; None if the index has only words.
            ids: One new id per document; if None, integers above every id that was ever used.
            words: The text of each document, if the index has words.
            replace: Remove documents that have one of the ids, in the same step.

        Raises:
            TypeError: If ids are of another type than the index's.
            ValueError: If hidden_dim or k differ, values are NaN, ids repeat, or codes or words are
                missing. Nothing is added or removed then.
        """
        self._addition(codes, ids, words, replace)()

    def _addition(
        self,
        codes: SparseCodes | PackedCodes | None,
        ids: Ids | None,
        words: Sequence[str] | None,
        replace: bool,
    ) -> Callable[[], None]:
        """What adds documents; texts are split, and codes stored, before it is called."""
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

        def add() -> None:
            self._live.change(lambda collection: collection.added(more, ids, tokens, replace))

        return add

    def remove(self, ids: Ids) -> None:
        """Remove documents: all of them or, if an id is unknown, none.

        Their memory is freed once more than half of the documents were removed.

        Raises:
            TypeError: If ids are a str, or of another type than the index's.
            ValueError: If an id is not in the index.
        """
        self._live.change(lambda collection: collection.removed(ids))

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

    @classmethod
    def load_from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        language: Language | None = None,
    ) -> SparseIndex:
        """Open an index that `push_to_hub` published, memory-mapped in the Hub's cache.

        The file is compared with both its checksums; nothing of the repository is run.

        Args:
            repo_id: Data set such as "org/my-index".
            revision: Branch, tag or commit; the main branch when None.
            token: Hub token; the one that ``hf auth login`` saved when None.
            language: See `load`.

        Raises:
            ValueError: If the repository has no index, or it is altered, damaged or of a newer
                version; as `load` raises it; or the name or the token cannot be right.
            ConnectionError: If the Hub cannot be reached or refuses; the message says which.
            ImportError: If numba is not installed.
        """
        file = load_index(repo_id, revision=revision, token=token)
        return cls.load(file, language=language)
