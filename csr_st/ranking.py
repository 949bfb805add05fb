"""The best documents of each query by brute force: the reference that evaluation measures with.

For serving, use `csr_st.SparseIndex`; these functions score everything, in blocks of queries, and
need no optional package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
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
    known, asked = unit_rows(documents), unit_rows(queries)
    blocks = (asked[i : i + BLOCK] @ known.T for i in range(0, len(asked), BLOCK))
    return _top_of_blocks(blocks, top, leave_out)


def sparse_top(
    documents: SparseCodes,
    queries: SparseCodes,
    top: int,
    leave_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """(m, top) rows of the documents whose codes have the highest dot product with each query's."""
    known = documents.to_scipy().T.tocsr()
    blocks = (
        (queries[i : i + BLOCK].to_scipy() @ known).toarray() for i in range(0, len(queries), BLOCK)
    )
    return _top_of_blocks(blocks, top, leave_out)


def decoded_top(
    codes: SparseCodes,
    decoder: Decoder,
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    top: int,
) -> NDArray[np.int64]:
    """Re-rank candidates by the cosine of the dense query and the reconstructed document.

    Args:
        codes: Codes of n documents.
        decoder: The head's.
        queries: (m, d) dense vectors.
        candidates: (m, c) document rows.
        top: Rows to keep.

    Returns:
        (m, min(top, c)) document rows, best first.
    """
    reconstructed = unit_rows(decoder.decode(codes))
    asked = unit_rows(queries)
    best = np.empty((len(asked), min(top, candidates.shape[1])), np.int64)
    for i, rows in enumerate(candidates):
        scores = reconstructed[rows] @ asked[i]
        best[i] = rows[top_rows(scores[None], top)[0]]
    return best


def _top_of_blocks(blocks: Any, top: int, leave_out: NDArray[np.int64] | None) -> NDArray[np.int64]:
    ranked, start = [], 0
    for scores in blocks:
        if leave_out is not None:
            scores[np.arange(len(scores)), leave_out[start : start + len(scores)]] = -np.inf
        ranked.append(top_rows(scores, top))
        start += len(scores)
    return np.concatenate(ranked)
