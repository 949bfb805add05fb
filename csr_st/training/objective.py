"""The loss of one batch: a head, a configuration and vectors in, named terms out.

`Objective` is a module so that data-parallel wrappers see every use of the head's parameters. It
holds no state that training changes: which latents are dead is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_st.config import TrainConfig
from csr_st.distributed import deviation, gather, highest, relative
from csr_st.head import Code, SparseCSRHead
from csr_st.model.top_k import top_k
from csr_st.training import losses
from csr_st.training.noisy_views import asking_rows, encoded, encoded_with_copies

LEARNT = 2  # terms whose sharpness is learnt: contrast, distillation


@dataclass(frozen=True)
class Batch:
    """Vectors of one step.

    Attributes:
        vectors: (b, d).
        labels: (b,) int64 class, -1 for unknown, or None.
        anchors: (p, d) first halves of positive pairs, or None.
        positives: (p, d) second halves.
        scores: (p,) graded similarity of each pair in 0..1, or None when all are positive.
    """

    vectors: Tensor
    labels: Tensor | None = None
    anchors: Tensor | None = None
    positives: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What a step knows beside its batch.

    Attributes:
        number: Step, from 0.
        dead: (h,) bool, latents that count as dead.
        generator: Source of randomness, seeded by the step.
    """

    number: int
    dead: Tensor
    generator: torch.Generator


class Outcome(NamedTuple):
    """The loss of one batch.

    Attributes:
        terms: Weighted terms by name; their sum is minimised.
        active: (m,) latents active at the trained k, with repeats; the others aged.
        fvu: Unexplained variance by k, without gradient.
    """

    terms: dict[str, Tensor]
    active: Tensor
    fvu: dict[int, Tensor]


