"""The loss of one batch: a head, a configuration and vectors in, named terms out.

`Objective` is a module so that data-parallel wrappers see every use of the head's parameters.
Training changes no state of it: which latents are dead is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_st.config import NestedConfig, TrainConfig
from csr_st.head import SparseCSRHead
from csr_st.model.coding import Code
from csr_st.model.top_k import top_k
from csr_st.processes import gather, maximum, relative_size, total
from csr_st.training import losses
from csr_st.training.noisy_views import encoded, encoded_with_noisy_views

RESOLVED = 1e-3  # deviation of cosines below which their rounding counts
SCALED = 2  # terms whose logit scale is learnt: contrast, distillation


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
    """Inputs of a step other than its batch.

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
        active: (m,) latents active at the trained k, with repeats.
        fvu: Unexplained variance by k, without gradient.
    """

    terms: dict[str, Tensor]
    active: Tensor
    fvu: dict[int, Tensor]

    def loss(self) -> Tensor:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()

    @torch.no_grad()
    def aged(self, age: Tensor, examples: int) -> Tensor:
        """(h,) vectors since each latent was last active, after ``examples`` more on all processes.

        Args:
            age: (h,) int64, the ages before this batch.
            examples: Vectors of this batch, over all processes.
        """
        fired = torch.zeros_like(age)
        fired[self.active] = 1
        return torch.where(total(fired) > 0, 0, age + examples)


class Objective(nn.Module):
    """The terms of a recipe's loss over one batch; see the classes of `csr_st.config`.

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
        # The logarithm of a scale per term and k, as the spread of similarities depends on k.
        start = math.log(1 / config.temperature)
        self.logit_scale = nn.Parameter(torch.full((SCALED, len(self.ks)), start))
        self.logit_scale.requires_grad_(config.learns_logit_scale)

    def forward(self, batch: Batch, step: Step) -> Outcome:
        """The loss of a batch."""
        if isinstance(self.config, NestedConfig):
            return self._nested(self.config, batch, step)
        return self._paper(self.config, batch, step)

    def _nested(self, config: NestedConfig, batch: Batch, step: Step) -> Outcome:
        """One head for all ks: reconstruction at each, the rest at one k drawn per step."""
        x, widest = batch.vectors, max(self.ks)
        drawn = int(torch.randint(len(self.ks), (1,), generator=step.generator))
        k = self.ks[drawn]
        of_views = min(config.query_multiple * k, self.head.hidden_dim)
        compared = config.learns_logit_scale
        if compared and config.noise:
            pre, code, views = encoded_with_noisy_views(
                self.head, x, (widest, of_views), config.noise, step.generator
            )
        else:
            pre, code = encoded(self.head, x, max(widest, of_views))
            views = code
        vectors, live, rebuilt = self._without_backbone(x, pre, code)
        mine, residuals = self._errors(vectors, rebuilt, self.ks)
        # Of the whole batch: the mean of parts' logarithms is not the logarithm of their mean.
        errors = gather(mine[None])[0].mean(dim=0) / self.variance
        # The logarithm gives equal weight to a k whose error is small and one whose error is large;
        # the floor ends that where it would lead to overfitting.
        unexplained = (errors + (config.fvu_floor or 0.0)).clamp_min(1e-4)
        mean = (unexplained.log() * self._weights_of_ks(config, step.number).to(unexplained)).sum()
        terms = {"log_fvu": config.reconstruction_weight * mean}
        self._add_aux(terms, residuals[self.ks.index(self.trained_k)], live, step)
        codes = self._unit(code, k)
        keys, own = self._keys(codes)
        if compared:
            # Both terms use one product: contrast, in which a view is compared with its item, and
            # distillation, in which its similarities follow the dense ones.
            similar = self._similarities(self._unit(views, of_views), keys)
            scales = self.logit_scale[:, drawn].exp()
            if config.contrastive_weight:
                loss = losses.info_nce(scales[0] * similar, own)
                terms["contrast"] = config.contrastive_weight * loss
            if config.distillation_weight:
                teacher = (
                    _dense_similarities(x, own, self.head.pre_bias)
                    / config.distillation_temperature
                )
                loss = losses.similarity_distillation(scales[1] * similar, teacher, own)
                terms["distillation"] = config.distillation_weight * loss
        self._add_supervision(terms, batch, codes, keys, own)
        fvu = dict(zip(self.ks, errors.detach(), strict=True))
        return Outcome(terms, _active(code, self.trained_k), fvu)

    def _weights_of_ks(self, config: NestedConfig, number: int) -> Tensor:
        """(len(ks),) weights of each k in reconstruction at a step; their sum is 1.

        A curriculum starts with the small k. At the last step, and without gradient, all weights
        are equal.
        """
        to_come = 0.0
        if config.steps and torch.is_grad_enabled():
            to_come = max(0.0, 1 - number / max(config.steps - 1, 1))
        sizes = torch.tensor(self.ks, dtype=torch.float32).log()
        return (-config.curriculum * to_come * sizes).softmax(dim=0)

    def _paper(self, config: TrainConfig, batch: Batch, step: Step) -> Outcome:
        """L(k) + L(4k)/8 + β AuxK + γ L_cl, equation 7 of the CSR paper, at one k."""
        k = min(config.k_at(step.number), self.head.hidden_dim)
        pre, code = encoded(self.head, batch.vectors, 4 * k)
        vectors, live, rebuilt = self._without_backbone(batch.vectors, pre, code)
        (near, wide), residuals = self._errors(vectors, rebuilt, (k, code.values.shape[1]))
        terms = {
            "l_k": config.reconstruction_weight * near,
            "l_4k": config.reconstruction_weight * wide / 8,
        }
        self._add_aux(terms, residuals[0], live, step)
        codes = self._unit(code, k)
        keys, own = self._keys(codes)
        if config.contrastive_weight and (batch.labels is None or not config.weight_of_labels):
            scaled = Code(codes.values / config.temperature, codes.indices)
            logits = self._similarities(scaled, keys)
            terms["contrast"] = config.contrastive_weight * losses.info_nce(logits, own)
        self._add_supervision(terms, batch, codes, keys, own)
        return Outcome(terms, _active(code, k), {k: near.detach() / self.variance})

    def _without_backbone(self, x: Tensor, pre: Tensor, code: Code) -> tuple[Tensor, Tensor, Code]:
        """Vectors, pre-activations and codes for reconstruction and AuxK.

        A trained backbone could lower both by moving its vectors together, so its vectors have no
        gradient here; only the other terms reach it.
        """
        if not x.requires_grad:
            return x, pre, code
        return x.detach(), *encoded(self.head, x.detach(), code.values.shape[1])

    def _add_aux(self, terms: dict[str, Tensor], residual: Tensor, pre: Tensor, step: Step) -> None:
        if self.config.aux_weight:
            weight = self.head.decoder_weight
            signed = self.config.signed_aux and bool(step.dead.any())
            peaks = maximum(pre.detach().amax(dim=0)) if signed else None
            loss = losses.aux_k(residual, pre, step.dead, self.config.k_aux, weight, peaks)
            size = relative_size(residual.detach().square().sum(dim=1).mean())
            terms["aux"] = self.config.aux_weight * size * loss

    def _add_supervision(
        self, terms: dict[str, Tensor], batch: Batch, codes: Code, keys: Code, own: Tensor
    ) -> None:
        """Terms of labels, pairs and shared support, where the batch has what they need."""
        config, k = self.config, codes.values.shape[1]
        if batch.labels is not None and config.weight_of_labels:
            labels = gather(batch.labels)[0]
            similar = self._similarities(codes, keys)
            loss = losses.supervised_contrastive(
                similar, batch.labels, labels, config.supervised_temperature, own
            )
            same = (batch.labels[:, None] == labels[None]).sum(dim=1)
            size = relative_size(((same > 1) & (batch.labels >= 0)).sum().to(loss))
            terms["supervised"] = config.weight_of_labels * size * loss
        weight = config.weight_of_pairs(scored=batch.scores is not None)
        if batch.anchors is not None and batch.positives is not None and weight:
            loss = self._pairs(batch.anchors, batch.positives, batch.scores, k)
            terms["pairs"] = weight * loss
            if config.support_weight:
                loss = self._shared_support(batch.anchors, batch.positives, k)
                terms["support"] = config.support_weight * loss

    def _pairs(self, anchors: Tensor, positives: Tensor, scores: Tensor | None, k: int) -> Tensor:
        """Contrast of pairs, both ways with shared support; where they have scores, their order."""
        codes = [self._unit(encoded(self.head, x, k)[1], k) for x in (anchors, positives)]
        contrasts = []
        for first, second in (codes, codes[::-1]) if self.config.support_weight else (codes,):
            keys, own = self._keys(second)
            similar = self._similarities(first, keys)
            if scores is not None:
                cosine = similar.gather(1, own[:, None])[:, 0]
                everyone = gather(cosine)[0], gather(scores)[0]
                return losses.ordered_pairs(*everyone, self.config.temperature)
            contrasts.append(losses.info_nce(similar / self.config.temperature, own))
        return torch.stack(contrasts).mean()

    def _shared_support(self, anchors: Tensor, positives: Tensor, k: int) -> Tensor:
        """Unexplained variance of each half of a pair, reconstructed from the other's latents.

        Without it a head divides its latents among modalities. arXiv 2601.20028 prevents that by a
        group-sparse penalty; here the group is the other half's support, which needs no penalty.
        """
        pre = [self.head.pre_activations(x) for x in (anchors, positives)]
        errors = []
        for x, own, other in ((anchors, *pre), (positives, *reversed(pre))):
            latents = top_k(other.detach(), min(k, self.head.hidden_dim))[1]
            code = Code(own.gather(1, latents).relu(), latents)
            errors.append(self._errors(x, code, (latents.shape[1],))[0][0] / self.variance)
        return (errors[0] + errors[1]) / 2

    def _errors(self, vectors: Tensor, code: Code, ks: Sequence[int]) -> tuple[Tensor, Tensor]:
        return losses.nested_errors(
            vectors, *code, self.head.decoder_weight, self.head.pre_bias, ks
        )

    def _unit(self, code: Code, k: int) -> Code:
        """The code that magnitudes at k give: to the head's power, at unit norm."""
        values = self.head.raised(code.values[:, :k])
        return Code(F.normalize(values, dim=1), code.indices[:, :k])

    def _keys(self, codes: Code) -> tuple[Code, Tensor]:
        """The whole batch's codes, and which of them are this process's."""
        values, own = gather(codes.values)
        return Code(values, gather(codes.indices)[0]), own

    def _similarities(self, codes: Code, keys: Code) -> Tensor:
        return losses.code_similarities(*codes, *keys, self.head.hidden_dim)


