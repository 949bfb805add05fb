"""The vectors of tokens whose mean comes near to the backbone's vector of a text.

First the least squares solution, then a short training that compares directions, as search does.
Takes bags of tokens and vectors, no models.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from csr_st._io.progress import progress
from csr_st.distill.bags import Bags

RIDGE = 0.02
ROUNDS = 15  # of conjugate gradients
BATCH = 256
TEMPERATURE = 0.05  # of similarities within a batch, as cosines


def least_squares(
    bags: Bags, targets: NDArray[np.float32], prior: NDArray[np.float32], ridge: float = RIDGE
) -> NDArray[np.float32]:
    """The table E of least ``|X E - V|² + ridge |E - P|²``, by conjugate gradients.

    X has the share of each token in a text, V the targets, P the prior. The columns of V are solved
    for at once, with the diagonal of XᵀX + ridge as preconditioner.

    Args:
        bags: Bags of n texts.
        targets: (n, d) vectors of the texts.
        prior: (vocabulary, d) vectors of the tokens alone.
        ridge: What keeps the vectors of rare tokens near to the prior.

    Returns:
        (vocabulary, d); tokens that no text has are as in the prior.
    """
    x = bags.matrix(len(prior))
    xt = x.T.tocsr()
    diagonal = np.asarray(x.multiply(x).sum(axis=0)).reshape(-1, 1).astype(np.float32) + ridge
    table: NDArray[np.float32] = prior.astype(np.float32)
    residual = (xt @ (targets - x @ table)).astype(np.float32)
    step = residual / diagonal
    product = (residual * step).sum(axis=0)
    for _ in range(ROUNDS):
        image = xt @ (x @ step) + ridge * step
        length = product / np.maximum((step * image).sum(axis=0), np.finfo(np.float32).tiny)
        table += length * step
        residual -= length * image
        scaled = residual / diagonal
        former, product = product, (residual * scaled).sum(axis=0)
        step = scaled + product / np.maximum(former, np.finfo(np.float32).tiny) * step
    return table


def refined(
    table: NDArray[np.float32],
    bags: Bags,
    targets: NDArray[np.float32],
    *,
    unit: bool,
    epochs: int,
    learning_rate: float,
    seed: int,
    show_progress: bool | None = None,
) -> NDArray[np.float32]:
    """A table trained further so that directions agree, and similarities within a batch.

    The loss is half the squared distance to the target, in units of the targets' mean square,
    which for unit vectors is one minus the cosine; plus the KL divergence from the backbone's
    similarities of a text to all others of its batch to those of its static vector to them.

    Args:
        table: (vocabulary, d).
        bags: Bags of n texts.
        targets: (n, d) vectors.
        unit: Whether means are scaled to unit norm.
        epochs: Passes over the texts.
        learning_rate: That of Adam at the start, per mean square of the table; it falls to 0.
        seed: Seed of the order.
        show_progress: Whether to show a bar.
    """
    active, tokens = np.unique(bags.tokens, return_inverse=True)
    bags = Bags(tokens.reshape(-1).astype(np.int64), bags.starts)
    weights = torch.nn.Parameter(torch.from_numpy(table[active]))
    optimizer = torch.optim.Adam([weights], lr=learning_rate, betas=(0.9, 0.99))
    n, generator = len(targets), np.random.default_rng(seed)
    size = min(BATCH, n)
    total = epochs * (n // size)
    scale = float(np.square(targets).sum(axis=1).mean()) or 1.0
    with progress(total, "Training", "steps", show_progress) as bar:
        for step in range(total):
            if step % (n // size) == 0:
                order = generator.permutation(n)
            start = step % (n // size) * size
            rows = np.sort(order[start : start + size])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1 - step / total)
            loss = _loss(weights, bags.rows(rows), torch.from_numpy(targets[rows]), unit, scale)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
            optimizer.step()
            bar.update(1)
    found: NDArray[np.float32] = table.copy()
    found[active] = weights.detach().numpy()
    return found


def _loss(weights: Tensor, bags: Bags, targets: Tensor, unit: bool, scale: float) -> Tensor:
    tokens, starts = torch.from_numpy(bags.tokens), torch.from_numpy(bags.starts[:-1])
    vectors = F.embedding_bag(tokens, weights, starts, mode="mean")
    direction, wanted = F.normalize(vectors, dim=1), F.normalize(targets, dim=1)
    distance = (direction if unit else vectors) - targets
    similarities = direction @ wanted.T / TEMPERATURE
    true = wanted @ wanted.T / TEMPERATURE
    divergence = F.kl_div(
        similarities.log_softmax(dim=1),
        true.log_softmax(dim=1),
        log_target=True,
        reduction="batchmean",
    )
    return distance.square().sum(dim=1).mean() / (2 * scale) + divergence
