"""GradCache: a loss over a large batch whose backbone only ever sees mini-batches of it.

Gao et al., arXiv 2101.06983. Vectors are computed without gradient; the loss of the whole batch
gives their gradients; each mini-batch then passes through the backbone a second time, with the same
random numbers, to propagate them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor, nn

Features = dict[str, Any]


def minibatches(column: Features, size: int) -> list[Features]:
    """A column's features in parts of at most ``size`` inputs; tensors have one row per input.

    Raises:
        ValueError: If the tensors have different numbers of rows, so that rows are not inputs.
    """
    tensors = {key: x for key, x in column.items() if isinstance(x, Tensor) and x.ndim}
    rows = {key: len(x) for key, x in tensors.items()}
    if len(set(rows.values())) != 1:
        raise ValueError(
            f"mini_batch_size needs features with a row for each input, these have {rows} rows; "
            "leave mini_batch_size out for this model"
        )
    n = next(iter(rows.values()))
    return [
        {key: value[i : i + size] if key in rows else value for key, value in column.items()}
        for i in range(0, n, size)
    ]


def replayed(
    columns: Sequence[Sequence[Features]],
    embed: Callable[[Features], Tensor],
    terms_of: Callable[[list[Tensor]], dict[str, Tensor]],
    parameters: Sequence[nn.Parameter],
    model: nn.Module,
) -> dict[str, Tensor]:
    """Loss terms whose backward pass runs the mini-batches again.

    Args:
        columns: Mini-batches of each column.
        embed: A mini-batch's (b, d) vectors.
        terms_of: The loss's terms, from each column's vectors.
        parameters: What the loss uses beside the vectors.
        model: The model as it is wrapped; it synchronises processes only at the last part.

    Returns:
        Terms; the gradient is attached to the first.
    """
    parts = [part for column in columns for part in column]
    states: list[RandContext] = []
    vectors: list[Tensor] = []
    with torch.no_grad():
        for part in parts:
            states.append(RandContext(*part.values()))
            vectors.append(embed(part).detach().requires_grad_())
    remaining = iter(vectors)
    terms = terms_of([torch.cat(list(islice(remaining, len(column)))) for column in columns])
    total = torch.stack(list(terms.values())).sum()
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    found = torch.autograd.grad(total, [*vectors, *trained], allow_unused=True)
    gradients, own = found[: len(vectors)], found[len(vectors) :]

    def propagate(scale: Tensor) -> None:
        """Called once with d(minimised) / d(terms), which includes accumulation and scaling."""
        for i, (part, state, gradient) in enumerate(zip(parts, states, gradients, strict=True)):
            last = i == len(parts) - 1
            no_sync = getattr(model, "no_sync", contextlib.nullcontext)
            wait = contextlib.nullcontext() if last else no_sync()
            with torch.enable_grad(), wait, state:
                again = embed(part)
                heads = [p for p, g in zip(trained, own, strict=True) if g is not None]
                torch.autograd.backward(
                    [again, *heads] if last else [again],
                    [
                        (torch.zeros_like(again) if gradient is None else gradient) * scale,
                        *([g * scale for g in own if g is not None] if last else []),
                    ],
                )

    carrier = total.new_zeros((), requires_grad=True)
    carrier.register_hook(propagate)  # type: ignore[no-untyped-call] # untyped in torch
    first = next(iter(terms))
    return {
        name: term.detach() + carrier if name == first else term.detach()
        for name, term in terms.items()
    }
