"""A new head to begin fine-tuning with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from csr_st.attaching import attach
from csr_st.config import TrainConfig
from csr_st.head import SparseCSRHead


def attach_new_head(
    model: SentenceTransformer,
    sample: Sequence[Any],
    config: TrainConfig | None = None,
    *,
    batch_size: int = 32,
) -> SentenceTransformer:
    """A model with an untrained head that starts as `csr_st.train` starts one.

    Args:
        model: The backbone; best one whose vectors have unit length, which learning rates are for.
        sample: Inputs whose mean vector the head subtracts; a thousand are plenty.
        config: Settings; ``hidden_dim``, ``k``, ``tied`` and ``seed`` are used.
        batch_size: Inputs that the backbone takes at once.

    Returns:
        What `csr_st.attach` gives.

    Raises:
        ValueError: If the sample is empty, or the model has a head already.
    """
    if len(sample) == 0:
        raise ValueError("the sample is empty; pass at least one input, better 1,000")
    config = config or TrainConfig()
    vectors = model.encode(list(sample), batch_size=batch_size, show_progress_bar=False)
    mean = np.asarray(vectors, np.float32).mean(axis=0)
    hidden_dim = config.hidden_dim or 4 * len(mean)
    head = SparseCSRHead(
        len(mean), hidden_dim, min(config.k, hidden_dim), tied=config.tied, power=config.power
    )
    head.reset_parameters(torch.Generator().manual_seed(config.seed))
    with torch.no_grad():
        head.pre_bias.copy_(torch.from_numpy(mean))
    return attach(model, head)
