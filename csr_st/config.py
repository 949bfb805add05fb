"""How a head is trained: one frozen dataclass, and the recipes that fill it."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from dataclasses import dataclass, field
from typing import Any, Literal

from csr_st.model.settings import MAX_HIDDEN_DIM

RECIPES = ("nested", "csr", "csrv2")
CHOICES = {"recipe": RECIPES, "schedule": ("cosine", "constant"), "precision": ("fp32", "bf16")}
COUNTS = ("evaluate_every", "patience", "accumulate")
MIN_STEPS, MAX_STEPS, EPOCHS = 300, 10_000, 40
FLOOR = 0.05  # of unexplained variance, where there is a latent a vector


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; `recipe` gives the named ones.

    Raises:
        ValueError: If a value is out of bounds.
        TypeError: If a number that must be whole is not.
    """

    recipe: Literal["nested", "csr", "csrv2"] = _setting(
        "nested", "objective: nested (all k at once), csr (the paper's) or csrv2"
    )
    k: int = _setting(32, "active latents: the head's default, and the one k that csr trains")
    ks: tuple[int, ...] = _setting((2, 4, 8, 16, 32, 64), "active latents that nested trains for")
    hidden_dim: int | None = _setting(
        None, "latents; when not given 8 * input_dim, or 4 * with fewer vectors than that"
    )
    tied: bool = _setting(True, "decode with the encoder's rows")
    power: float = _setting(0.5, "what code values are raised to; see SparseCSRHead")
    steps: int | None = _setting(
        None, f"optimiser steps; when not given {EPOCHS} epochs, {MIN_STEPS} to {MAX_STEPS} steps"
    )
    batch_size: int = _setting(512, "vectors a step, over all processes")
    learning_rate: float = _setting(3e-3, "peak learning rate")
    warmup: float = _setting(0.05, "fraction of the steps over which the rate rises")
    schedule: Literal["cosine", "constant"] = _setting("cosine", "what the rate does after warm-up")
    weight_decay: float = _setting(0.0, "decoupled (AdamW) for nested, L2 (Adam) for csr, csrv2")
    adam_epsilon: float = _setting(1e-8, "epsilon of Adam")
    gradient_clip: float = _setting(1.0, "largest norm of the gradient; 0 for none")
    ema: float = _setting(0.0, "decay a step of the averaged weights that are kept; 0 for none")
    seed: int = _setting(0, "seed of initial weights, order and noise")
    precision: Literal["fp32", "bf16"] = _setting("fp32", "arithmetic of the matrix products")
    reconstruction_weight: float = _setting(1.0, "weight of reconstruction")
    curriculum: float = _setting(
        0.0,
        "how far nested begins with the small k: in reconstruction k counts k^-curriculum at the "
        "first step and all count alike at the last",
    )
    fvu_floor: float | None = _setting(
        None,
        "unexplained variance below which less of it counts little, as ln(fvu + floor); when not "
        f"given {FLOOR} * hidden_dim / vectors, so that few are not learnt by heart",
    )
    wide_weight: float = _setting(0.125, "weight of reconstruction at 4k in csr and csrv2")
    aux_weight: float = _setting(1 / 32, "weight of AuxK, the dead latents' share")
    k_aux: int = _setting(512, "dead latents that AuxK uses for each item")
    dead_after_examples: int = _setting(
        10_000, "vectors without activating a latent at k after which it counts as dead"
    )
    contrastive_weight: float = _setting(0.1, "weight of contrast against the batch")
    temperature: float = _setting(
        0.05, "what cosines of codes are divided by; learnt from there in nested"
    )
    noise: float = _setting(
        1.0, "largest noise on the contrasted copy, in differences between random items"
    )
    anchors: float = _setting(
        1.0, "share of a batch that contrast and distillation compare with all of it"
    )
    distillation_weight: float = _setting(0.25, "weight of the dense similarities of the batch")
    distillation_temperature: float = _setting(
        0.4, "what dense similarities are divided by in distillation, in standard deviations"
    )
    supervised_weight: float = _setting(3.0, "weight of labels, where the data has them")
    supervised_temperature: float = _setting(0.1, "what cosines are divided by with labels")
    pair_weight: float = _setting(1.0, "weight of positive pairs, where the data has them")
    score_weight: float = _setting(0.1, "weight of pairs with scores, where the data has them")
    support_weight: float = _setting(
        0.0, "weight of shared support: each half of a pair rebuilt from the other's latents"
    )
    refit: int = _setting(
        30, "steps of conjugate gradients that fit nested's decoder in the end; 0 for none"
    )
    short_ks: tuple[int, ...] = _setting(
        (2, 4, 8), "active latents up to which nested's codes are decoded through maps; () for none"
    )
    evaluate_every: int = _setting(100, "steps between measurements of held-out vectors")
    patience: int = _setting(
        0, "measurements of held-out vectors without a better one that end training; 0 for never"
    )
    accumulate: int = _setting(
        1, "parts that a batch is computed in, one after another, to need less memory"
    )
    compile: bool = _setting(False, "compile the loss with torch.compile")
    initial_k: int = _setting(64, "k from which csrv2 anneals to k")
    anneal: float = _setting(0.7, "fraction of the steps over which csrv2 anneals")

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {choices}")
        if not isinstance(self.compile, bool):
            raise TypeError(f"compile={self.compile!r} must be True or False")
        self._make_whole()
        for name in ("ks", "short_ks"):
            object.__setattr__(self, name, tuple(sorted({int(k) for k in getattr(self, name)})))
        if not self.ks or min(self.ks + self.short_ks) < 1:
            raise ValueError(
                f"ks={self.ks} must name at least one k, and each of them and of "
                f"short_ks={self.short_ks} must be 1 or more"
            )
        for name, (low, high) in self._bounds().items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}={value} must be within {low}..{high}")
        temperatures = [f.name for f in dataclasses.fields(self) if f.name.endswith("temperature")]
        for name in ("learning_rate", *temperatures, "power"):
            if not getattr(self, name) > 0:  # so that NaN is refused too
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")

    def _make_whole(self) -> None:
        """Whole numbers of any integer type become ints, so that they can be saved as JSON."""
        names = ("k", "hidden_dim", "steps", "batch_size", "seed")
        for name in (*names, "k_aux", "dead_after_examples", "initial_k", "refit", *COUNTS):
            value = getattr(self, name)
            if value is None and name in ("hidden_dim", "steps"):
                continue
            try:
                whole = None if isinstance(value, bool) else operator.index(value)
            except TypeError:
                whole = None
            if whole is None:
                raise TypeError(f"{name}={value!r} must be a whole number")
            object.__setattr__(self, name, whole)

    def _bounds(self) -> dict[str, tuple[float, float]]:
        whole = ("batch_size", "k_aux", "dead_after_examples", "initial_k", "steps")
        positive = (*whole, "evaluate_every", "accumulate")
        weights = [f.name for f in dataclasses.fields(self) if f.name.endswith("_weight")]
        from_zero = (
            *weights,
            "fvu_floor",
            "refit",
            "patience",
            "noise",
            "weight_decay",
            "gradient_clip",
        )
        return {
            "k": (1, self.hidden_dim or MAX_HIDDEN_DIM),
            "hidden_dim": (1, MAX_HIDDEN_DIM),
            "seed": (0, 2**32 - 1),
            **dict.fromkeys(positive, (1, math.inf)),
            **dict.fromkeys(("warmup", "anneal", "ema", "anchors", "power"), (0, 1)),
            **dict.fromkeys(from_zero, (0, math.inf)),
            "curriculum": (0, 10),
        }

    @property
    def weight_of_labels(self) -> float:
        """The weight of labels, of which csr makes no use."""
        return 0.0 if self.recipe == "csr" else self.supervised_weight

    def weight_of_pairs(self, scored: bool) -> float:
        """The weight of positive pairs, or of pairs with scores."""
        return self.score_weight if scored else self.pair_weight

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def recipe(name: str = "nested", **overrides: Any) -> TrainConfig:
    """A named recipe, with settings of your own over it.

    - ``nested``, the default: one head for every k in ``ks``. Chosen by ablation, see the README.
    - ``csr``: arXiv 2503.01776. L(k) + L(4k)/8 + AuxK/32 + γ L_cl with k_aux 512, tied weights,
      Adam and squared errors summed over d, its equations 4 to 7. L_cl takes cosines at temperature
      0.2, as the authors' code does; γ is 0.03, for raw products at the paper's γ = 1 drown the
      reconstruction of unit vectors and leave most latents dead. Learning rate 4e-4 is the code's;
      the paper's 4e-5 needs far more steps.
    - ``csrv2``: arXiv 2602.05735 on a frozen backbone. As csr, with k annealed from 64 over the
      first 70% of the steps and, where there are labels, supervised contrast (cosine, temperature
      0.2) in place of L_cl; positives are averaged outside the log. Its weight is 1, where the
      code's 0.1 goes with errors d times smaller, and its learning rate that of csr, not 1e-4.

    Args:
        name: One of `RECIPES`.
        overrides: Fields of `TrainConfig`.

    Raises:
        ValueError: If the name or a value is not valid.
        TypeError: If a field does not exist.
    """
    paper: dict[str, Any] = {
        "power": 1.0,
        "contrastive_weight": 0.03,
        "temperature": 0.2,
        "score_weight": 1.0,
        "learning_rate": 4e-4,
        "schedule": "constant",
        "warmup": 0.0,
        "weight_decay": 1e-4,
        "adam_epsilon": 6.25e-10,
        "gradient_clip": 0.0,
        "noise": 0.0,
    }
    presets: dict[str, dict[str, Any]] = {
        "nested": {},
        "csr": paper,
        "csrv2": {
            **paper,
            "supervised_temperature": 0.2,
            "supervised_weight": 1.0,
            "aux_weight": 0.1,
            "k_aux": 1024,
        },
    }
    if name not in presets:
        raise ValueError(f"recipe {name!r} is not one of {RECIPES}")
    return TrainConfig(**{"recipe": name, **presets[name], **overrides})
