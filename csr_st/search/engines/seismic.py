"""Codes in Seismic: approximate search in memory, for where exact search takes too long.

At 100,000 documents `SparseIndex` is faster and exact; tests/benchmarks/search.py compares both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, require


class SeismicEngine(Engine):
    """A Seismic index of integer latents, rebuilt at the first search after an `add`.

    Nothing is written to disk, and documents without an active latent are skipped.

    Args:
        hidden_dim: Number of latents.
        postings: Documents kept per latent on average, those with the largest values; more is
            slower and has a higher recall.
        summary_energy: Fraction of a block's values that its summary keeps, 0..1.
        heap_factor: Blocks whose summary scores below the worst kept score divided by this are
            skipped, 0..1; smaller is faster and has a lower recall.

    Raises:
        ImportError: If pyseismic-lsr is not installed.
    """

    _stores_empty = False

    def __init__(
        self,
        hidden_dim: int,
        postings: int = 6000,
        summary_energy: float = 0.7,
        heap_factor: float = 1.0,
    ) -> None:
        self._seismic = require("seismic", "seismic")
        self.hidden_dim = hidden_dim
        self._settings = {"n_postings": postings, "summary_energy": summary_energy}
        self._heap_factor = heap_factor
        self._documents: dict[int, Document] = {}
        self._index: Any = None

    def __len__(self) -> int:
        return len(self._documents)

    def close(self) -> None:
        """Free the memory; the documents are lost."""
        self._documents.clear()
        self._index = None

    def _fetch(self, ids: list[int], field: Field) -> dict[int, Any]:
        return {key: getattr(self._documents[key], field) for key in ids if key in self._documents}

    def _write(self, documents: list[Document]) -> None:
        self._index = None
        self._documents.update((document.id, document) for document in documents)

    def _search(self, queries: list[Code], top_k: int) -> Iterator[list[Hit]]:
        if self._index is None:
            self._index = self._build()
        for code in queries:
            hits = self._index.search(
                "query",
                *self._arrays(code),
                k=top_k,
                query_cut=len(code),
                heap_factor=self._heap_factor,
            )
            yield [Hit(float(score), int(document)) for _, score, document in hits]

    def _build(self) -> Any:
        dataset = self._seismic.SeismicDataset()
        for document in self._documents.values():
            dataset.add_document(str(document.id), *self._arrays(document.code))
        longest = max(len(document.code) for document in self._documents.values())
        return self._seismic.SeismicIndex.build_from_dataset(
            dataset, max_fraction=6.0, doc_cut=longest, **self._settings
        )

    def _arrays(self, code: Code) -> tuple[NDArray[Any], NDArray[np.float32]]:
        latents = np.array(list(code)).astype(self._seismic.get_seismic_string())
        return latents, np.array(list(code.values()), np.float32)
