"""The loss for `SentenceTransformerTrainer`: columns of a data set in, named loss terms out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from csr_st.config import CITATION, TokenConfig, TrainConfig, recipe
from csr_st.finetune import tokens
from csr_st.finetune.gradcache import Features, minibatches, replayed
from csr_st.head import SparseCSRHead, find_head
from csr_st.model.settings import integer
from csr_st.model.token_pooling import Tokens
from csr_st.processes import check_equal_batches, rank_and_world, total
from csr_st.training.objective import Batch, Objective, Outcome, Step

HEAD_PARAMETERS = r"(encoder_weight|decoder_weight|pre_bias|latent_bias|logit_scale)$"
"""Parameters trained besides the backbone, as a pattern for ``learning_rate_mapping``."""


class CSRLoss(nn.Module):
    """All terms of a recipe's loss, for a model that ends in a `SparseCSRHead`.

    Data sets may have these columns, with any names:

    - one of inputs: reconstruction, contrast and the recipe's other unsupervised terms;
    - inputs and an integer ``label``: also supervised contrast ("nested" and "csrv2");
    - anchor and positive: also contrast of pairs ("nested" and "csrv2"); one side of each pair,
      drawn at random at each step, is used in the terms of the first line, as its partner would
      be a false negative in them;
    - anchor, other and a ``score`` or label: also ordered pairs ("nested" and "csrv2").

    For a token-level head, which `csr_st.train_tokens` makes, they are one of texts, anchor and
    positive, or anchor, positive and hard negative: tokens are rebuilt, and pooled codes of pairs
    contrasted at k of query and document that are drawn at each step, see
    `csr_st.finetune.tokens`. Its recipe is "token", the default there.

    Give a `CSRCallback` to the trainer too: it passes the step to the loss, which annealing of k
    and a curriculum depend on, and restores the loss of a resumed run. Without one the loss counts
    its own batches from 0.

    The first batch of training drops the head's maps of short codes, which would no longer fit.

    Args:
        model: The model.
        config: Loss terms and their weights, the default recipe when None. The trainer's
            arguments set batch size, steps, learning rate, schedule and precision in its place.
        train_backbone: Train whatever parameters of the backbone require gradients, such as all
            of them or a LoRA adapter; reconstruction and AuxK still train the head alone. By
            default the backbone is frozen and stays in eval mode.
        mini_batch_size: Inputs that pass through the backbone at once. The loss still compares the
            whole batch: with a trained backbone by GradCache (arXiv 2101.06983), at the cost of
            a second forward pass.

    Attributes:
        age: (hidden_dim,) vectors since each latent was last active at the trained k.
        step: Batches trained on so far.

    Raises:
        ValueError: If the model has no head, mini_batch_size is below 1, the backbone is partly
            frozen and ``train_backbone`` is False, the recipe is for heads of the other level, or
            mini_batch_size is given to train the backbone of a token-level head.
        TypeError: If mini_batch_size is not an integer.
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
        if mini_batch_size is not None:
            integer("mini_batch_size", mini_batch_size)
        head = find_head(model)
        self.model: nn.Module = model
        self.config = config or recipe("token" if head.level == "token" else "nested")
        if (head.level == "token") != isinstance(self.config, TokenConfig):
            raise ValueError(
                f"recipe {self.config.recipe!r} is not for a head with level={head.level!r}; "
                "leave config out for the recipe that is"
            )
        if head.level == "token" and train_backbone and mini_batch_size is not None:
            raise ValueError(
                f"mini_batch_size={mini_batch_size} does not train a backbone under a token-level "
                "head; leave it out, and lower the trainer's batch size"
            )
        self.train_backbone = train_backbone
        self.mini_batch_size = mini_batch_size
        self.objective = Objective(head, self.config, 1.0)
        self.step = 0
        self.planned = False
        self.register_buffer("age", torch.zeros(head.hidden_dim, dtype=torch.int64))
        self.register_buffer("variance", torch.zeros(2))  # mean, and of how many vectors
        # In a tuple, so that nn.Module does not register them as its own children a second time.
        self._backbone = tuple(m for m in model.children() if m is not head)
        self._freeze(model, head)

    def _freeze(self, model: SentenceTransformer, head: SparseCSRHead) -> None:
        if self.train_backbone:
            return
        own = {id(parameter) for parameter in head.parameters()}
        parameters = [p for p in model.parameters() if id(p) not in own]
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
        self.objective.config = dataclasses.replace(self.config, steps=steps)
        self.planned = True

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the loss that are not the model's, by name; wrappers of it lack them."""
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
            ValueError: If the columns are not among those listed above, the number of steps is not
                known to "csrv2", features cannot be divided into mini-batches, or one of several
                processes has no callback or a batch of another size.
        """
        columns = list(sentence_features)
        of_tokens = self.head.level == "token"
        _check_columns(len(columns), labels, of_tokens)
        self._check_plan()
        if torch.is_grad_enabled():
            self.head.drop_short_maps()
        for module in self._backbone:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()  # the trainer puts all in train mode, in which dropout adds noise
        if torch.is_grad_enabled() and self.train_backbone and self.mini_batch_size is not None:
            return replayed(
                [minibatches(column, self.mini_batch_size) for column in columns],
                self._embed,
                lambda vectors: self._terms(vectors, labels),
                list(self.objective.parameters()),
                self.model,
            )
        if of_tokens:
            return self._token_terms([self._tokens(column) for column in columns])
        return self._terms([self._vectors(column) for column in columns], labels)

    def _check_plan(self) -> None:
        if self.config.anneals_k and self.objective.config.steps is None:
            raise ValueError(
                f"{self.config.recipe} anneals k over the steps, whose number is not known: give "
                "the trainer callbacks=[CSRCallback(loss)], or the loss a config with steps="
            )
        if rank_and_world()[1] > 1 and not self.planned:
            raise ValueError(
                "several processes train together, which must share the loss's own parameters: "
                "give the trainer callbacks=[CSRCallback(loss)]"
            )

    def _vectors(self, column: Features) -> Tensor:
        if self.mini_batch_size is None:
            return self._embed(column)
        return torch.cat([self._embed(part) for part in minibatches(column, self.mini_batch_size)])

    def _tokens(self, column: Features) -> Tokens:
        size = self.mini_batch_size
        parts = [column] if size is None else minibatches(column, size)
        return tokens.joined([self.head.tokens_of(self._features(part)) for part in parts])

    def _embed(self, column: Features) -> Tensor:
        """(b, input_dim) vectors that enter the head."""
        vectors: Tensor = self._features(column)["dense_embedding"].float()
        return vectors

    def _features(self, column: Features) -> Features:
        """What the complete, wrapped model gives.

        The head is run too: data-parallel wrappers check which parameters a forward pass used, and
        all of the head's, its decoder included, must be among them, as the loss uses them later.
        """
        handle = self.head.register_forward_hook(_show_decoder)
        try:
            found: Features = self.model(dict(column), k=1, packed=True)
        finally:
            handle.remove()
        return found

    def _terms(self, vectors: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
        return self._objective_terms(_batch_of(vectors, labels, self._generator()))

    def _generator(self) -> torch.Generator:
        """A seed for each batch, the same on every process, as in `csr_st.training.loop`."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)

    def _token_terms(self, columns: list[Tokens]) -> dict[str, Tensor]:
        generator = self._generator()
        pairs = None
        if len(columns) > 1 and self.config.pair_weight:
            loss = tokens.contrast(self.head, columns, self.config.temperature, generator)
            pairs = self.config.pair_weight * loss
        found = self._objective_terms(Batch(tokens.sampled(columns, generator)))
        return found if pairs is None else {**found, "pairs": pairs}

    def _objective_terms(self, batch: Batch) -> dict[str, Tensor]:
        check_equal_batches(len(batch.vectors), batch.vectors.device)
        self.objective.variance = self._spread(batch.vectors.detach())
        dead = self.age >= self.config.dead_after_examples
        step = Step(self.step, dead, self._generator())
        outcome: Outcome = self.objective(batch, step)
        if torch.is_grad_enabled():
            examples = int(total(torch.tensor(len(batch.vectors), device=self.age.device)))
            self.age.copy_(outcome.aged(self.age, examples))
            self.step += 1
        return outcome.terms

    def _spread(self, x: Tensor) -> float:
        """Mean squared distance of the data from its mean, which errors are divided by.

        On a frozen backbone the mean over the batches so far, else that of the batch alone.
        """
        # About the head's centre, as squares of a large mean would leave no digit of the variance.
        x = x - self.head.pre_bias.detach()
        sums = torch.cat([x.sum(dim=0), x.square().sum()[None], x.new_tensor([len(x)])])
        sums = total(sums)
        n = sums[-1]
        spread = (sums[-2] - sums[:-2].square().sum() / n) / (n - 1).clamp_min(1)
        known, seen = self.variance
        mean = known + (spread - known) * n / (seen + n)
        if torch.is_grad_enabled():
            self.variance.copy_(torch.stack([mean, seen + n]))
        usable = self.train_backbone and n > 1
        return max(float(spread if usable else mean), 1e-12)

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


def _show_decoder(
    head: SparseCSRHead, inputs: Any, output: dict[str, Any]
) -> dict[str, Any] | None:
    """A forward hook by which the decoder of an untied head is among the used parameters."""
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


def _check_columns(columns: int, labels: Tensor | None, of_tokens: bool) -> None:
    if of_tokens:
        if columns not in (1, 2, 3) or labels is not None:
            also = "" if labels is None else " and labels"
            raise ValueError(
                f"the data set has {columns} columns of texts{also}; for a token-level head "
                "CSRLoss takes texts, anchor and positive, or anchor, positive and negative: drop "
                "others"
            )
        return
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
