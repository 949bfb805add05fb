"""What a search returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SearchResults(NamedTuple):
    """The best documents of each query, best first; equal scores stand in order of position.

    A filter, or an engine that holds less, may leave fewer than top_k hits. The rest of the row is
    then id -1 (None where ids are strings) with score -inf.

    Attributes:
        ids: (n_queries, top_k) external ids: int64, or objects (strings) if the ids are strings.
        scores: (n_queries, top_k) float32, cosine similarity unless a method says otherwise.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
