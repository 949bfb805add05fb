"""What txtai takes by the path of a class: a backend for its sparse index, and a vectors method.

::

    sparse = {
        "path": "org/my-csr",
        "backend": "csr_st.frameworks.txtai.CSRIndex",
        "vectormethod": "csr_st.frameworks.txtai.CSRVectors",
    }
    embeddings = txtai.Embeddings(sparse=sparse, content=True)

Each works without the other: saved models load in txtai's own ``sentence-transformers`` method, and
`CSRIndex` searches the vectors of any sparse model. Words (``hybrid=True``), content and graphs
stay txtai's. An index that was saved names classes by their paths, which therefore never change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from sentence_transformers import SentenceTransformer

try:
    from txtai.ann import ANN
    from txtai.vectors.sparse import SparseSTVectors
except ModuleNotFoundError as error:
    raise ImportError('txtai is missing: pip install "csr-st[txtai]"') from error

from csr_st.codes import SparseCodes
from csr_st.encoding import encode
from csr_st.frameworks.coding import found_of, usual_query_k
from csr_st.frameworks.documents import empty_index
from csr_st.frameworks.folder import load_documents, save_documents
from csr_st.frameworks.sparse_rows import codes_of_matrix
from csr_st.search import SparseIndex

_NAME = "txtai"


class CSRIndex(ANN):  # type: ignore[misc] # txtai has no types
    """A `csr_st.SparseIndex` as the sparse index of txtai: exact, by dot product.

    Setting, beside those of txtai: ``k``, the most values that a vector may have; as many as the
    longest vector has, when it is not given.
    """

    def index(self, embeddings: scipy.sparse.csr_matrix) -> None:
        """Index vectors, as number 0 and on, in place of what there was.

        Args:
            embeddings: (n, width) sparse vectors.

        Raises:
            ValueError: If a value is negative or no number, or a vector has more than ``k``.
        """
        longest = int(np.diff(embeddings.indptr).max(initial=1))
        k = self.config.get("k") or max(longest, 1)
        self.backend = empty_index(embeddings.shape[1], k, similarity="dot")
        self.config["offset"] = 0
        self._add(embeddings)
        self.metadata({"k": k})

    def append(self, embeddings: scipy.sparse.csr_matrix) -> None:
        """Add vectors, numbered from the last number ever used.

        Args:
            embeddings: (n, width) sparse vectors.

        Raises:
            ValueError: As `index`. The numbers count as used then, as txtai has given them already.
        """
        self._add(embeddings)
        self.metadata()

    def _add(self, embeddings: scipy.sparse.csr_matrix) -> None:
        start = self.config["offset"]
        end = self.config["offset"] = start + embeddings.shape[0]
        if end > start:
            longest = int(np.diff(embeddings.indptr).max())
            wide_enough = longest <= self.backend.k or self.config.get("k")
            backend = self.backend if wide_enough else _widened(self.backend, longest)
            backend.add(codes_of_matrix(embeddings, backend.k), list(range(start, end)))
            self.backend = backend

    def delete(self, ids: Any) -> None:
        """Remove vectors by number; those that are not there are skipped."""
        known = set(self.backend.ids.tolist())
        self.backend.remove([int(id) for id in dict.fromkeys(ids) if id in known])

    def search(self, queries: scipy.sparse.csr_matrix, limit: int) -> list[list[tuple[int, float]]]:
        """Number and score of the best vectors of each query, best first."""
        top_k = min(limit, self.count())
        if not top_k or not queries.shape[0]:
            return [[] for _ in range(queries.shape[0])]
        longest = int(np.diff(queries.indptr).max(initial=1))
        found = self.backend.search(codes_of_matrix(queries, max(longest, 1)), top_k)
        return [found_of(*row) for row in zip(found.ids, found.scores, strict=True)]

    def count(self) -> int:
        """Number of vectors."""
        return len(self.backend)

    def save(self, path: str) -> None:
        """Write the index, completely or not at all: ``path`` and two files beside it."""
        settings = {"offset": self.config["offset"]}
        rows = ((id, None) for id in self.backend.ids.tolist())
        save_documents(Path(path), _NAME, self.backend, rows, settings)

    def load(self, path: str) -> None:
        """Open what `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or of a newer format.
        """
        saved = load_documents(Path(path), _NAME, {"offset": (int,)})
        ids, offset = saved.index.ids, saved.settings["offset"]
        if ids.dtype == object or offset < ids.max(initial=-1) + 1:
            raise ValueError(f"{path} is damaged: its offset {offset} is not above all numbers")
        self.backend, self.config["offset"] = saved.index, offset


def _widened(index: SparseIndex, k: int) -> SparseIndex:
    """The same vectors in an index of more values each."""
    ids = index.ids
    codes = index.codes(ids)
    padding = (0, 0), (0, k - codes.k)
    arrays = np.pad(codes.indices, padding), np.pad(codes.values, padding)
    wider = empty_index(codes.hidden_dim, k, similarity="dot")
    wider.add(SparseCodes(*arrays, codes.hidden_dim), ids)
    return wider


class CSRVectors(SparseSTVectors):  # type: ignore[misc] # txtai has no types
    """Codes of a model with a head, at another k for queries than for documents.

    Settings, beside those of txtai: ``k``, latents per document, the head's default when it is not
    given; ``query_k``, latents per query, the head's ``query_k``, else 4k. Scores are cosines.
    """

    def loadencoder(self, path: str, device: Any, **kwargs: Any) -> SentenceTransformer:
        """The model in a folder or under a Hub id."""
        return SentenceTransformer(path, device=str(device), **kwargs)

    def encode(self, data: list[str], category: str | None = None) -> scipy.sparse.csr_matrix:
        """(n, hidden_dim) codes of documents (``category="data"``) or queries."""
        k = self.config.get("k")
        role = "document"
        if category != "data":
            role, k = "query", self.config.get("query_k") or usual_query_k(self.model, k)
        options = {
            "role": role,
            "batch_size": self.encodebatch,
            **self.config.get("encodeargs", {}),
        }
        return encode(self.model, data, k, **options).to_scipy()

    def defaultnormalize(self) -> bool:
        """True, so that txtai takes scores as they are."""
        return True
