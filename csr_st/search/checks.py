"""What an index refuses, each with the value, the bound and the way out."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.search.documents import Documents
from csr_st.search.rescoring import Metric, checked_dense


def check_new_ids(ids: NDArray[Any], n: int) -> None:
    """Refuse ids of documents to be added.

    Raises:
        ValueError: If their number is not n, or one repeats or is negative.
    """
    if len(ids) != n:
        raise ValueError(f"there are {len(ids)} ids for {n} documents; pass one id a document")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < n:
        raise ValueError(f"id {unique[counts > 1].tolist()[0]!r} is given twice; ids must differ")
    if ids.dtype.kind == "i" and n and unique[0] < 0:
        raise ValueError(f"id {unique[0]} is negative; integer ids must be at least 0")


def check_request(
    query_codes: SparseCodes, documents: Documents, n: int, top_k: int, k: int
) -> None:
    """Refuse a search that n documents cannot answer.

    Raises:
        TypeError: If the queries are not SparseCodes.
        ValueError: If hidden_dim, top_k or k do not fit the index.
    """
    if not isinstance(query_codes, SparseCodes):
        raise TypeError(f"query_codes are {type(query_codes).__name__}; pass csr_st.SparseCodes")
    if query_codes.hidden_dim != documents.hidden_dim:
        raise ValueError(
            f"the queries have hidden_dim={query_codes.hidden_dim}, the index "
            f"{documents.hidden_dim}; encode both with the same head"
        )
    if not 1 <= top_k <= n:
        raise ValueError(f"top_k={top_k} is not within 1..{n}, the documents in the index")
    if not 1 <= k <= documents.k:
        raise ValueError(f"k={k} is not within 1..{documents.k}, the latents stored a document")


def check_metric(metric: str) -> None:
    """Refuse a metric that rescoring does not know.

    Raises:
        ValueError: If it is none of `Metric`.
    """
    if metric not in get_args(Metric):
        choices = " or ".join(map(repr, get_args(Metric)))
        raise ValueError(f"metric={metric!r} is unknown; pass {choices}")


def check_rescoring(
    rescore: int, top_k: int, queries_dense: Any, n_queries: int, decoder: Decoder | None
) -> NDArray[np.float32]:
    """The dense queries, as float32.

    Raises:
        ValueError: If there is no decoder, or ``rescore`` or the dense queries do not fit.
    """
    if decoder is None:
        raise ValueError(
            "rescoring needs a decoder: build the index with decoder=Decoder.from_head(head), or "
            "pass it to search"
        )
    if rescore < top_k:
        raise ValueError(f"rescore={rescore} is less than top_k={top_k}; pass at least top_k")
    if queries_dense is None:
        raise ValueError("rescoring needs queries_dense, the dense vectors of the queries")
    return checked_dense(queries_dense, n_queries, decoder.input_dim)
