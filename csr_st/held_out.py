"""When to stop: the error on vectors that training does not see."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from csr_st.embeddings import EmbeddingStore
from csr_st.objective import Objective

ROWS_AT_ONCE = 2048


class HeldOut:
    """The mean over ks of ln fvu on held-out vectors: lower is better.

    The logarithm weighs a k whose error is small like one whose error is large, as the nested
    recipe does. Every process measures a share of the rows, and all have the same figure.

    Args:
        store: The vectors.
        objective: Gives the ks and the variance that errors are relative to.
        scale: What vectors are divided by in training.
        accelerator: Tells rank, number of processes and device.

    Raises:
        ValueError: If the store is empty or its vectors are of another width.
    """

    def __init__(
        self, store: EmbeddingStore, objective: Objective, scale: float, accelerator: Accelerator
    ) -> None:
        dim = objective.head.input_dim
        if not len(store) or store.dim != dim:
            raise ValueError(
                f"held_out has {len(store)} vectors of width {store.dim}; at least one of width "
                f"{dim}, like those to train on, is needed"
            )
        self._store = store
        self._ks = objective.ks
        self._variance = objective.variance
        self._scale = scale
        self._accelerator = accelerator
        self._head = copy.deepcopy(objective.head)

    @torch.no_grad()
    def measure(self, weights: Mapping[str, Tensor]) -> float:
        """The figure of a head with these weights; infinite when it is no number."""
        for name, parameter in self._head.named_parameters():
            parameter.copy_(weights[name])
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        n, device = len(self._store), self._accelerator.device
        errors = torch.zeros(len(self._ks), dtype=torch.float64)
        for first in range(rank * n // world, (rank + 1) * n // world, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, (rank + 1) * n // world)
            rows = torch.from_numpy(self._store.rows(np.arange(first, last)))
            errors += self._errors(rows.to(device) / self._scale).cpu()
        errors = self._accelerator.reduce(errors.float().to(device), "sum").cpu()
        fvu = (errors / (n * self._variance)).clamp_min(1e-12)
        figure = float(fvu.log().mean())
        return figure if math.isfinite(figure) else math.inf

    def _errors(self, vectors: Tensor) -> Tensor:
        """Squared error by k, summed over the vectors."""
        values, indices = self._head.encode(vectors, max(self._ks))
        errors = [
            (vectors - self._head.decode(values[:, :k], indices[:, :k])).square().sum()
            for k in self._ks
        ]
        return torch.stack(errors).double()


def best_of(evaluations: Sequence[dict[str, Any]]) -> int:
    """Place of the evaluation with the lowest error, the first of equals."""
    return min(range(len(evaluations)), key=lambda place: evaluations[place]["log_fvu"])


def out_of_patience(evaluations: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` evaluations brought nothing better; never for 0."""
    if not patience or not evaluations:
        return False
    return len(evaluations) - 1 - best_of(evaluations) >= patience
