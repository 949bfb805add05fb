"""The results of a search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SearchResults(NamedTuple):
    """The best documents of each query, best first, equal scores in order of position.

    Rows with fewer than top_k hits, because of a filter or a small collection, are padded with id
    -1 (None where ids are strings) and score -inf.

    Attributes:
        ids: (n_queries, top_k) external ids: int64, or objects (strings) if the ids are strings.
        scores: (n_queries, top_k) float32, cosine similarity unless the index or a method says
            otherwise.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
