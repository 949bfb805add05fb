"""Early stopping: the loss on a validation set, and when it has not improved for too long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.training import losses
from csr_st.training.objective import Objective

ROWS_AT_ONCE = 2048


class ValidationSet:
    """The mean over ks of ln fvu on vectors that training does not see; lower is better.

    The logarithm gives equal weight to a k whose error is small and one whose error is large, as in
    the nested recipe, but without its floor, since a head cannot overfit these vectors. Every
    process measures a part of the rows, and all get the same figure. Where training learns from
    labels and the vectors have some, supervised contrast among the first `ROWS_AT_ONCE` is added,
    with its weight.

    Vectors are divided by ``scale``, as in training, and errors by the variance of ``objective``.

    Raises:
        ValueError: If the store is empty or its vectors have another width.
    """

    def __init__(
        self, store: EmbeddingStore, objective: Objective, scale: float, accelerator: Accelerator
    ) -> None:
        dim = objective.head.input_dim
        if not len(store) or store.dim != dim:
            raise ValueError(
                f"validation has {len(store)} vectors of width {store.dim}; at least one of width "
                f"{dim}, like those to train on, is needed"
            )
        self._store = store
        self._objective = objective
        self._scale = scale
        self._accelerator = accelerator

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """``loss`` of the head as it is now, with its parts by name; infinite instead of NaN."""
        found = {"log_fvu": self._log_fvu()}
        loss = found["log_fvu"]
        weight = self._objective.config.weight_of_labels
        if self._store.labels is not None and weight:
            found["supervised"] = self._supervised(self._store.labels)
            loss += weight * found["supervised"]
        return {**found, "loss": loss if math.isfinite(loss) else math.inf}

    def _log_fvu(self) -> float:
        rank, world = self._accelerator.process_index, self._accelerator.num_processes
        n, ks = len(self._store), self._objective.ks
        errors = torch.zeros(len(ks), dtype=torch.float64)
        end = (rank + 1) * n // world
        for first in range(rank * n // world, end, ROWS_AT_ONCE):
            vectors = self._vectors(first, min(first + ROWS_AT_ONCE, end))
            errors += squared_errors(self._objective.head, vectors, ks)
        errors = self._accelerator.reduce(errors.float().to(self._accelerator.device), "sum").cpu()
        return float((errors / (n * self._objective.variance)).clamp_min(1e-12).log().mean())

    def _supervised(self, labels: NDArray[np.int64]) -> float:
        """The mean over ks; every process computes the same."""
        vectors = self._vectors(0, min(len(labels), ROWS_AT_ONCE))
        classes = torch.from_numpy(labels[: len(vectors)]).to(vectors.device)
        head, temperature = self._objective.head, self._objective.config.supervised_temperature
        found = []
        for k in self._objective.ks:
            values, indices = head.encode(vectors, k)
            code = F.normalize(values, dim=1), indices
            similar = losses.code_similarities(*code, *code, head.hidden_dim)
            found.append(losses.supervised_contrastive(similar, classes, classes, temperature))
        return float(torch.stack(found).mean())

    def _vectors(self, first: int, last: int) -> Tensor:
        rows = torch.from_numpy(self._store.rows(np.arange(first, last)))
        return rows.to(self._accelerator.device) / self._scale


@torch.no_grad()
def squared_errors(head: SparseCSRHead, vectors: Tensor, ks: Sequence[int]) -> Tensor:
    """(len(ks),) squared errors of reconstruction by k, summed over (n, input_dim) vectors.

    The error that training minimises: of sums weighted by magnitudes. In float64 and on the CPU, as
    not all devices have float64. ks rise.
    """
    values, indices = head.encode(vectors, ks[-1])
    code = head.magnitudes(values), indices
    errors, _ = losses.nested_errors(vectors, *code, head.decoder_weight, head.pre_bias, ks)
    return errors.cpu().double() * len(vectors)


def best_of(evaluations: Sequence[dict[str, Any]]) -> int:
    """Place of the evaluation with the lowest loss, the first of equals."""
    return min(range(len(evaluations)), key=lambda place: evaluations[place]["loss"])


def out_of_patience(evaluations: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` evaluations did not improve on the best; never for 0."""
    if not patience or not evaluations:
        return False
    return len(evaluations) - 1 - best_of(evaluations) >= patience
