"""Codes and words as one sparse vector, for databases that search sparse vectors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st._io.files import refuse_newer_format
from csr_st._io.tensor_files import digest, open_tensors, write_tensors
from csr_st.codes import SparseCodes
from csr_st.search.bm25 import Statistics, count_matrix, impact_matrix
from csr_st.search.documents import Documents, Similarity, check_similarity, checked_codes
from csr_st.search.index import SparseIndex
from csr_st.search.numbers import whole
from csr_st.search.stored_words import words_from_arrays, words_to_arrays
from csr_st.search.tokenizing import Language, as_texts, check_language
from csr_st.search.words import ARRAYS, WEIGHT, Words, check_weight

FORMAT = "csr_st.hybrid_vectors"
FORMAT_VERSION = 2  # of codes that are compared by dot product
PLAIN_VERSION = 1  # of others, which earlier versions read
MAX_BUCKETS = 2**24


@dataclass(frozen=True, eq=False)
class HybridVectors:
    """Makes one sparse vector of a document's code and words, and one of a query's.

    The dot product of the two is the score of `SparseIndex` to the rounding of float32, see
    `csr_st.search.bm25`:

        document: its code at unit norm, then t / (t + d) for each of its words
        query:    its code at unit norm, then weight · |q|^(-1/2) · repeats · idf for each word

    For codes that are compared by dot product (``similarity="dot"``) their values are not scaled.

    Latents have the dimensions below ``hidden_dim``; word i has dimension ``hidden_dim`` + i. The
    engines of `csr_st.search.engines` take these vectors as they take codes::

        vectors = HybridVectors.of(index)  # or HybridVectors.build(texts, codes.hidden_dim)
        vectors.save("vectors.safetensors")  # queries need it as long as the documents are stored
        with QdrantEngine("folder", vectors.dim) as engine:
            engine.add(vectors.documents(codes, texts))
            engine.search(vectors.queries(query_codes, queries), top_k=10)

    They are SciPy matrices of float32, one row each, for other clients too: pymilvus takes the
    matrix; Qdrant ``SparseVector(indices=row.indices, values=row.data)`` and pgvector
    ``SparseVector(row)`` take a row, ``matrix[i]``. Search by dot product (IP, Dot, ``<#>``).

    What depends on all documents (mean length, idf, the numbers of the words) is of the documents
    that this was made of, and stays: a database cannot change what it has stored. Documents that
    are added later are scored by it too; those words of theirs that no earlier document has are
    left out, and so are those of queries. Once there are many, make it anew from all documents, and
    write all of them to a new collection. Vectors of two `HybridVectors` never belong together.

    With ``buckets``, the number of a word is a hash, ``crc32(word) % buckets``: no vocabulary is
    kept, and new words of later documents are found. Words of one bucket count as one word, which
    changes scores a little; with 2**20 buckets and 100,000 words, about one word in ten shares its
    bucket.

    Attributes:
        hidden_dim: Number of latents, 0 for words alone.
        statistics: Statistics of the documents; ``frequencies`` by the number of a word.
        words: Vocabulary (empty with ``buckets``), language and weight, of no document.
        buckets: Into how many numbers words are hashed, or None.
        similarity: What codes are compared by, as in `SparseIndex.build`.
    """

    hidden_dim: int
    statistics: Statistics
    words: Words
    buckets: int | None = None
    similarity: Similarity = "cosine"

    @classmethod
    def of(cls, index: SparseIndex, buckets: int | None = None) -> HybridVectors:
        """The vectors of an index that has words: of its documents, language and weight.

        Args:
            index: The index.
            buckets: Hash words into this many dimensions; if None, each has its own.

        Raises:
            TypeError: If ``buckets`` is not an integer.
            ValueError: If the index has no words, or ``buckets`` is not within 1..2**24.
        """
        documents, words = _stored(index)
        return cls._of(words, documents.hidden_dim, buckets, documents.similarity)

    @classmethod
    def build(
        cls,
        words: Sequence[str],
        hidden_dim: int = 0,
        *,
        language: Language = "english",
        weight: float = WEIGHT,
        buckets: int | None = None,
        similarity: Similarity = "cosine",
    ) -> HybridVectors:
        """The vectors of documents by their texts, without an index.

        Args:
            words: The text of each document, as in `SparseIndex.build`.
            hidden_dim: Number of latents of their codes; 0 for words alone.
            language: See `SparseIndex.build`.
            weight: See `SparseIndex.build`.
            buckets: See `of`.
            similarity: See `SparseIndex.build`.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If the language or similarity is unknown, or a number is not possible.
            ImportError: If what words need is not installed.
        """
        texts = as_texts(words, None, "documents")
        check_language(language)
        hidden_dim = whole("hidden_dim", hidden_dim) if hidden_dim != 0 else 0
        found = Words.of(texts, language, check_weight(weight))
        return cls._of(found, hidden_dim, buckets, check_similarity(similarity))

    @classmethod
    def _of(
        cls, words: Words, hidden_dim: int, buckets: int | None, similarity: Similarity
    ) -> HybridVectors:
        statistics = Statistics.of(words)
        vocabulary = words.vocabulary
        if buckets is not None:
            buckets = whole("buckets", buckets, MAX_BUCKETS, "what is possible")
            having = count_matrix(words, _hashed(vocabulary, buckets), buckets).indices
            frequencies = np.bincount(having, minlength=buckets)
            statistics = Statistics(statistics.n, statistics.tokens, frequencies)
            vocabulary = {}
        empty = _without_documents(words, vocabulary)
        return cls(hidden_dim, statistics, empty, buckets, similarity)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors."""
        return self.hidden_dim + len(self.statistics.frequencies)

    def __repr__(self) -> str:
        kind = "words" if self.buckets is None else "buckets"
        return (
            f"HybridVectors(hidden_dim={self.hidden_dim}, {kind}={self.dim - self.hidden_dim}, "
            f"n={self.statistics.n})"
        )

    def documents(
        self, codes: SparseCodes | None = None, words: Sequence[str] | None = None
    ) -> scipy.sparse.csr_matrix:
        """(n, dim) float32, the vectors of documents.

        Args:
            codes: Their codes; None for words alone.
            words: The text of each, '' where there is none; None for codes alone.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If hidden_dim or sizes differ, or there are neither codes nor texts.
        """
        latents, found = self._parts(codes, words, "documents")
        return self._joined(latents, self._impacts(found))

    def documents_of(self, index: SparseIndex) -> scipy.sparse.csr_matrix:
        """(n, dim) float32, the vectors of the documents of an index, in the order of its ``ids``.

        Raises:
            ValueError: If the index has no words, or another hidden_dim.
        """
        documents, words = _stored(index)
        latents = None
        if documents.hidden_dim:
            latents = self._latents(documents.scored_codes(documents.k), "documents of the index")
        return self._joined(latents, self._impacts(words))

    def queries(
        self,
        codes: SparseCodes | None = None,
        words: Sequence[str] | None = None,
        weight: float | None = None,
    ) -> scipy.sparse.csr_matrix:
        """(n, dim) float32, the vectors of queries.

        Args:
            codes: Their codes; None to search by words alone.
            words: The text of each, '' where there is none; None to search by codes alone.
            weight: Weight of BM25 in a score; that of the index, or of `build`, if None.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If hidden_dim or sizes differ, or there are neither codes nor texts.
        """
        weight = self.words.weight if weight is None else check_weight(weight)
        latents, found = self._parts(codes, words, "queries")
        counts = self._counts(found)
        lengths = np.repeat(found.lengths, np.diff(counts.indptr))
        counts.data *= (
            weight
            * self.statistics.idf(self.statistics.frequencies[counts.indices])
            / np.sqrt(lengths)
        )
        return self._joined(latents, counts)

    def _parts(
        self, codes: SparseCodes | None, words: Any, what: str
    ) -> tuple[scipy.sparse.csr_matrix | None, Words]:
        if codes is None and words is None:
            raise ValueError(f"there are no {what}; pass codes, words=texts, or both")
        latents = None if codes is None else self._latents(codes, f"codes of the {what}")
        n = None if latents is None else latents.shape[0]
        texts = [""] * (n or 0) if words is None else as_texts(words, n, what)
        return latents, Words.of(texts, self.words.known_language(), self.words.weight)

    def _latents(self, codes: SparseCodes, what: str) -> scipy.sparse.csr_matrix:
        checked = checked_codes(codes, what, self.similarity)
        if checked.hidden_dim != self.hidden_dim:
            raise ValueError(
                f"the {what} have hidden_dim={checked.hidden_dim}, these vectors "
                f"{self.hidden_dim}; encode with the same head"
            )
        return checked.to_scipy()

    def _counts(self, words: Words) -> scipy.sparse.csr_matrix:
        """(n, n_words) float64, how often each of the known words occurs in each text."""
        if self.buckets is not None:
            numbers = _hashed(words.vocabulary, self.buckets)
        else:
            known = self.words.vocabulary
            numbers = np.array([known.get(name, -1) for name in words.vocabulary], np.int64)
        return count_matrix(words, numbers, len(self.statistics.frequencies))

    def _impacts(self, words: Words) -> scipy.sparse.csr_matrix:
        return impact_matrix(self._counts(words), words.lengths, self.statistics.mean_length)

    def _joined(self, latents: Any, words: Any) -> scipy.sparse.csr_matrix:
        if latents is None:
            latents = scipy.sparse.csr_matrix((words.shape[0], self.hidden_dim))
        return scipy.sparse.hstack([latents, words], format="csr", dtype=np.float32)

    def save(self, path: str | Path) -> None:
        """Write one file, completely or not at all; a function that splits texts is left out."""
        about, arrays = words_to_arrays(self.words)
        arrays["frequencies"] = self.statistics.frequencies
        header = {
            "version": PLAIN_VERSION,
            "hidden_dim": self.hidden_dim,
            "n": self.statistics.n,
            "tokens": self.statistics.tokens,
            "hashed": self.buckets is not None,
            "words": about,
            "checksum": digest(*(arrays[name] for name in sorted(arrays))),
        }
        if self.similarity != "cosine":
            header |= {"version": FORMAT_VERSION, "similarity": self.similarity}
        texts = {name: json.dumps(value) for name, value in header.items()}
        write_tensors(Path(path), arrays, {"format": FORMAT, **texts})

    @classmethod
    def load(cls, path: str | Path, *, language: Language | None = None) -> HybridVectors:
        """Read a file that `save` wrote.

        Args:
            path: The file.
            language: The function that split the texts, if one did: a file cannot contain it.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is of another type or a newer version, damaged, or has another
                language.
        """
        file = open_tensors(Path(path))
        if file.metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a {FORMAT} file; its format is {file.metadata.get('format')!r}"
            )
        try:
            header = {
                name: json.loads(text) for name, text in file.metadata.items() if name != "format"
            }
            refuse_newer_format(path, header["version"], FORMAT_VERSION)
            arrays = {name: np.array(file.map(name)) for name in file.tensors}
            if digest(*(arrays[name] for name in sorted(arrays))) != header["checksum"]:
                raise ValueError(f"{path} is altered: its checksum is another one; save it again")
            words = words_from_arrays(header["words"], arrays)
            frequencies = arrays["frequencies"]
            statistics = Statistics(header["n"], header["tokens"], frequencies)
            hidden_dim = header["hidden_dim"]
            buckets = len(frequencies) if header["hashed"] else None
            similarity = check_similarity(header.get("similarity", "cosine"))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path} is damaged or was not written by HybridVectors.save: {error}"
            ) from error
        return cls(hidden_dim, statistics, words.spoken(language), buckets, similarity)


def _stored(index: SparseIndex) -> tuple[Documents, Words]:
    """The codes and words of the documents of an index at one moment."""
    collection = index._collection.compacted()
    if collection.words is None:
        raise ValueError("this index has no words; build it with words=texts")
    return collection.documents, collection.words


def _without_documents(words: Words, vocabulary: Any) -> Words:
    none = {name: np.empty(0, dtype) for name, dtype in ARRAYS.items()}
    return Words(**none, vocabulary=vocabulary, language=words.language, weight=words.weight)


def _hashed(names: Any, buckets: int) -> NDArray[np.int64]:
    numbers = [zlib.crc32(name.encode(errors="surrogatepass")) % buckets for name in names]
    return np.array(numbers, np.int64)
