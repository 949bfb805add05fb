"""When to stop: the loss on vectors that training does not see."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from csr_st.embeddings import EmbeddingStore
from csr_st.training import losses
from csr_st.training.objective import Objective

ROWS_AT_ONCE = 2048


class HeldOut:
    """The mean over ks of ln fvu on held-out vectors, and of supervised contrast: lower is better.

    The logarithm weighs a k whose error is small like one whose error is large, as the nested
    recipe does, without its floor: vectors that training does not see cannot be learnt by heart.
    Every process measures a share of the rows, and all have the same figure. Contrast is measured
    where training learns from labels and the vectors have some, with its weight, among the first
    `ROWS_AT_ONCE` of them.

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
        self._config = objective.config
        self._ks = objective.ks
        self._variance = objective.variance
        self._scale = scale
        self._accelerator = accelerator
        self._head = copy.deepcopy(objective.head)

    @torch.no_grad()
    def measure(self, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """``loss``, what it is made of by name; infinite where it is no number."""
        for name, parameter in self._head.named_parameters():
            parameter.copy_(weights[name])
        found = {"log_fvu": self._log_fvu()}
        loss = found["log_fvu"]
        weight = self._config.weight_of_labels
        if self._store.labels is not None and weight:
            found["supervised"] = self._supervised(self._store.labels)
            loss += weight * found["supervised"]
        return {**found, "loss": loss if math.isfinite(loss) else math.inf}

    def _log_fvu(self) -> float:
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        n, device = len(self._store), self._accelerator.device
        errors = torch.zeros(len(self._ks), dtype=torch.float64)
        for first in range(rank * n // world, (rank + 1) * n // world, ROWS_AT_ONCE):
            last = min(first + ROWS_AT_ONCE, (rank + 1) * n // world)
            errors += self._errors(self._vectors(first, last))
        errors = self._accelerator.reduce(errors.float().to(device), "sum").cpu()
        return float((errors / (n * self._variance)).clamp_min(1e-12).log().mean())

    def _supervised(self, labels: NDArray[np.int64]) -> float:
        """The mean over ks; every process works out the same."""
        vectors = self._vectors(0, min(len(labels), ROWS_AT_ONCE))
        classes = torch.from_numpy(labels[: len(vectors)]).to(vectors.device)
        values, indices = self._head.encode(vectors, max(self._ks))
        found = []
        for k in self._ks:
            code = F.normalize(values[:, :k], dim=1), indices[:, :k]
            similar = losses.code_similarities(*code, *code, self._head.hidden_dim)
            temperature = self._config.supervised_temperature
            found.append(losses.supervised_contrastive(similar, classes, classes, temperature))
        return float(torch.stack(found).mean())

    def _vectors(self, first: int, last: int) -> Tensor:
        rows = torch.from_numpy(self._store.rows(np.arange(first, last)))
        return rows.to(self._accelerator.device) / self._scale

    def _errors(self, vectors: Tensor) -> Tensor:
        """Squared error by k over the vectors; on the CPU, as not all devices have float64."""
        values, indices = self._head.encode(vectors, max(self._ks))
        errors = [
            (vectors - self._head.decode(values[:, :k], indices[:, :k])).square().sum()
            for k in self._ks
        ]
        return torch.stack(errors).cpu().double()


def best_of(evaluations: Sequence[dict[str, Any]]) -> int:
    """Place of the evaluation with the lowest loss, the first of equals."""
    return min(range(len(evaluations)), key=lambda place: evaluations[place]["loss"])


def out_of_patience(evaluations: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` evaluations brought nothing better; never for 0."""
    if not patience or not evaluations:
        return False
    return len(evaluations) - 1 - best_of(evaluations) >= patience
