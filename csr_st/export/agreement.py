"""How near the codes of an exported model come to those of the model, on sample texts."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import os
import random
import shutil
import statistics
import string
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from csr_st.codes import SparseCodes

MODULES: tuple[ModuleType, ...] = (
    itertools, json, math, os, random, shutil, statistics, string,
)  # fmt: skip
MOST = 128  # sample texts
LONGEST = 400  # characters
TOP = 10


@dataclass(frozen=True)
class Agreement:
    """Figures of two codes of the same texts.

    Attributes:
        n_texts: Texts.
        k: Latents of each.
        shared: Share of the model's latents that the exported model chose too.
        cosine: Mean cosine of a text's two codes.
        lowest: The smallest of these cosines.
        neighbours: Share of the ten nearest other texts that are the same; 1.0 for one text.
    """

    n_texts: int
    k: int
    shared: float
    cosine: float
    lowest: float
    neighbours: float

    @classmethod
    def of(cls, wanted: SparseCodes, found: SparseCodes) -> Agreement:
        """The figures of n codes at one k each."""
        first, second = (
            codes.normalize().to_dense().astype(np.float64) for codes in (wanted, found)
        )
        # Two codes without a latent agree.
        cosines = np.where((first == 0).all(1) & (second == 0).all(1), 1, (first * second).sum(1))
        active, n = first > 0, len(first)
        shared = (active & (second > 0)).sum() / max(int(active.sum()), 1)
        top = min(TOP, n - 1)
        nearest = []
        for one in (first, second):
            scores = one @ one.T
            np.fill_diagonal(scores, -np.inf)
            nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :top])
        same = [len(np.intersect1d(*rows)) for rows in zip(*nearest, strict=True)]
        neighbours = float(np.mean(same)) / top if top > 0 else 1.0
        lowest = float(cosines.min(initial=1.0))
        return cls(n, wanted.k, float(shared), float(cosines.mean()), lowest, neighbours)

    def __str__(self) -> str:
        return (
            f"On {self.n_texts:,} texts at k={self.k}, {100 * self.shared:.1f}% of the latents are "
            f"the model's, the mean cosine of a text's two codes is {self.cosine:.3f}, and "
            f"{100 * self.neighbours:.1f}% of the {TOP} nearest texts are the same."
        )


def sample_texts() -> list[str]:
    """Docstrings of some of Python's own modules: English of one line to many."""
    found = []
    for module in MODULES:
        members = [module, *vars(module).values()]
        texts = (inspect.getdoc(member) for member in members if getattr(member, "__doc__", None))
        found += [text for text in texts if text]
    return list(dict.fromkeys(text[:LONGEST] for text in found))[:MOST]
