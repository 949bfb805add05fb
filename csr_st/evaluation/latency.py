"""Search time on this machine with a head's codes, for its card."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.encoding import encode_vectors
from csr_st.head import SparseCSRHead
from csr_st.search import SparseIndex


@dataclass(frozen=True)
class SearchTime:
    """Time of one query alone, on one thread; see `search_time`.

    Attributes:
        milliseconds: Median over the queries.
        n_documents: Documents searched.
        n_queries: Queries timed.
        k: Latents of a document.
        query_k: Latents of a query.
    """

    milliseconds: float
    n_documents: int
    n_queries: int
    k: int
    query_k: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            types = (int, float) if name == "milliseconds" else (int,)
            if type(value) not in types or value <= 0:
                raise TypeError(f"search {name}={value!r} must be a number above 0")

    @property
    def per_million(self) -> float:
        """Milliseconds over a million documents, in proportion: an extrapolation."""
        return self.milliseconds * 1e6 / self.n_documents


def search_time(
    head: SparseCSRHead,
    documents: NDArray[Any],
    queries: NDArray[Any] | None = None,
    top_k: int = 10,
) -> SearchTime | None:
    """Time exact search of `SparseIndex` at the head's k, the query at 4k, one query per call.

    Args:
        head: The trained head.
        documents: (n, input_dim) dense vectors.
        queries: (m, input_dim), of which the first 200 are used; the documents when None.
        top_k: Documents per query.

    Returns:
        The time, or None where numba, which the search needs, is not installed.
    """
    k = min(head.k, head.hidden_dim)
    query_k = min(4 * k, head.hidden_dim)
    try:
        index = SparseIndex.build(encode_vectors(head, np.asarray(documents, np.float32), k))
    except ImportError:
        return None
    used = np.asarray(documents if queries is None else queries, np.float32)[:200]
    codes = encode_vectors(head, used, query_k)
    seconds = []
    for row in [0, *range(len(codes))]:  # the first call, which is not counted, builds the index
        started = time.perf_counter()
        index.search(codes[row : row + 1], top_k=min(top_k, len(index)), threads=1)
        seconds.append(time.perf_counter() - started)
    middle = float(np.median(seconds[1:]))
    return SearchTime(round(1000 * middle, 4), len(index), len(codes), k, query_k)