class Objective(nn.Module):
    """The terms of a recipe's loss over one batch; see `csr_st.config.recipe`.

    Args:
        head: The head that is trained.
        config: Settings, with ``steps`` filled in.
        variance: Mean squared distance of the data from its mean, summed over d.
    """

    def __init__(self, head: SparseCSRHead, config: TrainConfig, variance: float) -> None:
        super().__init__()
        self.head = head
        self.config = config
        self.variance = variance
        self.ks = tuple(k for k in config.ks if k <= head.hidden_dim) or (head.hidden_dim,)
        self.trained_k = max((k for k in self.ks if k <= config.k), default=self.ks[0])
        # One sharpness a k, learnt: how far similarities spread depends on how many latents meet.
        start = math.log(1 / config.temperature)
        self.log_sharpness = nn.Parameter(torch.full((LEARNT, len(self.ks)), start))
        learnt = config.contrastive_weight or config.distillation_weight
        self.log_sharpness.requires_grad_(config.recipe == "nested" and learnt > 0)

    def forward(self, batch: Batch, step: Step) -> Outcome:
        """The loss of a batch."""
        nested = self.config.recipe == "nested"
        return self._nested(batch, step) if nested else self._paper(batch, step)

    def _nested(self, batch: Batch, step: Step) -> Outcome:
        """One head for all ks: reconstruction at each, the rest at one k drawn a step."""
        config = self.config
        drawn = int(torch.randint(len(self.ks), (1,), generator=step.generator))
        compared = config.contrastive_weight > 0 or config.distillation_weight > 0
        rows = asking_rows(len(batch.vectors), config.anchors, batch.vectors.device)
        if not compared:
            rows = rows[:0]
        pre, code, copies = self._codes(batch.vectors, rows, self.ks[drawn], step)
        mine, residuals = self._errors(batch.vectors, code, self.ks)
        # Of the whole batch: the mean of parts' logarithms is not the logarithm of their mean.
        errors = gather(mine[None])[0].mean(dim=0) / self.variance
        # The logarithm weighs a k whose error is small like one whose error is large; the floor
        # ends that where few vectors are about to be learnt by heart.
        unexplained = (errors + (config.fvu_floor or 0.0)).clamp_min(1e-4)
        mean = (unexplained.log() * self._shares(step.number).to(unexplained)).sum()
        terms = {"log_fvu": config.reconstruction_weight * mean}
        self._add_aux(terms, residuals[self.ks.index(self.trained_k)], pre, step)
        codes = self._unit(code, self.ks[drawn])
        keys, own = self._keys(codes)
        if compared:
            sharpness = self.log_sharpness[:, drawn].exp()
            self._add_neighbours(terms, batch.vectors, rows, sharpness, copies, keys, own)
        self._add_supervision(terms, batch, codes, keys, own)
        fvu = {k: error.detach() for k, error in zip(self.ks, errors, strict=True)}
        return Outcome(terms, _active(code, self.trained_k), fvu)

    def _shares(self, number: int) -> Tensor:
        """(len(ks),) what each k counts in reconstruction at a step; their sum is 1.

        Under a curriculum the small k come first, before the latents that they need have become
        parts of larger codes. At the last step, and where nothing is learnt, all count alike.
        """
        steps, to_come = self.config.steps, 0.0
        if steps and torch.is_grad_enabled():
            to_come = max(0.0, 1 - number / max(steps - 1, 1))
        sizes = torch.tensor(self.ks, dtype=torch.float32).log()
        return (-self.config.curriculum * to_come * sizes).softmax(dim=0)

    def _paper(self, batch: Batch, step: Step) -> Outcome:
        """L(k) + L(4k)/8 + β AuxK + γ L_cl, equation 7 of the CSR paper, at one k."""
        config, head = self.config, self.head
        k = annealed_k(config, step.number) if config.recipe == "csrv2" else config.k
        k = min(k, head.hidden_dim)
        pre, code = encoded(head, batch.vectors, 4 * k)
        (near, wide), residuals = self._errors(batch.vectors, code, (k, code.values.shape[1]))
        terms = {
            "l_k": config.reconstruction_weight * near,
            "l_4k": config.reconstruction_weight * config.wide_weight * wide,
        }
        self._add_aux(terms, residuals[0], pre, step)
        codes = self._unit(code, k)
        keys, own = self._keys(codes)
        learns_labels = batch.labels is not None and config.weight_of_labels
        if config.contrastive_weight and not learns_labels:
            sharper = Code(codes.values / config.temperature, codes.indices)
            logits = self._similarities(sharper, keys)
            terms["contrast"] = config.contrastive_weight * losses.info_nce(logits, own)
        if config.recipe == "csrv2":
            self._add_supervision(terms, batch, codes, keys, own)
        return Outcome(terms, _active(code, k), {k: near.detach() / self.variance})

    def _add_aux(self, terms: dict[str, Tensor], residual: Tensor, pre: Tensor, step: Step) -> None:
        if self.config.aux_weight:
            weight = self.head.decoder_weight
            signed = self.config.recipe == "nested" and bool(step.dead.any())
            peaks = highest(pre) if signed else None
            loss = losses.aux_k(residual, pre, step.dead, self.config.k_aux, weight, peaks)
            share = relative(residual.detach().square().sum(dim=1).mean())
            terms["aux"] = self.config.aux_weight * share * loss

    def _add_neighbours(
        self,
        terms: dict[str, Tensor],
        vectors: Tensor,
        rows: Tensor,
        sharpness: Tensor,
        copies: Code,
        keys: Code,
        own: Tensor,
    ) -> None:
        """Copies find their items, and see the others as the dense vectors of these do.

        One product with the batch's codes serves both: the similarities that a copy is told apart
        by are those that are to follow the dense ones.
        """
        config = self.config
        share = relative(torch.tensor(float(len(rows)), device=own.device))
        asking = self._unit(copies, copies.values.shape[1])
        similar = self._similarities(asking, keys)
        if config.contrastive_weight:
            loss = losses.info_nce(sharpness[0] * similar, own[rows])
            terms["contrast"] = config.contrastive_weight * share * loss
        if config.distillation_weight:
            loss = self._distillation(sharpness[1] * similar, vectors, rows, own[rows])
            terms["distillation"] = config.distillation_weight * share * loss

    def _distillation(self, student: Tensor, vectors: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        """Similarities of some rows' codes follow those of the dense vectors.

        These are told in their own standard deviations, for models differ in how far cosines
        spread: some use all of -1..1, others 0.7..1.
        """
        dense = F.normalize(vectors.detach(), dim=1)
        asking = dense if len(rows) == len(dense) else dense[rows]
        cosines = asking @ gather(dense)[0].T
        spread = deviation(cosines, own).clamp_min(1e-4)  # equal vectors have none
        teacher = cosines / (self.config.distillation_temperature * spread)
        return losses.similarity_distillation(student, teacher, own)

    def _add_supervision(
        self,
        terms: dict[str, Tensor],
        batch: Batch,
        codes: Code,
        keys: Code,
        own: Tensor,
    ) -> None:
        config = self.config
        if batch.labels is not None and config.weight_of_labels:
            labels = gather(batch.labels)[0]
            similar = self._similarities(codes, keys)
            loss = losses.supervised_contrastive(
                similar, batch.labels, labels, config.supervised_temperature, own
            )
            same = (batch.labels[:, None] == labels[None]).sum(dim=1)
            share = relative(((same > 1) & (batch.labels >= 0)).sum().to(loss))
            terms["supervised"] = config.weight_of_labels * share * loss
        weight = config.weight_of_pairs(scored=batch.scores is not None)
        if batch.anchors is not None and batch.positives is not None and weight:
            loss = self._pairs(batch.anchors, batch.positives, batch.scores, codes.values.shape[1])
            terms["pairs"] = weight * loss
            if config.support_weight:
                loss = self._shared_support(batch.anchors, batch.positives, codes.values.shape[1])
                terms["support"] = config.support_weight * loss

    def _pairs(self, anchors: Tensor, positives: Tensor, scores: Tensor | None, k: int) -> Tensor:
        """Contrast of pairs; where they have scores, their order."""
        first, second = (self._unit(self._encode(x, k), k) for x in (anchors, positives))
        keys, own = self._keys(second)
        similar = self._similarities(first, keys)
        if scores is None:
            loss = losses.info_nce(similar / self.config.temperature, own)
            if not self.config.support_weight:
                return loss
            back, mine = self._keys(first)
            similar = self._similarities(second, back)
            return (loss + losses.info_nce(similar / self.config.temperature, mine)) / 2
        cosine = similar.gather(1, own[:, None])[:, 0]
        return losses.ordered_pairs(gather(cosine)[0], gather(scores)[0], self.config.temperature)

    def _shared_support(self, anchors: Tensor, positives: Tensor, k: int) -> Tensor:
        """Unexplained variance of each half of a pair, rebuilt from the other half's latents.

        A head alone splits its latents among modalities; groups of latents shared by a pair mend
        that (arXiv 2601.20028, by a group-sparse penalty). Here the group is the other's support:
        its latents get gradient from both halves, and no second weight of sparsity is needed.
        """
        pre = [self.head.pre_activations(x) for x in (anchors, positives)]
        errors = []
        for x, own, other in ((anchors, *pre), (positives, *reversed(pre))):
            latents = top_k(other.detach(), min(k, self.head.hidden_dim))[1]
            code = Code(own.gather(1, latents).relu(), latents)
            errors.append(self._errors(x, code, (latents.shape[1],))[0][0] / self.variance)
        return (errors[0] + errors[1]) / 2

    def _codes(
        self, vectors: Tensor, rows: Tensor, k: int, step: Step
    ) -> tuple[Tensor, Code, Code]:
        """Pre-activations, the batch's raw codes at the largest k and, at ``k``, of who asks."""
        widest, noise = max(self.ks), self.config.noise
        if noise and len(rows):
            return encoded_with_copies(self.head, vectors, rows, (widest, k), noise, step.generator)
        pre, code = encoded(self.head, vectors, widest)
        return pre, code, Code(code.values[rows, :k], code.indices[rows, :k])

    def _errors(self, vectors: Tensor, code: Code, ks: Sequence[int]) -> tuple[Tensor, Tensor]:
        return losses.nested_errors(
            vectors, *code, self.head.decoder_weight, self.head.pre_bias, ks
        )

    def _unit(self, code: Code, k: int) -> Code:
        """The code that magnitudes at k give: to the head's power, at unit norm."""
        values = self.head.raised(code.values[:, :k])
        return Code(F.normalize(values, dim=1), code.indices[:, :k])

    def _encode(self, vectors: Tensor, k: int) -> Code:
        return encoded(self.head, vectors, k)[1]

    def _keys(self, codes: Code) -> tuple[Code, Tensor]:
        """The whole batch's codes, and which of them are this process's."""
        values, own = gather(codes.values)
        return Code(values, gather(codes.indices)[0]), own

    def _similarities(self, codes: Code, keys: Code) -> Tensor:
        return losses.code_similarities(*codes, *keys, self.head.hidden_dim)


def annealed_k(config: TrainConfig, step: int) -> int:
    """The k of a csrv2 step: linear from initial_k to k over the first ``anneal`` of the steps."""
    span = max(1, round(config.anneal * (config.steps or 1)))
    start = max(config.initial_k, config.k)
    return max(config.k, round(start + (config.k - start) * min(step / span, 1)))


def _active(code: Code, k: int) -> Tensor:
    """Latents that are active at k anywhere in the batch, with repeats."""
    return code.indices[:, :k][code.values[:, :k] > 0]
