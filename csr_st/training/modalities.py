"""One head for two modalities: trained on pairs, with one latent space and a mean for each side.

`csr_st.train` runs on the vectors of both sides, each shifted to a common mean, with pairs that are
contrasted both ways and share their support. The shifts become the head's ``modality_bias``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from csr_st.config import NestedConfig, TrainConfig
from csr_st.embeddings import EmbeddingStore
from csr_st.embeddings.joining import joined
from csr_st.training.head_copy import changed
from csr_st.training.loop import TrainResult, train
from csr_st.training.setup import refuse_recipe_of_tokens


def __getattr__(name: str) -> Any:
    if name in ("SideReport", "evaluate_pairs", "shift_of"):  # beside train_pairs in version 0.1
        from csr_st.evaluation import cross_modal

        return getattr(cross_modal, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train_pairs(
    sides: Mapping[str, EmbeddingStore], config: TrainConfig | None = None, **options: Any
) -> TrainResult:
    """Train one head for two modalities on the vectors of pairs.

    Args:
        sides: Two stores by the name of their modality, as sentence-transformers calls it ("text",
            "image"); row i of one is the partner of row i of the other.
        config: Settings; the default recipe with ``support_weight=0.5`` when None.
        options: Further arguments of `csr_st.train`.

    Returns:
        The head, with ``modalities`` and each one's mean, and its history.

    Raises:
        TypeError: If the recipe is of tokens.
        ValueError: If there are not two sides of equal length and width; else as `csr_st.train`.
    """
    refuse_recipe_of_tokens(config)
    store, shifts = joined(list(sides.values()))
    default = NestedConfig(support_weight=NestedConfig.two_modality_support)
    result = train(store, config or default, **options)
    settings, weights = {"modalities": list(sides)}, {"modality_bias": torch.from_numpy(shifts)}
    last = None if result.last is None else changed(result.last, settings, weights)
    return replace(result, head=changed(result.head, settings, weights), last=last)
