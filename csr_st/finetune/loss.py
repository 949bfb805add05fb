"""The loss for `SentenceTransformerTrainer`: columns of a data set in, named loss terms out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from csr_st import distributed
from csr_st.config import TrainConfig
from csr_st.finetune.gradcache import Features, minibatches, replayed
from csr_st.head import SparseCSRHead, find_head
from csr_st.training.objective import Batch, Objective, Outcome, Step

HEAD_PARAMETERS = r"(encoder_weight|decoder_weight|pre_bias|latent_bias|log_sharpness)$"
"""What is learnt beside the backbone, as a pattern for the arguments' learning_rate_mapping."""
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


class CSRLoss(nn.Module):
    """All terms of a recipe's loss, for a model that ends in a `SparseCSRHead`.

    Data sets may have these columns, with any names:

    - one of inputs: reconstruction, contrast and whatever else the recipe has without truth;
    - inputs and an integer ``label``: also supervised contrast ("nested" and "csrv2");
    - anchor and positive: also contrast of pairs ("nested" and "csrv2"); of each pair one side,
      drawn anew at each step, takes part in the terms of the first line, as its partner would
      be a false negative in them;
    - anchor, other and a ``score`` or label: also ordered pairs ("nested" and "csrv2").

    Give a `CSRCallback` to the trainer too: it tells the loss the step, so that k anneals, a
    curriculum runs its course and a resumed run goes on where it stopped. Without one the loss
    counts its own batches from 0.

    The head's maps of short codes, if it has any, are dropped: they would no longer fit.

    Args:
        model: The model.
        config: Loss terms and their weights, the default recipe when None. The trainer's
            arguments set batch size, steps, learning rate, schedule and precision in its place.
        train_backbone: Train whatever parameters of the backbone require gradients, such as all
            of them or a LoRA adapter; reconstruction and AuxK still train the head alone. By
            default the backbone is frozen and stays in eval mode.
        mini_batch_size: Inputs that pass through the backbone at once. The loss still sees the
            whole batch: with a trained backbone by GradCache (arXiv 2101.06983), at the price of
            a second forward pass.

    Attributes:
        age: (hidden_dim,) vectors since each latent was last active at the trained k.
        step: Batches trained on so far.

    Raises:
        ValueError: If the model has no head, mini_batch_size is below 1, or the backbone is partly
            frozen and ``train_backbone`` does not say what is meant.
    """

    age: Tensor
    variance: Tensor

    def __init__(
        self,
        model: SentenceTransformer,
        config: TrainConfig | None = None,
        *,
        train_backbone: bool = False,
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if mini_batch_size is not None and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size={mini_batch_size} must be at least 1")
        head = find_head(model)
        self.model: nn.Module = model
        self.config = config or TrainConfig()
        self.train_backbone = train_backbone
        self.mini_batch_size = mini_batch_size
        self.objective = Objective(head, self.config, 1.0)
        self.rebuilding: Objective | None = None
        if train_backbone:
            # A trained backbone could lower reconstruction by moving its vectors together. So these
            # terms see vectors without gradient, and the others reach the backbone.
            rebuilding, others = _split(self.config)
            self.objective = Objective(head, others, 1.0)
            self.rebuilding = Objective(head, rebuilding, 1.0)
        self.step = 0
        self.planned = False
        self.register_buffer("age", torch.zeros(head.hidden_dim, dtype=torch.int64))
        self.register_buffer("variance", torch.zeros(2))  # mean, and of how many vectors
        # In a tuple: nn.Module must not see them as its own children a second time.
        self._backbone = tuple(m for m in model.children() if m is not head)
        self._freeze(model, head)
        head.drop_short_maps()

    def _freeze(self, model: SentenceTransformer, head: SparseCSRHead) -> None:
        own = {id(parameter) for parameter in head.parameters()}
        parameters = [p for p in model.parameters() if id(p) not in own]
        if self.train_backbone:
            return
        trained = sum(parameter.requires_grad for parameter in parameters)
        if 0 < trained < len(parameters):
            raise ValueError(
                f"{trained} of the backbone's {len(parameters)} parameters require gradients, as "
                "with a LoRA adapter; pass train_backbone=True to train those, or "
                "requires_grad_(False) on the backbone to train the head alone"
            )
        for parameter in parameters:
            parameter.requires_grad_(False)

    @property
    def head(self) -> SparseCSRHead:
        """The head that is trained."""
        return self.objective.head

    def plan(self, steps: int) -> None:
        """Set the number of batches of training, over which k anneals and a curriculum runs."""
        for objective in self._objectives():
            objective.config = dataclasses.replace(objective.config, steps=steps)
        self.planned = True

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What the loss learns beside the model, by name; wrappers of the model do not see it."""
        heads = {id(parameter) for parameter in self.head.parameters()}
        return {
            name: parameter
            for name, parameter in self.objective.named_parameters()
            if id(parameter) not in heads
        }

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is what the trainer minimises, and logs by name.

        Args:
            sentence_features: Features of each column, as the trainer's collator makes them.
            labels: (b,) labels or scores, or None.

        Returns:
            Scalars by name.

        Raises:
            ValueError: If the columns are not among those listed above, "csrv2" does not know how
                many steps there will be, mini-batches cannot be cut from these features, or one
                of several processes has no callback or a batch of another size.
        """
        columns = list(sentence_features)
        _check_columns(len(columns), labels)
        self._check_plan()
        for module in self._backbone:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()  # the trainer puts all in train mode: dropout would blur the vectors
        if torch.is_grad_enabled() and self.train_backbone and self.mini_batch_size is not None:
            return replayed(
                [minibatches(column, self.mini_batch_size) for column in columns],
                self._embed,
                lambda vectors: self._terms(vectors, labels),
                list(self.objective.parameters()),
                self.model,
            )
        return self._terms([self._vectors(column) for column in columns], labels)

    def _check_plan(self) -> None:
        if self.config.recipe == "csrv2" and self.objective.config.steps is None:
            raise ValueError(
                "csrv2 anneals k over the steps, whose number is not known: give the trainer "
                "callbacks=[CSRCallback(loss)], or the loss a config with steps="
            )
        if distributed.several() and not self.planned:
            raise ValueError(
                "several processes train together, which must share the loss's own parameters: "
                "give the trainer callbacks=[CSRCallback(loss)]"
            )

    def _vectors(self, column: Features) -> Tensor:
        if self.mini_batch_size is None:
            return self._embed(column)
        return torch.cat([self._embed(part) for part in minibatches(column, self.mini_batch_size)])

    def _embed(self, column: Features) -> Tensor:
        """(b, input_dim) vectors that enter the head, through the whole (wrapped) model.

        The head is run too, as data-parallel wrappers ask which parameters a forward pass used: all
        of the head's, its decoder included, must be among them, though the loss uses them outside.
        """
        handle = self.head.register_forward_hook(_show_decoder)
        try:
            features = self.model(dict(column), k=1, packed=True)
        finally:
            handle.remove()
        vectors: Tensor = features["dense_embedding"].float()
        return vectors

    def _terms(self, vectors: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        # A seed for each batch, the same on every process, as `csr_st.training.loop` has it.
        seed = self.config.seed * 1_000_003 + self.step
        batch = _batch_of(vectors, labels, torch.Generator().manual_seed(seed))
        distributed.check_equal(len(batch.vectors), batch.vectors.device)
        variance = self._spread(batch.vectors.detach())
        dead = self.age >= self.config.dead_after_examples
        terms: dict[str, Tensor] = {}
        for objective in self._objectives():
            given = batch
            if objective is self.rebuilding:
                given = Batch(batch.vectors.detach(), batch.labels)
            objective.variance = variance
            step = Step(self.step, dead, torch.Generator().manual_seed(seed))
            outcome: Outcome = objective(given, step)
            for name, term in outcome.terms.items():
                terms[name] = terms[name] + term if name in terms else term
        if torch.is_grad_enabled():
            self._count(outcome.active, len(batch.vectors))
        return terms

    def _objectives(self) -> list[Objective]:
        return [o for o in (self.objective, self.rebuilding) if o is not None]

    def _spread(self, x: Tensor) -> float:
        """Mean squared distance of the data from its mean, which errors are relative to.

        On a frozen backbone the mean over the batches so far, else of the batch alone.
        """
        sums = torch.cat([x.sum(dim=0), x.square().sum()[None], x.new_tensor([len(x)])])
        sums = distributed.total(sums)
        n = sums[-1]
        spread = (sums[-2] - sums[:-2].square().sum() / n) / (n - 1).clamp_min(1)
        known, seen = self.variance
        mean = known + (spread - known) * n / (seen + n)
        if torch.is_grad_enabled():
            self.variance.copy_(torch.stack([mean, seen + n]))
        usable = self.train_backbone and n > 1
        return max(float(spread if usable else mean), 1e-12)

    @torch.no_grad()
    def _count(self, active: Tensor, n: int) -> None:
        """Age the latents that were not active at the trained k in this batch of n vectors."""
        fired = torch.zeros_like(self.age)
        fired[active] = 1
        fired, everyone = distributed.total(fired), distributed.total(fired.new_tensor(n))
        self.age.copy_(torch.where(fired > 0, 0, self.age + everyone))
        self.step += 1

    def get_config_dict(self) -> dict[str, Any]:
        """The settings, for the model card."""
        return {
            **dataclasses.asdict(self.config),
            "train_backbone": self.train_backbone,
            "mini_batch_size": self.mini_batch_size,
        }

    @property
    def citation(self) -> str:
        """BibTeX of the method, for the model card."""
        return CITATION


def _split(config: TrainConfig) -> tuple[TrainConfig, TrainConfig]:
    """The terms about reconstruction, and the others."""
    weights = {f.name for f in dataclasses.fields(config) if f.name.endswith("_weight")}
    about = {"reconstruction_weight", "wide_weight", "aux_weight"}
    only_about: dict[str, Any] = dict.fromkeys(weights - about, 0.0)
    only_others: dict[str, Any] = dict.fromkeys(about, 0.0)
    return dataclasses.replace(config, **only_about), dataclasses.replace(config, **only_others)


def _show_decoder(
    head: SparseCSRHead, inputs: Any, output: dict[str, Any]
) -> dict[str, Any] | None:
    del inputs
    if head.tied or not torch.is_grad_enabled():
        return None
    return {**output, "decoder_weight": head.decoder_weight.view_as(head.decoder_weight)}


def _batch_of(vectors: list[Tensor], labels: Tensor | None, generator: torch.Generator) -> Batch:
    if len(vectors) == 1:
        return Batch(vectors[0], labels)
    anchors, positives = vectors
    side = torch.rand(len(anchors), 1, generator=generator).to(anchors.device) < 0.5
    scores = None if labels is None else labels.to(anchors.dtype)
    return Batch(torch.where(side, anchors, positives), None, anchors, positives, scores)


def _check_columns(columns: int, labels: Tensor | None) -> None:
    if columns not in (1, 2):
        raise ValueError(
            f"the data set has {columns} columns of inputs; CSRLoss takes 1 or 2. Negatives come "
            "from the batch: drop other columns, or turn triplets into (anchor, other, score)"
        )
    if columns == 1 and labels is not None and labels.is_floating_point():
        raise ValueError(
            "the label of a single column is a float; CSRLoss takes integer classes there, or "
            "scores beside two columns"
        )
