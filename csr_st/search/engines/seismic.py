"""Codes in Seismic: approximate search in memory, for where exact search takes too long.

At a hundred thousand documents `SparseIndex` is faster and exact; see `tests/benchmarks/search.py`
for where that ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from csr_st.search.engines.base import Engine, ordered_payloads, require
from csr_st.search.ids import Ids


class SeismicEngine(Engine):
    """A Seismic index of integer latents, rebuilt at the first search after an `add`.

    Nothing is written to disk, and documents without an active latent are skipped.

    Args:
        hidden_dim: Number of latents.
        postings: Documents kept a latent on average, the strongest; more is slower and finds more.
        summary_energy: Share of a block's values that its summary keeps, 0..1.
        heap_factor: How far under the best a block's bound may lie to be read, 0..1; 1 reads all
            that could matter by the summaries.

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
        rows = {document: self._documents[document] for document in self._stored(ids)}
        return {key: dict(zip(row[0], row[1], strict=True)) for key, row in rows.items()}

    def _write(self, documents: list[tuple[int, list[int], list[float], dict[str, Any]]]) -> None:
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

    def _search(
        self, queries: list[tuple[list[int], list[float]]], top_k: int
    ) -> Iterator[list[tuple[float, int]]]:
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

    def payloads(self, ids: Ids) -> list[dict[str, Any]]:
        """The payload of each id.

        Raises:
            KeyError: If an id is not stored.
        """
        return ordered_payloads(ids, {key: row[2] for key, row in self._documents.items()})

    def close(self) -> None:
        """Drop what is held."""
        self._documents.clear()
        self._index = None
