"""The recipes of training: one class of settings each, over the base `TrainConfig`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from csr_st.model.settings import above_zero, integer, number, one_of, width
from csr_st.model.token_pooling import POOLINGS
from csr_st.train_config import (
    ADDED,
    EPOCHS,
    MIN_STEPS,
    REMOVED,
    DecoderFit,
    TrainConfig,
    distinct_ks,
    named,
    preset,
    setting,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ADDED",
    "CITATION",
    "CONFIGS",
    "EPOCHS",
    "MIN_STEPS",
    "RECIPES",
    "REMOVED",
    "CSRConfig",
    "CSRv2Config",
    "DecoderFit",
    "GeneralConfig",
    "NestedConfig",
    "TokenConfig",
    "TrainConfig",
    "recipe",
]

FLOOR = 0.05  # of unexplained variance, where there is one latent per vector


@dataclass(frozen=True, kw_only=True)
class NestedConfig(TrainConfig):
    """One head for every k in ``ks``: the default recipe.

    tests/benchmarks/README.md describes its terms and measures what some of them contribute.
    """

    recipe: str = named("nested")
    debias: bool = preset("debias", True)
    cluster_rounds: int = preset("cluster_rounds", 6)
    curriculum: float = setting(
        0.0, "weights of k in reconstruction go from k^-curriculum to equal ones", number, high=10
    )
    fvu_floor: float | None = setting(
        None,
        "floor in ln(fvu + floor), which prevents overfitting on small data sets; by default "
        f"{FLOOR} * hidden_dim / vectors",
        number,
    )
    noise: float = setting(
        1.0, "largest noise of the noisy views, in differences between random items", number
    )
    query_multiple: int = setting(
        1,
        "active latents of a noisy view, the stand-in for a query, per latent of its item",
        integer,
    )
    distillation_weight: float = setting(0.25, "weight of dense similarities", number)
    distillation_temperature: float = setting(
        0.4, "what standardised dense similarities are divided by", above_zero
    )
    refit: int = setting(
        30, "conjugate-gradient steps for the decoder at the end; 0 for none", integer, low=0
    )
    pursuit_rounds: int = setting(
        2, "rounds that fit the decoder to codes by pursuit at the end; 0 for none", integer, low=0
    )
    short_ks: tuple[int, ...] = setting(
        (2, 4, 8), "active latents up to which codes are decoded through maps", distinct_ks
    )

    unit_decoder_rows: ClassVar[bool] = True  # arXiv 2406.04093 appendix A.3; CSR drops it
    scales_vectors: ClassVar[bool] = True  # the loss of the paper is of raw vectors
    signed_aux: ClassVar[bool] = True
    two_modality_support: ClassVar[float] = 0.5

    @property
    def learns_logit_scale(self) -> bool:
        """Whether the loss has a contrastive or a distillation term, which use the scale."""
        return self.contrastive_weight > 0 or self.distillation_weight > 0

    @property
    def decoder_fit(self) -> DecoderFit:
        """How the decoder is fitted after training, from ``refit`` and the settings after it."""
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
    """The nested recipe for heads that will encode other texts than those they are trained on.

    Reconstruction transfers best to new texts and distillation worst, so distillation has a smaller
    weight. Queries are trained with four times the latents of documents, as searches use them.
    Train on as many and as varied texts as you have. More latents do not help: with
    32 * input_dim, a text and its neighbours share fewer of them.
    """

    recipe: str = named("general")
    query_multiple: int = preset("query_multiple", 4, NestedConfig)
    distillation_weight: float = preset("distillation_weight", 0.06, NestedConfig)


@dataclass(frozen=True, kw_only=True)
class TokenConfig(NestedConfig):
    """For token-level heads, see `csr_st.train_tokens`: the vectors of tokens are reconstructed.

    Without contrast and distillation: tokens of one text would be each other's false negatives, and
    their similarities are not those of texts. A token is rebuilt from twice as many latents as its
    text's code takes: the weaker half explains the vector, and tells texts apart badly.
    """

    recipe: str = named("token")
    k: int = preset("k", 128)
    query_k: int | None = setting(64, "active latents of a query", width, optional=True)
    k_token: int = setting(8, "active latents of a token", width)
    ks: tuple[int, ...] = field(
        init=False, default=(16,), metadata={"help": "twice k_token, which alone is trained"}
    )
    pooling: str = setting("sum", "how a text's tokens are pooled", one_of, choices=POOLINGS)
    text_share: float = setting(
        1 / 16,
        "their mean vector counts as this share of them where they are summed",
        number,
        high=1,
    )
    hidden_dim: int | None = preset("hidden_dim", 4096)
    batch_size: int = preset("batch_size", 2048)
    learning_rate: float = preset("learning_rate", 1e-3)
    power: float = preset("power", 1.0)
    dead_after_examples: int = preset("dead_after_examples", 100_000)
    contrastive_weight: float = preset("contrastive_weight", 0.0)
    distillation_weight: float = preset("distillation_weight", 0.0, NestedConfig)
    debias: bool = preset("debias", False)
    cluster_rounds: int = preset("cluster_rounds", 0)
    refit: int = preset("refit", 0, NestedConfig)
    pursuit_rounds: int = preset("pursuit_rounds", 0, NestedConfig)
    short_ks: tuple[int, ...] = preset("short_ks", (), NestedConfig)

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

    recipe: str = named("csr")
    power: float = preset("power", 1.0)
    contrastive_weight: float = preset("contrastive_weight", 0.03)
    temperature: float = preset("temperature", 0.2)
    score_weight: float = preset("score_weight", 1.0)
    learning_rate: float = preset("learning_rate", 4e-4)
    schedule: str = preset("schedule", "constant")
    warmup: float = preset("warmup", 0.0)
    gradient_clip: float = preset("gradient_clip", 0.0)

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

    recipe: str = named("csrv2")
    supervised_temperature: float = preset("supervised_temperature", 0.2)
    supervised_weight: float = preset("supervised_weight", 1.0)
    aux_weight: float = preset("aux_weight", 0.1)
    k_aux: int = preset("k_aux", 1024)
    initial_k: int = setting(64, "k from which csrv2 anneals to k", integer)
    anneal: float = setting(0.7, "fraction of the steps with an annealed k", number, high=1)

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
