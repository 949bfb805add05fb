"""The words of texts beside vectors and codes: the rankings that evaluation measures.

By brute force, as `csr_st.evaluation.brute_force`, and with the scores of `csr_st.SparseIndex`
(`csr_st.search.bm25`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.evaluation.brute_force import score_blocks, top_rows, unit_rows
from csr_st.search.bm25 import QueryWords, Statistics, count_matrix, impact_matrix
from csr_st.search.tokenizing import Language, as_texts, check_language
from csr_st.search.words import WEIGHT, Words, check_weight

DENSE_SHARE = 0.6  # of dense vectors and words, both scaled to 0..1


@dataclass(frozen=True)
class Texts:
    """The texts that vectors are of, so that their words are searched too.

    Attributes:
        documents: The text of each document, '' where there is none.
        queries: The text of each query; None where the documents are the queries.
        language: Language of the texts, or a function, as in `SparseIndex.build`.
        weight: Weight of BM25 in a score beside codes, as in `SparseIndex.build`.
    """

    documents: Sequence[str]
    queries: Sequence[str] | None = None
    language: Language = "english"
    weight: float = WEIGHT

    def about(self) -> dict[str, Any]:
        """Language and weight, for what is kept with figures."""
        language = self.language if isinstance(self.language, str) else "function"
        return {"language": language, "weight": float(self.weight)}

    def scores(
        self, n_documents: int, n_queries: int, leave_out: NDArray[np.int64] | None = None
    ) -> WordScores:
        """The texts as sparse vectors.

        Args:
            n_documents: Documents that there must be.
            n_queries: Queries that there must be.
            leave_out: For each query the document that it is, where the documents are the queries.

        Raises:
            TypeError: If a text is not a str.
            ValueError: If numbers do not fit, or the language or weight is not valid.
            ImportError: If what words need is not installed.
        """
        check_language(self.language)
        check_weight(self.weight)
        documents = as_texts(self.documents, n_documents, "documents")
        if (self.queries is None) != (leave_out is not None):
            given = "no text of the queries" if self.queries is None else "texts of queries"
            raise ValueError(f"there are {given}; give them where there are vectors of queries")
        if leave_out is None:
            queries = as_texts(self.queries, n_queries, "queries")
        else:
            queries = [documents[row] for row in leave_out]
        words = Words.of(documents, self.language, self.weight)
        statistics = Statistics.of(words)
        asked = QueryWords.of(queries, words, statistics, 1.0)
        width = len(words.vocabulary)
        values = asked.values.astype(np.float32)
        shape = (len(queries), width)
        impacts = impact_matrix(count_matrix(words), words.lengths, statistics.mean_length)
        return WordScores(
            scipy.sparse.csr_array(impacts, dtype=np.float32),
            scipy.sparse.csr_array((values, asked.ids.astype(np.int64), asked.ends), shape),
            self.weight,
        )


class WordScores(NamedTuple):
    """Sparse vectors whose dot products are the words' part in a score at weight 1.

    Attributes:
        documents: (n, n_words).
        queries: (m, n_words).
        weight: Weight of BM25 in a score beside codes.
    """

    documents: scipy.sparse.csr_array
    queries: scipy.sparse.csr_array
    weight: float

    def top(self, top: int, leave_out: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """(m, top) rows of the documents that are best by words alone."""
        blocks = score_blocks(self.documents.T.tocsr(), self.queries, leave_out)
        return np.concatenate([top_rows(scores, top) for _, scores in blocks])

    def top_with_codes(
        self,
        documents: SparseCodes,
        queries: SparseCodes,
        top: int,
        leave_out: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """(m, top) rows of the documents that are best by codes and words together."""
        found = []
        by_codes = score_blocks(documents.to_scipy().T.tocsr(), queries.to_scipy(), leave_out)
        by_words = score_blocks(self.documents.T.tocsr(), self.queries)
        for (_, codes), (_, words) in zip(by_codes, by_words, strict=True):
            found.append(top_rows(codes + np.float32(self.weight) * words, top))
        return np.concatenate(found)

    def top_with_dense(
        self,
        documents: NDArray[Any],
        queries: NDArray[Any],
        top: int,
        leave_out: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """(m, top) rows of the documents that are best by full dense vectors and words.

        Both scores are scaled to 0..1 for a query (min-max), then 0.6 of dense and 0.4 of words.
        """
        found = []
        by_vectors = score_blocks(unit_rows(documents).T, unit_rows(queries), leave_out)
        by_words = score_blocks(self.documents.T.tocsr(), self.queries, leave_out)
        for (_, dense), (_, words) in zip(by_vectors, by_words, strict=True):
            fused = DENSE_SHARE * _scaled(dense) + (1 - DENSE_SHARE) * _scaled(words)
            found.append(top_rows(fused, top))
        return np.concatenate(found)


def _scaled(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row's scores at 0..1; what is left out stays -inf."""
    kept = np.isfinite(scores)
    least = scores.min(axis=1, keepdims=True, where=kept, initial=np.inf)
    most = scores.max(axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (scores - least) / np.maximum(most - least, 1e-9)
    return scaled
