"""What a training step computes of sparse codes on a processor: compiled loops, with gradients.

torch's own kernels for these steps sort, gather and scatter, each a pass through memory of its own,
and write dense gradients of what is nearly all zero. Here each is one pass over the codes' entries,
by row on the way forward and by latent on the way back, so that threads never write to one place.
Whoever calls these has asked `csr_st.training.compiled.dispatch.takes` before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from csr_st.model.top_k import group_size
from csr_st.training.compiled.dispatch import in_parts

Array = NDArray[Any]


class Disturbance(NamedTuple):
    """How copies of some vectors lie off them.

    Attributes:
        rows: (r,) int64, of which vectors there are copies.
        plus: (r,) int64.
        minus: (r,) int64.
        sizes: (r, 1).
    """

    rows: Tensor
    plus: Tensor
    minus: Tensor
    sizes: Tensor

    def copies(self, vectors: Tensor) -> Tensor:
        """(r, d) v[rows] + sizes (v[plus] - v[minus]), of vectors or of what is linear in them."""
        own, plus, minus = (vectors.index_select(0, rows) for rows in self[:3])
        return torch.addcmul(own, plus - minus, self.sizes)


class Encoded(NamedTuple):
    """Raw codes, and the pre-activations that they were chosen from.

    Attributes:
        pre: (b, h).
        values: (b, k), falling, never negative.
        latents: (b, k) int64.
        copied_values: (r, k') of the copies.
        copied_latents: (r, k') int64.
    """

    pre: Tensor
    values: Tensor
    latents: Tensor
    copied_values: Tensor
    copied_latents: Tensor


def encode(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    centre: Tensor,
    k: int,
    disturbance: Disturbance | None = None,
    copied_k: int = 1,
) -> Encoded:
    """Codes of the rows of x, and of disturbed copies of some of them.

    Pre-activations W (x - centre) + bias are linear in x: those of a copy need no second product.

    Args:
        x: (b, d), without gradient.
        weight: (h, d).
        bias: (h,).
        centre: (d,).
        k: Active latents, at most h.
        disturbance: The copies; none when None.
        copied_k: Active latents of a copy, at most h.

    Returns:
        The codes, with gradients to weight, bias and centre.
    """
    if disturbance is None:
        none = x.new_zeros(0, dtype=torch.int64)
        disturbance = Disturbance(none, none, none, x.new_zeros(0, 1))
    found = _Encoded.apply(x, weight, bias, centre, k, disturbance, copied_k)  # type: ignore[no-untyped-call] # torch's
    return Encoded(*found)


def similarities(
    values: Tensor, latents: Tensor, key_values: Tensor, key_latents: Tensor, hidden_dim: int
) -> Tensor:
    """What `csr_st.training.losses.code_similarities` gives.

    Raises:
        IndexError: If a latent is not within 0..hidden_dim - 1.
    """
    for some in (latents, key_latents):
        _check_latents(some, hidden_dim)
    found: Tensor = _Similarities.apply(values, latents, key_values, key_latents, hidden_dim)  # type: ignore[no-untyped-call] # torch's
    return found


def nested_errors(
    target: Tensor, values: Tensor, latents: Tensor, weight: Tensor, ks: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """What `csr_st.training.losses.nested_errors` gives without a bias.

    Raises:
        IndexError: If a latent is not within 0..h - 1.
        ValueError: If shapes do not fit each other.
    """
    (b, d), k = target.shape, ks[-1]
    if values.shape != (b, k) or latents.shape != (b, k) or weight.shape[1] != d:
        raise ValueError(
            f"target {tuple(target.shape)}, values {tuple(values.shape)}, latents "
            f"{tuple(latents.shape)}, weight {tuple(weight.shape)} and ks={tuple(ks)} do not fit"
        )
    _check_latents(latents, len(weight))
    errors: Tensor
    errors, residuals = _NestedErrors.apply(target, values, latents, weight, tuple(ks))  # type: ignore[no-untyped-call] # torch's
    return errors, residuals


def _check_latents(latents: Tensor, hidden_dim: int) -> None:
    """Refuse latents that do not exist: the loops would read and write beyond an array."""
    if latents.numel():
        least, most = map(int, latents.aminmax())
        if least < 0 or most >= hidden_dim:
            raise IndexError(f"latents {least}..{most} are not within 0..{hidden_dim - 1}")


def _array(x: Tensor) -> Array:
    """Always of one layout, as the loops are compiled for each that they are given."""
    found: Array = x.detach().contiguous().numpy()
    return found


class _Entries:
    """The entries of codes (n, k) in order of their latents.

    Attributes:
        starts: (h + 1,) where each latent's entries begin.
        rows: (n * k,) the code of each.
        ranks: (n * k,) its place there.
    """

    def __init__(self, latents: Tensor, hidden_dim: int) -> None:
        from csr_st.training.compiled import sparse_products as products

        self.starts, self.rows, self.ranks = products.by_latent(_array(latents), hidden_dim)

    def sorted(self, values: Tensor) -> Array:
        """(n * k,) out of values (n, k)."""
        from csr_st.training.compiled import sparse_products as products

        found: Array = products.sorted_by_latent(_array(values), self.rows, self.ranks)
        return found

    def put_back(self, found: Array, like: Tensor) -> Tensor:
        """(n, k) out of (n * k,)."""
        from csr_st.training.compiled import sparse_products as products

        values = like.new_empty(like.shape)
        products.put_back(found, self.rows, self.ranks, values.numpy())
        return values


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        centre: Tensor,
        k: int,
        disturbance: Disturbance,
        copied_k: int,
    ) -> tuple[Tensor, ...]:
        from csr_st.training.compiled import largest as selection

        moved = x - centre
        pre = F.linear(moved, weight, bias)
        found = []
        rows, plus, minus, sizes = (_array(part) for part in disturbance)
        copies = (rows, plus, minus, sizes.ravel())
        for loop, n, lies, wanted in (
            (selection.top_rows, len(x), (), k),
            (selection.top_copies, len(rows), copies, copied_k),
        ):
            values = pre.new_zeros(n, wanted)
            latents = pre.new_zeros(n, wanted, dtype=torch.int64)
            size = group_size(pre.shape[1], wanted)
            in_parts(loop, n, _array(pre), *lies, wanted, size, latents.numpy(), values.numpy())
            found += [values, latents]
        ctx.save_for_backward(moved, weight, *found)
        ctx.disturbance = disturbance
        ctx.mark_non_differentiable(*found[1::2])
        ctx.set_materialize_grads(False)
        return pre, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        from csr_st.training.compiled import sparse_products as products

        moved, weight, *codes = ctx.saved_tensors
        of_weight, total = weight.new_zeros(weight.shape), weight.new_zeros(len(weight))
        of_both = zip(codes[::2], codes[1::2], gradients[1::2], strict=True)
        for inputs, (values, latents, gradient) in zip(
            (moved, ctx.disturbance.copies(moved)), of_both, strict=True
        ):
            if gradient is not None:
                entries = _Entries(latents, len(weight))
                weights = entries.sorted(gradient * (values > 0))
                in_parts(
                    products.add_by_latent, len(weight), entries.starts, entries.rows, weights,
                    _array(inputs), of_weight.numpy(), total.numpy(),
                )  # fmt: skip
        whole = gradients[0]
        if whole is not None:
            of_weight.addmm_(whole.T, moved)
            total += whole.sum(dim=0)
        return None, of_weight, total, -torch.mv(weight.T, total), None, None, None


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        latents: Tensor,
        key_values: Tensor,
        key_latents: Tensor,
        hidden_dim: int,
    ) -> Tensor:
        from csr_st.training.compiled import sparse_products as products

        keys = _Entries(key_latents, hidden_dim)
        found = values.new_empty(len(values), len(key_values))
        in_parts(
            products.similarities, len(values), _array(values), _array(latents),
            keys.starts, keys.rows, keys.sorted(key_values), found.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(values, latents, key_values)
        ctx.keys, ctx.hidden_dim = keys, hidden_dim
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from csr_st.training.compiled import sparse_products as products

        values, latents, key_values = ctx.saved_tensors
        mine, keys = _Entries(latents, ctx.hidden_dim), ctx.keys
        weights, key_weights = mine.sorted(values), keys.sorted(key_values)
        of_values, of_keys = np.empty_like(weights), np.empty_like(key_weights)
        in_parts(
            products.similarity_gradients, ctx.hidden_dim, _array(gradients[0]),
            mine.starts, mine.rows, weights, keys.starts, keys.rows, key_weights,
            of_values, of_keys,
        )  # fmt: skip
        return (
            mine.put_back(of_values, values),
            None,
            keys.put_back(of_keys, key_values),
            None,
            None,
        )


class _NestedErrors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        target: Tensor,
        values: Tensor,
        latents: Tensor,
        weight: Tensor,
        ks: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:
        from csr_st.training.compiled import reconstruction as decoding

        residuals = target.new_empty(len(ks), *target.shape)
        errors = target.new_empty(len(target), len(ks))
        in_parts(
            decoding.prefix_residuals, len(target), _array(target), _array(values), _array(latents),
            _array(weight), np.array(ks), residuals.numpy(), errors.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(values, latents, weight, residuals)
        ctx.ks = ks
        ctx.mark_non_differentiable(residuals)
        ctx.set_materialize_grads(False)  # else backward is given zeros as many as residuals
        return errors.mean(dim=0), residuals

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from csr_st.training.compiled import reconstruction as decoding

        values, latents, weight, residuals = ctx.saved_tensors
        residuals[:0].zero_()  # tells autograd that they are overwritten, which NumPy does not
        b, k = values.shape
        gradient = residuals.numpy()
        in_parts(decoding.suffix_sums, b, gradient, _array(-2 / b * gradients[0]))
        entries = _Entries(latents, len(weight))
        of_values, of_weight = values.new_empty(b, k), weight.new_empty(weight.shape)
        in_parts(
            decoding.decoding_gradients, len(weight), gradient,
            np.searchsorted(ctx.ks, np.arange(k), side="right"), _array(values), _array(weight),
            entries.starts, entries.rows, entries.ranks, of_values.numpy(), of_weight.numpy(),
        )  # fmt: skip
        of_target = -residuals[0] if ctx.needs_input_grad[0] else None
        return of_target, of_values, None, of_weight, None
