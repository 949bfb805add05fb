"""Codes in Seismic: approximate search in memory, for where exact search takes too long.

At 100,000 documents `SparseIndex` is faster and exact; tests/benchmarks/search.py compares both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from csr_st.search.engines.base import Document, Engine, Hits, Row, require


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
        self._documents: dict[int, tuple[list[int], list[float], dict[str, Any]]] = {}
        self._index: Any = None

    def __len__(self) -> int:
        return len(self._documents)

    def _stored(self, ids: list[int]) -> set[int]:
        return {document for document in ids if document in self._documents}

    def _codes(self, ids: list[int]) -> dict[int, dict[int, float]]:
        rows = {document: self._documents[document][:2] for document in self._stored(ids)}
        return {key: dict(zip(*row, strict=True)) for key, row in rows.items()}

    def _payloads(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        return {document: self._documents[document][2] for document in self._stored(ids)}

    def _write(self, documents: list[Document]) -> None:
        self._index = None
        for document, latents, values, payload in documents:
            self._documents[document] = (latents, values, payload)

    def _build(self) -> Any:
        dataset = self._seismic.SeismicDataset()
        text = self._seismic.get_seismic_string()
        for document, (latents, values, _) in self._documents.items():
            dataset.add_document(
                str(document), np.array(latents).astype(text), np.array(values, np.float32)
            )
        longest = max(len(latents) for latents, _, _ in self._documents.values())
        return self._seismic.SeismicIndex.build_from_dataset(
            dataset, max_fraction=6.0, doc_cut=longest, **self._settings
        )

    def _search(self, queries: list[Row], top_k: int) -> Iterator[Hits]:
        if self._index is None:
            self._index = self._build()
        text = self._seismic.get_seismic_string()
        for latents, values in queries:
            hits = self._index.search(
                "query",
                np.array(latents).astype(text),
                np.array(values, np.float32),
                k=top_k,
                query_cut=len(latents),
                heap_factor=self._heap_factor,
            )
            yield [(float(score), int(document)) for _, score, document in hits]

    def close(self) -> None:
        """Drop all documents."""
        self._documents.clear()
        self._index = None
