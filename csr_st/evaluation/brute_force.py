"""The best documents of each query by brute force: the reference that evaluation measures with.

For serving, use `csr_st.SparseIndex`; these functions score every document, in blocks of queries,
and need no optional package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder

BLOCK = 256  # queries scored at once


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows at unit L2 norm, float32; rows of zeros stay."""
    matrix = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return np.asarray(matrix / np.where(norms > 0, norms, 1), np.float32)


def top_rows(scores: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """Columns of the ``top`` highest scores of each row, highest first."""
    top = min(top, scores.shape[1])
    best = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def cosine_top(
    documents: NDArray[Any],
    queries: NDArray[Any],
    top: int,
    leave_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(m, top) rows of the documents (n, d) nearest to each query (m, d) by cosine.

    ``leave_out`` names for each query one document that does not count, such as itself.
    """
    blocks = score_blocks(unit_rows(documents).T, unit_rows(queries), leave_out)
    return np.concatenate([top_rows(scores, top) for _, scores in blocks])


def sparse_top(
    documents: SparseCodes,
    queries: SparseCodes,
    top: int,
    leave_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(m, top) rows of the documents whose codes have the highest dot product with each query's."""
    blocks = score_blocks(documents.to_scipy().T.tocsr(), queries.to_scipy(), leave_out)
    return np.concatenate([top_rows(scores, top) for _, scores in blocks])


def rescored_top(
    documents: SparseCodes,
    queries: SparseCodes,
    decoder: Decoder,
    queries_dense: NDArray[np.floating[Any]],
    candidates: int,
    top: int,
    leave_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The best documents by codes, ranked again by the dense query and the decoded document.

    Args:
        documents: Codes of n documents.
        queries: Codes of m queries.
        decoder: The head's.
        queries_dense: (m, d) the queries' dense vectors.
        candidates: Documents per query that are ranked again; more where several tie with the last
            of them, as all do that share no latent with the query.
        top: Rows to keep, at most ``candidates``.
        leave_out: As for `sparse_top`.

    Returns:
        (m, top) document rows, best first by cosine.
    """
    reconstructed, dense = unit_rows(decoder.decode(documents)).T, unit_rows(queries_dense)
    found = []
    for rows, scores in score_blocks(documents.to_scipy().T.tocsr(), queries.to_scipy(), leave_out):
        last = -np.partition(-scores, candidates - 1, axis=1)[:, candidates - 1 : candidates]
        cosines = np.where(scores >= last, dense[rows] @ reconstructed, -np.inf)
        found.append(top_rows(cosines, top))
    return np.concatenate(found)


def score_blocks(
    documents: Any, queries: Any, leave_out: NDArray[np.int64] | None = None
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Each block of queries with its scores: (m, d) times (d, n), dense or sparse.

    The score of what is left out is -inf.
    """
    for start in range(0, queries.shape[0], BLOCK):
        rows = slice(start, start + BLOCK)
        scores = queries[rows] @ documents
        if scipy.sparse.issparse(scores):
            scores = scores.toarray()
        if leave_out is not None:
            scores[np.arange(len(scores)), leave_out[rows]] = -np.inf
        yield rows, scores
