"""Codes in Seismic: approximate search in memory, for where exact search takes too long.

At 100,000 documents `SparseIndex` is faster and exact; tests/benchmarks/search.py compares both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.search.engines.base import Code, Document, Engine, Field, Hit, require
from csr_st.search.engines.keys import IdType, Key, check_id_type
from csr_st.search.numbers import whole

_MAX_LATENTS = 2**16
_MAX_VALUE = 65_504.0


class SeismicEngine(Engine):
    """A Seismic index of integer latents, rebuilt at the first search after a change.

    Nothing is written to disk, and documents without an active latent are skipped. Seismic itself
    can neither remove documents, so that a removal costs a rebuild, nor search some of them: with a
    filter each of these is scored, exactly. It takes up to 65,536 different latents, and values of
    up to 65,504, as it stores float16.

    Args:
        hidden_dim: Number of latents.
        postings: Documents kept per latent on average, those with the largest values; more is
            slower and has a higher recall.
        summary_energy: Fraction of a block's values that its summary keeps, above 0, at most 1.
        heap_factor: Blocks whose summary scores below this times the worst kept score are skipped:
            0 skips none; a larger one is faster and has a lower recall, above 1 much lower.
        id_type: "int" or "str".

    Raises:
        ImportError: If pyseismic-lsr is not installed.
        TypeError: If a number is of the wrong type.
        ValueError: If a number is out of bounds, or ``id_type`` unknown.
    """

    _stores_empty = False

    def __init__(
        self,
        hidden_dim: int,
        postings: int = 6000,
        summary_energy: float = 0.7,
        heap_factor: float = 1.0,
        *,
        id_type: IdType = "int",
    ) -> None:
        self._seismic = require("seismic", "seismic")
        self.hidden_dim = whole("hidden_dim", hidden_dim)
        self.id_type = check_id_type(id_type)
        energy = _checked("summary_energy", summary_energy, most=1)
        self._settings = {"n_postings": whole("postings", postings), "summary_energy": energy}
        self._heap_factor = _checked("heap_factor", heap_factor)
        self._latents: set[int] = set()
        self._documents: dict[Key, Document] = {}
        self._index: Any = None
        self._indexed: list[Key] = []  # ids by the numbers that the index knows

    def _count(self) -> int:
        return len(self._documents)

    def close(self) -> None:
        """Free the memory; the documents are lost."""
        self._documents.clear()
        self._latents.clear()
        self._index = None

    def _fetch(self, ids: list[Key], field: Field) -> dict[Key, Any]:
        return {key: getattr(self._documents[key], field) for key in ids if key in self._documents}

    def _write(self, documents: list[Document]) -> None:
        latents = self._latents.union(*(document.code for document in documents))
        if len(latents) > _MAX_LATENTS:
            raise ValueError(
                f"with these documents there are {len(latents)} different latents; Seismic takes "
                f"at most {_MAX_LATENTS}: use another engine, or fewer buckets of words"
            )
        for one in documents:
            if max(one.code.values()) > _MAX_VALUE:
                raise ValueError(
                    f"document {one.id!r} has the value {max(one.code.values()):.6g}; Seismic "
                    f"takes at most {_MAX_VALUE}, the largest float16: scale the vectors"
                )
        self._index, self._latents = None, latents
        self._documents.update((document.id, document) for document in documents)

    def _delete(self, ids: list[Key]) -> None:
        self._index = None
        for key in ids:
            del self._documents[key]
        self._latents = set[int]().union(*(one.code for one in self._documents.values()))

    def _search(
        self, queries: list[Code], top_k: int, allowed: list[Key] | None
    ) -> Iterator[list[Hit]]:
        if allowed is not None:
            yield from (self._scored(code, allowed)[:top_k] for code in queries)
            return
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
            yield [Hit(float(score), self._indexed[int(place)]) for _, score, place in hits]

    def _scored(self, code: Code, allowed: list[Key]) -> list[Hit]:
        """These documents by falling score."""
        hits = [Hit(_dot(code, self._documents[key].code), key) for key in allowed]
        return sorted(hits, key=lambda hit: (-hit.score, hit.id))

    def _build(self) -> Any:
        dataset = self._seismic.SeismicDataset()
        self._indexed = list(self._documents)
        for place, key in enumerate(self._indexed):
            dataset.add_document(str(place), *self._arrays(self._documents[key].code))
        longest = max(len(document.code) for document in self._documents.values())
        return self._seismic.SeismicIndex.build_from_dataset(
            dataset, max_fraction=6.0, doc_cut=longest, **self._settings
        )

    def _arrays(self, code: Code) -> tuple[NDArray[Any], NDArray[np.float32]]:
        latents = np.array(list(code)).astype(self._seismic.get_seismic_string())
        return latents, np.array(list(code.values()), np.float32)


def _checked(name: str, value: Any, most: float | None = None) -> float:
    """A number above 0 up to ``most``, or any from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; pass a number")
    if most is None and not 0 <= value < np.inf:
        raise ValueError(f"{name}={value} must be finite and at least 0")
    if most is not None and not 0 < value <= most:
        raise ValueError(f"{name}={value} must be above 0 and at most {most}")
    return float(value)


def _dot(query: Code, document: Code) -> float:
    return float(sum(query.get(latent, 0.0) * value for latent, value in document.items()))
