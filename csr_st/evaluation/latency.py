"""Search time on this machine with a head's codes, for its card."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

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
        k: Latents per document.
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
    head: SparseCSRHead, documents: NDArray[np.float32], queries: NDArray[np.float32]
) -> SearchTime | None:
    """Time exact search of `SparseIndex` for the best ten, at the head's k with the query at 4k.

    Args:
        head: The trained head.
        documents: (n, input_dim) dense vectors.
        queries: (m, input_dim) dense vectors, searched one per call.

    Returns:
        The time, or None where numba, which the search needs, is not installed.
    """
    k = min(head.k, head.hidden_dim)
    query_k = min(4 * k, head.hidden_dim)
    try:
        index = SparseIndex.build(encode_vectors(head, documents, k))
    except ImportError:
        return None
    codes = encode_vectors(head, queries, query_k)
    seconds = []
    for row in [0, *range(len(codes))]:  # the first call, which is not counted, builds the index
        started = time.perf_counter()
        index.search(codes[row : row + 1], top_k=min(10, len(index)), threads=1)
        seconds.append(time.perf_counter() - started)
    middle = float(np.median(seconds[1:]))
    return SearchTime(round(1000 * middle, 4), len(index), len(codes), k, query_k)
