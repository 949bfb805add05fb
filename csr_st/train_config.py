"""Settings of training that all recipes share, and how a setting of any recipe is checked.

`csr_st.config` has the recipes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from csr_st.model import settings
from csr_st.model.settings import above_zero, exponent, integer, number, one_of, width

if TYPE_CHECKING:
    from typing_extensions import Self

MIN_STEPS, MAX_STEPS, EPOCHS = 300, 10_000, 40
SCHEDULES, PRECISIONS = ("cosine", "constant"), ("fp32", "bf16")
# Settings that version 0.1 did not have. They take effect before the first step or after the last:
# any value continues it.
ADDED = ("debias", "pursuit_rounds", "cluster_rounds", "query_multiple", "text_share")
# Options that version 0.1 had and checkpoints of it name, with their defaults.
REMOVED = {"ema": 0.0, "anchors": 1.0, "accumulate": 1, "compile": False, "wide_weight": 0.125}


def setting(
    default: Any, help: str, check: Callable[..., Any], optional: bool = False, **bounds: Any
) -> Any:
    """A field with its default, its help, and ``check(name, value, **bounds)`` of its values."""
    about = {"help": help, "check": partial(check, **bounds)}
    return field(default=default, metadata={**about, "optional": optional or default is None})


def preset(name: str, default: Any, base: type[TrainConfig] | None = None) -> Any:
    """A setting of a base, `TrainConfig` when None, with another default."""
    shared = (base or TrainConfig).__dataclass_fields__[name]
    return field(default=default, metadata=shared.metadata)


def named(recipe: str) -> Any:
    """The field with the name of a recipe."""
    return field(init=False, default=recipe, metadata={"help": "name of the recipe"})


def distinct_ks(name: str, values: Any, least: int = 0) -> tuple[int, ...]:
    """Numbers of active latents, rising; at least ``least`` of them."""
    ks = tuple(sorted({integer(name, k) for k in values}))
    if len(ks) < least:
        raise ValueError(f"{name}={ks} must name at least one k")
    return ks


class DecoderFit(NamedTuple):
    """How the decoder is fitted once the encoder is trained.

    Attributes:
        iterations: Conjugate-gradient steps on codes of the encoder.
        pursuit_rounds: Rounds on codes by pursuit.
        short_ks: The k that get a map.
    """

    iterations: int = 0
    pursuit_rounds: int = 0
    short_ks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that all recipes share. `recipe` makes the settings of a recipe by its name.

    Raises:
        ValueError: If a value is out of bounds.
        TypeError: If a number that must be an integer is not, or for this base class itself.
    """

    recipe: str = named("")
    k: int = setting(32, "active latents: the head's default, and the one k of csr", width)
    ks: tuple[int, ...] = setting(
        (2, 4, 8, 16, 32, 64),
        "the ks that nested trains and validation measures",
        distinct_ks,
        least=1,
    )
    hidden_dim: int | None = setting(
        None,
        "latents; by default 8 * input_dim, or 4 * input_dim if there are fewer vectors",
        width,
    )
    tied: bool = setting(True, "decode with the encoder's rows", settings.flag)
    debias: bool = setting(False, "decode with debiased coefficients", settings.flag)
    cluster_rounds: int = setting(
        0,
        "rounds of k-means whose centroids latents start from, without labels and pairs; 0 for "
        "random ones",
        integer,
        low=0,
    )
    power: float = setting(0.5, "what code values are raised to; see SparseCSRHead", exponent)
    steps: int | None = setting(
        None,
        f"optimiser steps; by default {EPOCHS} epochs, but within {MIN_STEPS}..{MAX_STEPS} steps",
        integer,
    )
    batch_size: int = setting(512, "vectors per step, over all processes", integer)
    learning_rate: float = setting(3e-3, "peak learning rate", above_zero)
    warmup: float = setting(0.05, "fraction of the steps with a rising rate", number, high=1)
    schedule: str = setting("cosine", "the rate after warm-up", one_of, choices=SCHEDULES)
    gradient_clip: float = setting(1.0, "largest norm of the gradient; 0 for none", number)
    seed: int = setting(0, "seed of weights, order and noise", integer, low=0, high=2**32 - 1)
    precision: str = setting("fp32", "type of the matrix products", one_of, choices=PRECISIONS)
    reconstruction_weight: float = setting(1.0, "weight of reconstruction", number)
    aux_weight: float = setting(1 / 32, "weight of AuxK: dead latents fit the residual", number)
    k_aux: int = setting(512, "dead latents that AuxK uses for each item", integer)
    dead_after_examples: int = setting(
        10_000, "vectors without activating a latent at k after which it counts as dead", integer
    )
    contrastive_weight: float = setting(0.1, "weight of contrast against the batch", number)
    temperature: float = setting(
        0.05, "what cosines of codes are divided by; nested starts there and learns it", above_zero
    )
    supervised_weight: float = setting(3.0, "weight of contrast by labels, if any", number)
    supervised_temperature: float = setting(0.1, "as temperature, by labels", above_zero)
    pair_weight: float = setting(1.0, "weight of contrast of positive pairs, if any", number)
    score_weight: float = setting(0.1, "weight of the order of pairs with scores, if any", number)
    support_weight: float = setting(
        0.0, "weight of each half of a pair reconstructed from the other's latents", number
    )
    evaluate_every: int = setting(100, "steps between measurements of the validation set", integer)
    patience: int = setting(
        0, "stop after this many measurements without improvement; 0 for never", integer, low=0
    )

    unit_decoder_rows: ClassVar[bool] = False  # whether rows of an untied decoder stay at norm 1
    scales_vectors: ClassVar[bool] = False  # whether vectors are divided by their mean norm
    signed_aux: ClassVar[bool] = False  # whether AuxK reaches latents that are negative everywhere
    uses_truth: ClassVar[bool] = True  # whether labels and pairs have terms in the loss
    anneals_k: ClassVar[bool] = False
    two_modality_support: ClassVar[float] = 0.0  # support_weight of workflow for two modalities
    weight_decay: ClassVar[float] = 0.0  # L2, as Adam has it
    adam_epsilon: ClassVar[float] = 1e-8
    epochs: ClassVar[int] = EPOCHS  # and most steps, where none are given
    max_steps: ClassVar[int] = MAX_STEPS

    def __post_init__(self) -> None:
        if type(self) is TrainConfig:
            raise TypeError("TrainConfig is the base of all recipes; call csr_st.recipe('nested')")
        for each in dataclasses.fields(self):
            check, value = each.metadata.get("check"), getattr(self, each.name)
            if check is not None and not (value is None and each.metadata["optional"]):
                object.__setattr__(self, each.name, check(each.name, value))
        integer("k", self.k, 1, self.hidden_dim or settings.MAX_HIDDEN_DIM, "hidden_dim=")

    @property
    def weight_of_labels(self) -> float:
        """The weight of supervised contrast in this recipe."""
        return self.supervised_weight if self.uses_truth else 0.0

    def weight_of_pairs(self, scored: bool) -> float:
        """The weight of positive pairs, or of pairs with scores, in this recipe."""
        if not self.uses_truth:
            return 0.0
        return self.score_weight if scored else self.pair_weight

    @property
    def learns_logit_scale(self) -> bool:
        """Whether what similarities are multiplied by is learnt."""
        return False

    @property
    def decoder_fit(self) -> DecoderFit:
        """How the decoder is fitted after training."""
        return DecoderFit()

    def k_at(self, step: int) -> int:
        """The k that is trained at a step, from 0."""
        del step
        return self.k

    def fitted(self, n: int, **sizes: Any) -> Self:
        """The settings with sizes that were fitted to n vectors."""
        del n
        return dataclasses.replace(self, **sizes)
