"""Settings of training: a base with what all recipes share, and one class per recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from csr_st.model import settings
from csr_st.model.settings import above_zero, exponent, integer, number, one_of, width
from csr_st.model.token_pooling import POOLINGS

if TYPE_CHECKING:
    from typing_extensions import Self

MIN_STEPS, MAX_STEPS, EPOCHS = 300, 10_000, 40
SCHEDULES, PRECISIONS = ("cosine", "constant"), ("fp32", "bf16")
FLOOR = 0.05  # of unexplained variance, where there is one latent per vector
# Settings that version 0.1 did not have. They take effect before the first step or after the last:
# any value continues it.
ADDED = ("debias", "pursuit_rounds", "cluster_rounds", "query_multiple", "text_share")
# Options that version 0.1 had and checkpoints of it name, with their defaults.
REMOVED = {"ema": 0.0, "anchors": 1.0, "accumulate": 1, "compile": False, "wide_weight": 0.125}


def _setting(
    default: Any, help: str, check: Callable[..., Any], optional: bool = False, **bounds: Any
) -> Any:
    about = {"help": help, "check": partial(check, **bounds)}
    return field(default=default, metadata={**about, "optional": optional or default is None})


def _preset(name: str, default: Any, base: type[TrainConfig] | None = None) -> Any:
    """A setting of a base, `TrainConfig` when None, with another default."""
    shared = (base or TrainConfig).__dataclass_fields__[name]
    return field(default=default, metadata=shared.metadata)


def _named(recipe: str) -> Any:
    return field(init=False, default=recipe, metadata={"help": "name of the recipe"})


def _distinct_ks(name: str, values: Any, least: int = 0) -> tuple[int, ...]:
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

    recipe: str = _named("")
    k: int = _setting(32, "active latents: the head's default, and the one k of csr", width)
    ks: tuple[int, ...] = _setting(
        (2, 4, 8, 16, 32, 64), "active latents of nested and of validation", _distinct_ks, least=1
    )
    hidden_dim: int | None = _setting(
        None, "latents; by default 8 * input_dim, or 4 * with fewer vectors than that", width
    )
    tied: bool = _setting(True, "decode with the encoder's rows", settings.flag)
    debias: bool = _setting(False, "decode with debiased coefficients", settings.flag)
    cluster_rounds: int = _setting(
        0,
        "rounds of k-means whose centroids latents start from, without labels and pairs; 0 for "
        "random ones",
        integer,
        low=0,
    )
    power: float = _setting(0.5, "what code values are raised to; see SparseCSRHead", exponent)
    steps: int | None = _setting(
        None, f"optimiser steps; by default {EPOCHS} epochs in {MIN_STEPS}..{MAX_STEPS}", integer
    )
    batch_size: int = _setting(512, "vectors per step, over all processes", integer)
    learning_rate: float = _setting(3e-3, "peak learning rate", above_zero)
    warmup: float = _setting(0.05, "fraction of the steps with a rising rate", number, high=1)
    schedule: str = _setting("cosine", "the rate after warm-up", one_of, choices=SCHEDULES)
    gradient_clip: float = _setting(1.0, "largest norm of the gradient; 0 for none", number)
    seed: int = _setting(0, "seed of weights, order and noise", integer, low=0, high=2**32 - 1)
    precision: str = _setting("fp32", "type of the matrix products", one_of, choices=PRECISIONS)
    reconstruction_weight: float = _setting(1.0, "weight of reconstruction", number)
    aux_weight: float = _setting(1 / 32, "weight of AuxK: dead latents fit the residual", number)
    k_aux: int = _setting(512, "dead latents that AuxK uses for each item", integer)
    dead_after_examples: int = _setting(
        10_000, "vectors without activating a latent at k after which it counts as dead", integer
    )
    contrastive_weight: float = _setting(0.1, "weight of contrast against the batch", number)
    temperature: float = _setting(
        0.05, "what cosines of codes are divided by; nested starts there and learns it", above_zero
    )
    supervised_weight: float = _setting(3.0, "weight of contrast by labels, if any", number)
    supervised_temperature: float = _setting(0.1, "as temperature, by labels", above_zero)
    pair_weight: float = _setting(1.0, "weight of contrast of positive pairs, if any", number)
    score_weight: float = _setting(0.1, "weight of the order of pairs with scores, if any", number)
    support_weight: float = _setting(
        0.0, "weight of each half of a pair reconstructed from the other's latents", number
    )
    evaluate_every: int = _setting(100, "steps between measurements of the validation set", integer)
    patience: int = _setting(
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
        for setting in dataclasses.fields(self):
            check, value = setting.metadata.get("check"), getattr(self, setting.name)
            if check is not None and not (value is None and setting.metadata["optional"]):
                object.__setattr__(self, setting.name, check(setting.name, value))
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


@dataclass(frozen=True, kw_only=True)
class NestedConfig(TrainConfig):
    """One head for every k in ``ks``, the default recipe. Chosen by ablation, see the README."""

    recipe: str = _named("nested")
    debias: bool = _preset("debias", True)
    cluster_rounds: int = _preset("cluster_rounds", 6)
    curriculum: float = _setting(
        0.0, "weights of k in reconstruction go from k^-curriculum to equal ones", number, high=10
    )
    fvu_floor: float | None = _setting(
        None,
        "floor in ln(fvu + floor), which prevents overfitting on small data sets; by default "
        f"{FLOOR} * hidden_dim / vectors",
        number,
    )
    noise: float = _setting(
        1.0, "largest noise of the noisy views, in differences between random items", number
    )
    query_multiple: int = _setting(
        1, "noisy views, which stand for queries, have so many times the items' latents", integer
    )
    distillation_weight: float = _setting(0.25, "weight of dense similarities", number)
    distillation_temperature: float = _setting(
        0.4, "what standardised dense similarities are divided by", above_zero
    )
    refit: int = _setting(
        30, "conjugate-gradient steps for the decoder at the end; 0 for none", integer, low=0
    )
    pursuit_rounds: int = _setting(
        2, "rounds that fit the decoder to codes by pursuit at the end; 0 for none", integer, low=0
    )
    short_ks: tuple[int, ...] = _setting(
        (2, 4, 8), "active latents up to which codes are decoded through maps", _distinct_ks
    )

    unit_decoder_rows: ClassVar[bool] = True  # arXiv 2406.04093 appendix A.3; CSR drops it
    scales_vectors: ClassVar[bool] = True  # the loss of the paper is of raw vectors
    signed_aux: ClassVar[bool] = True
    two_modality_support: ClassVar[float] = 0.5

    @property
    def learns_logit_scale(self) -> bool:
        """Whether anything is compared: contrast or distillation."""
        return self.contrastive_weight > 0 or self.distillation_weight > 0

    @property
    def decoder_fit(self) -> DecoderFit:
        """What the settings say."""
        return DecoderFit(self.refit, self.pursuit_rounds, self.short_ks)

    def fitted(self, n: int, **sizes: Any) -> Self:
        """The settings with sizes that were fitted to n vectors, and an ``fvu_floor``."""
        filled = super().fitted(n, **sizes)
        if filled.fvu_floor is not None:
            return filled
        # The more latents there are per vector, the sooner a head overfits.
        return dataclasses.replace(filled, fvu_floor=FLOOR * (filled.hidden_dim or 0) / n)


@dataclass(frozen=True, kw_only=True)
class GeneralConfig(NestedConfig):
    """For heads that are used on other texts than they were trained on: nested, with changes.

    What a head learns of its own training vectors is of no use there. So reconstruction, which
    carries over best, has more weight beside distillation, which does worst, and queries are
    trained to find documents with four times their latents, as they are searched with. Give it as
    many and as varied texts as you can. More latents than usual do not help: with 32 * input_dim
    a text's neighbours share fewer of them.
    """

    recipe: str = _named("general")
    query_multiple: int = _preset("query_multiple", 4, NestedConfig)
    distillation_weight: float = _preset("distillation_weight", 0.06, NestedConfig)


@dataclass(frozen=True, kw_only=True)
class TokenConfig(NestedConfig):
    """For token-level heads, see `csr_st.train_tokens`: the vectors of tokens are reconstructed.

    Without contrast and distillation: tokens of one text would be each other's false negatives, and
    their similarities are not those of texts. A token is rebuilt from twice as many latents as its
    text's code takes: the weaker half explains the vector, and tells texts apart badly.
    """

    recipe: str = _named("token")
    k: int = _preset("k", 128)
    query_k: int | None = _setting(64, "active latents of a query", width, optional=True)
    k_token: int = _setting(8, "active latents of a token", width)
    ks: tuple[int, ...] = field(
        init=False, default=(16,), metadata={"help": "twice k_token, which alone is trained"}
    )
    pooling: str = _setting("sum", "how a text's tokens are pooled", one_of, choices=POOLINGS)
    text_share: float = _setting(
        1 / 16,
        "their mean vector counts as this share of them where they are summed",
        number,
        high=1,
    )
    hidden_dim: int | None = _preset("hidden_dim", 4096)
    batch_size: int = _preset("batch_size", 2048)
    learning_rate: float = _preset("learning_rate", 1e-3)
    power: float = _preset("power", 1.0)
    dead_after_examples: int = _preset("dead_after_examples", 100_000)
    contrastive_weight: float = _preset("contrastive_weight", 0.0)
    distillation_weight: float = _preset("distillation_weight", 0.0, NestedConfig)
    debias: bool = _preset("debias", False)
    cluster_rounds: int = _preset("cluster_rounds", 0)
    refit: int = _preset("refit", 0, NestedConfig)
    pursuit_rounds: int = _preset("pursuit_rounds", 0, NestedConfig)
    short_ks: tuple[int, ...] = _preset("short_ks", (), NestedConfig)

    uses_truth: ClassVar[bool] = False
    epochs: ClassVar[int] = 20
    max_steps: ClassVar[int] = 5_000

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = "debias", "short_ks", "refit", "pursuit_rounds"  # as `SparseCSRHead` has none
        found = [name for name in parts if getattr(self, name)] + ["power"] * (self.power != 1)
        if found:
            raise ValueError(
                f"{', '.join(found)}: recipe 'token' has none, they belong to a pooled vector; "
                "leave them out"
            )
        object.__setattr__(self, "ks", (2 * self.k_token,))


@dataclass(frozen=True, kw_only=True)
class CSRConfig(TrainConfig):
    """arXiv 2503.01776: L(k) + L(4k)/8 + AuxK/32 + γ L_cl, its equations 4 to 7, at one k.

    k_aux 512, tied weights, Adam and squared errors summed over d. L_cl takes cosines at
    temperature 0.2, as the authors' code does; γ is 0.03, as raw products at the paper's γ = 1
    outweigh the reconstruction of unit vectors and leave most latents dead. Learning rate 4e-4 is
    the code's; the paper's 4e-5 needs far more steps.
    """

    recipe: str = _named("csr")
    power: float = _preset("power", 1.0)
    contrastive_weight: float = _preset("contrastive_weight", 0.03)
    temperature: float = _preset("temperature", 0.2)
    score_weight: float = _preset("score_weight", 1.0)
    learning_rate: float = _preset("learning_rate", 4e-4)
    schedule: str = _preset("schedule", "constant")
    warmup: float = _preset("warmup", 0.0)
    gradient_clip: float = _preset("gradient_clip", 0.0)

    uses_truth: ClassVar[bool] = False
    weight_decay: ClassVar[float] = 1e-4
    adam_epsilon: ClassVar[float] = 6.25e-10


@dataclass(frozen=True, kw_only=True)
class CSRv2Config(CSRConfig):
    """arXiv 2602.05735 on a frozen backbone: csr, with k annealed from 64 over 70% of the steps.

    Where there are labels, supervised contrast (cosine, temperature 0.2) replaces L_cl; positives
    are averaged outside the log. Its weight is 1, where the code's 0.1 goes with errors d times
    smaller, and its learning rate that of csr, not 1e-4.
    """

    recipe: str = _named("csrv2")
    supervised_temperature: float = _preset("supervised_temperature", 0.2)
    supervised_weight: float = _preset("supervised_weight", 1.0)
    aux_weight: float = _preset("aux_weight", 0.1)
    k_aux: int = _preset("k_aux", 1024)
    initial_k: int = _setting(64, "k from which csrv2 anneals to k", integer)
    anneal: float = _setting(0.7, "fraction of the steps with an annealed k", number, high=1)

    uses_truth: ClassVar[bool] = True
    anneals_k: ClassVar[bool] = True

    def k_at(self, step: int) -> int:
        """Linear from ``initial_k`` to ``k`` over the first ``anneal`` of the steps."""
        span = max(1, round(self.anneal * (self.steps or 1)))
        start = max(self.initial_k, self.k)
        return max(self.k, round(start + (self.k - start) * min(step / span, 1)))


CONFIGS: dict[str, type[TrainConfig]] = {
    "nested": NestedConfig,
    "general": GeneralConfig,
    "token": TokenConfig,
    "csr": CSRConfig,
    "csrv2": CSRv2Config,
}
RECIPES = tuple(CONFIGS)


CITATION = """
@inproceedings{wen2025matryoshkarevisitingsparsecoding,
    title={Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation},
    author={Tiansheng Wen and Yifei Wang and Zequn Zeng and Zhong Peng and Yudi Su and Xinyang Liu
        and Bo Chen and Hongwei Liu and Stefanie Jegelka and Chenyu You},
    booktitle={International Conference on Machine Learning},
    year={2025},
    eprint={2503.01776},
    archivePrefix={arXiv},
}
"""
"""BibTeX of the CSR paper."""


def recipe(name: str = "nested", **overrides: Any) -> TrainConfig:
    """The settings of a recipe, with settings of your own over its defaults.

    Args:
        name: One of `RECIPES`; their classes name sources and deviations.
        overrides: Fields of the recipe's class.

    Raises:
        ValueError: If the name or a value is not valid.
        TypeError: If the recipe does not have a setting, or a value has the wrong type.
    """
    if name not in CONFIGS:
        raise ValueError(f"recipe {name!r} is not one of {RECIPES}")
    known = [setting.name for setting in dataclasses.fields(CONFIGS[name]) if setting.init]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise TypeError(f"recipe {name!r} has no setting {unknown}; it has {', '.join(known)}")
    return CONFIGS[name](**overrides)
