"""The best documents of each query by brute force: the reference that evaluation measures with.

For serving, use `csr_st.SparseIndex`; these functions score everything, in blocks of queries, and
need no optional package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder

BLOCK = 256  # queries scored at once

Blocks: TypeAlias = Iterable[NDArray[np.float32]]


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
    known, asked = unit_rows(documents), unit_rows(queries)
    blocks = (asked[i : i + BLOCK] @ known.T for i in range(0, len(asked), BLOCK))
    return np.concatenate([top_rows(scores, top) for scores, _ in _without(blocks, leave_out)])


def sparse_top(
    documents: SparseCodes,
    queries: SparseCodes,
    top: int,
    leave_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(m, top) rows of the documents whose codes have the highest dot product with each query's."""
    blocks = _without(_products(documents, queries), leave_out)
    return np.concatenate([top_rows(scores, top) for scores, _ in blocks])


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
        candidates: Documents a query that are ranked again; more where some tie with the last of
            them, as all do that share no latent with the query.
        top: Rows to keep, at most ``candidates``.
        leave_out: As for `sparse_top`.

    Returns:
        (m, top) document rows, best first by cosine.
    """
    reconstructed = unit_rows(decoder.decode(documents)).T
    asked = unit_rows(queries_dense)

    def rescored(scores: NDArray[np.float32], start: int) -> NDArray[np.float32]:
        last = -np.partition(-scores, candidates - 1, axis=1)[:, candidates - 1 : candidates]
        cosines: NDArray[np.float32] = asked[start : start + len(scores)] @ reconstructed
        return np.where(scores >= last, cosines, -np.inf)

    blocks = _without(_products(documents, queries), leave_out)
    return np.concatenate([top_rows(rescored(scores, start), top) for scores, start in blocks])


def _products(documents: SparseCodes, queries: SparseCodes) -> Blocks:
    known = documents.to_scipy().T.tocsr()
    for start in range(0, len(queries), BLOCK):
        yield (queries[start : start + BLOCK].to_scipy() @ known).toarray()


def _without(
    blocks: Blocks, leave_out: NDArray[np.int64] | None
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Each block of scores, with what is left out at -inf, and its first query's number."""
    start = 0
    for scores in blocks:
        if leave_out is not None:
            scores[np.arange(len(scores)), leave_out[start : start + len(scores)]] = -np.inf
        yield scores, start
        start += len(scores)
