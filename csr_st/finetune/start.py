"""A model with an untrained head, to start fine-tuning with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from csr_st.attaching import attach
from csr_st.config import TokenConfig, TrainConfig, recipe
from csr_st.training.setup import new_head


def attach_new_head(
    model: SentenceTransformer,
    sample: Sequence[Any],
    config: TrainConfig | None = None,
    *,
    batch_size: int = 32,
) -> SentenceTransformer:
    """A model with an untrained head that starts as `csr_st.train` starts one.

    Args:
        model: The backbone; learning rates suit one whose vectors have unit length.
        sample: Inputs whose mean vector the head subtracts; a thousand are enough.
        config: Settings; ``hidden_dim``, ``k``, ``tied``, ``power`` and ``seed`` are used. Without
            ``hidden_dim`` there are 8 * width latents, or 4 * with fewer inputs than that.
        batch_size: Inputs that the backbone takes at once.

    Returns:
        What `csr_st.attach` gives.

    Raises:
        ValueError: If the sample is empty, the model has a head already, or the configuration is
            for tokens.
    """
    if isinstance(config, TokenConfig):
        raise ValueError(
            "recipe 'token': begin with the head that csr_st.train_tokens makes from texts, which "
            "has the weights of its latents; csr_st.attach puts it onto the model"
        )
    if len(sample) == 0:
        raise ValueError("the sample is empty; pass at least one input, better 1,000")
    vectors = model.encode(list(sample), batch_size=batch_size, show_progress_bar=False)
    mean = torch.from_numpy(np.asarray(vectors, np.float32).mean(axis=0))
    return attach(model, new_head(config or recipe(), mean, len(sample)))