def _dense_similarities(vectors: Tensor, own: Tensor, centre: Tensor) -> Tensor:
    """(b, n) cosines of this process's vectors to the whole batch's, divided by their deviation.

    Models differ in how far cosines spread: some use all of -1..1, others 0.7..1. The standard
    deviation is that over all processes, without the similarity of each item to itself.

    Beside a very large mean, cosines differ by no more than their rounding. Then they are taken
    about the centre (d,), which gives nearly the same once they are divided by their deviation.
    """
    cosines, deviation = _cosines(vectors, own)
    if 0 < float(deviation) < RESOLVED:
        cosines, deviation = _cosines(vectors.detach() - centre.detach(), own)
    return cosines / deviation.clamp_min(1e-4)  # equal vectors have none


def _cosines(vectors: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """(b, n) cosines and their deviation."""
    dense = F.normalize(vectors.detach(), dim=1)
    cosines = dense @ gather(dense)[0].T
    b, n = cosines.shape
    count, itself = b * (n - 1), own[:, None]
    if not count:
        return cosines, cosines.new_zeros(())
    similar = cosines.float()
    mean = (similar.sum() - similar.gather(1, itself).sum()) / count
    # About the mean: of cosines that are all near 1, squares would lose every digit of the spread.
    centred = (similar - mean).scatter_(1, itself, 0)
    variance = torch.linalg.vector_norm(centred).square() / count
    parts = gather(torch.stack((variance, mean))[None])[0]
    deviation = (parts[:, 0].mean() + parts[:, 1].var(correction=0)).sqrt()
    return cosines, deviation


def _active(code: Code, k: int) -> Tensor:
    """Latents that are active at k anywhere in the batch, with repeats."""
    return code.indices[:, :k][code.values[:, :k] > 0]
