"""Evaluation of one head on two modalities: retrieval across them, and which latents each uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.encoding import encode_vectors
from csr_st.evaluation.brute_force import sparse_top
from csr_st.evaluation.metrics import active_latents, unexplained_variance
from csr_st.evaluation.quality import CANDIDATES_PER_RANK
from csr_st.head import SparseCSRHead

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class SideReport:
    """Figures of one head on two modalities, by k.

    Attributes:
        fvu: For each modality, the unexplained fraction of its variance about its own mean.
        dead_fraction: For each modality, the fraction of latents that none of its items activates.
        one_sided: Among latents in use, the fraction that only one modality activates.
        recall: For each direction, such as "image to text", and cutoff 1, 5 and 10 (with fewer
            than 100 pairs not 10, with fewer than 50 not 5): the fraction of items whose partner
            is among that many best by symmetric scoring.
    """

    fvu: dict[str, dict[int, float]]
    dead_fraction: dict[str, dict[int, float]]
    one_sided: dict[int, float]
    recall: dict[str, dict[int, dict[int, float]]]

    def table(self) -> str:
        """Markdown, one line per figure and one column per k."""
        rows: dict[str, Mapping[int, float]] = {}
        for direction, by_cutoff in self.recall.items():
            rows |= {f"{direction}, recall@{n}": row for n, row in by_cutoff.items()}
        for name in self.fvu:
            rows[f"{name}: unexplained variance (FVU)"] = self.fvu[name]
            rows[f"{name}: latents not used"] = self.dead_fraction[name]
        rows["latents used by one side only"] = self.one_sided
        ks = list(self.one_sided)
        lines = ["| | " + " | ".join(f"k={k}" for k in ks) + " |", "| --- |" + " ---: |" * len(ks)]
        for name, row in rows.items():
            lines.append(f"| {name} | " + " | ".join(f"{100 * row[k]:.1f}" for k in ks) + " |")
        return "\n".join(lines)


def evaluate_pairs(
    head: SparseCSRHead,
    sides: Mapping[str, NDArray[Any]],
    ks: Sequence[int] = (8, 16, 32, 64),
) -> SideReport:
    """Measure a head on pairs that it was not trained on.

    Args:
        head: A head with ``modalities``, or without for comparison.
        sides: (n, input_dim) vectors by modality, row i of one with row i of the other.
        ks: Active latents to measure at; those above hidden_dim are left out.

    Raises:
        ValueError: If there are not two sides of n rows each, or fewer than 10 pairs.
    """
    vectors = {name: np.ascontiguousarray(v, np.float32) for name, v in sides.items()}
    lengths = {name: len(v) for name, v in vectors.items()}
    if len(vectors) != 2 or len(set(lengths.values())) != 1:
        raise ValueError(f"sides have lengths {lengths}; two of equal length are needed")
    if (n := max(lengths.values())) < CANDIDATES_PER_RANK:
        raise ValueError(
            f"{n} pairs are too few to measure on; give at least {CANDIDATES_PER_RANK}"
        )
    ks = [k for k in ks if k <= head.hidden_dim]
    vectors = {name: v - shift_of(head, name) for name, v in vectors.items()}
    codes = {name: encode_vectors(head, v, max(ks)) for name, v in vectors.items()}
    decoder = Decoder.from_head(head)
    active = {name: {k: active_latents(code, k) for k in ks} for name, code in codes.items()}
    one, other = active
    either = {k: active[one][k] | active[other][k] for k in ks}
    only_one = {k: active[one][k] ^ active[other][k] for k in ks}
    return SideReport(
        fvu={n: unexplained_variance(vectors[n], codes[n], decoder, ks) for n in codes},
        dead_fraction={
            name: {k: 1 - float(by_k[k].mean()) for k in ks} for name, by_k in active.items()
        },
        one_sided={k: float(only_one[k].sum() / max(either[k].sum(), 1)) for k in ks},
        recall={
            f"{a} to {b}": _recall(codes[b], codes[a], ks) for a, b in ((one, other), (other, one))
        },
    )


def shift_of(head: SparseCSRHead, modality: str) -> NDArray[np.float32] | float:
    """What is subtracted from a modality's vectors to move their mean to the common one, or 0."""
    shift = head.shift(modality)
    return 0.0 if shift is None else np.asarray(shift.detach().float().cpu().numpy())


def _recall(
    documents: SparseCodes, queries: SparseCodes, ks: Sequence[int]
) -> dict[int, dict[int, float]]:
    cutoffs = [cutoff for cutoff in CUTOFFS if CANDIDATES_PER_RANK * cutoff <= len(documents)]
    found: dict[int, dict[int, float]] = {cutoff: {} for cutoff in cutoffs}
    truth = np.arange(len(queries))[:, None]
    for k in ks:
        top = sparse_top(documents.prefix(k), queries.prefix(k), max(cutoffs))
        for cutoff in cutoffs:
            found[cutoff][k] = float((top[:, :cutoff] == truth).any(axis=1).mean())
    return found
