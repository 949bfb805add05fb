"""Named tensors of a tied top-k autoencoder to a head, once names and shapes are seen to fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from csr_st.head import SparseCSRHead

# The names that the papers' authors and sentence-transformers share. The decoder is the encoder's
# transpose and its tensor the same one: safetensors stores it once, under either name.
ENCODER, DECODER = "encoder.weight", "decoder.linear.weight"
PRE_BIAS, LATENT_BIAS = "pre_bias", "latent_bias"


def head_of(weights: Mapping[str, Any], k: int, where: str, *, normalize: bool) -> SparseCSRHead:
    """A tied head from the three tensors of the authors' layout.

    Args:
        weights: Tensors by name: ``encoder.weight`` (h, d), ``pre_bias`` (d,), ``latent_bias``
            (h,); others are left out.
        k: Default active latents.
        where: Name of the source, for messages.
        normalize: Scale codes to unit length.

    Raises:
        ValueError: If a tensor is missing, not finite or of a shape that does not fit, or k is out
            of bounds.
        TypeError: If k is no integer.
    """
    stored_as = DECODER if DECODER in weights and ENCODER not in weights else ENCODER
    encoder, pre_bias, latent_bias = (
        _tensor(weights, name, where) for name in (stored_as, PRE_BIAS, LATENT_BIAS)
    )
    _check_shapes(encoder, {LATENT_BIAS: (latent_bias, 0), PRE_BIAS: (pre_bias, 1)}, where)
    decoder = weights.get(DECODER)
    if isinstance(decoder, Tensor) and not torch.equal(decoder.float(), encoder):
        raise ValueError(
            f"{where} has a {DECODER} that is not its {ENCODER}: its decoder is not tied"
        )
    hidden_dim, input_dim = encoder.shape
    head = SparseCSRHead(input_dim, hidden_dim, k, normalize=normalize, tied=True)
    with torch.no_grad():
        head.encoder_weight.copy_(encoder)
        head.pre_bias.copy_(pre_bias)
        head.latent_bias.copy_(latent_bias)
    return head


def _tensor(weights: Mapping[str, Any], name: str, where: str) -> Tensor:
    found = weights.get(name)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{where} has no tensor {name!r}, only {sorted(map(str, weights))[:8]}; is it the "
            "checkpoint of a sparse autoencoder?"
        )
    if not found.is_floating_point() or not torch.isfinite(found).all():
        raise ValueError(f"{where}: {name} holds NaN, Inf or integers; download it again")
    return found.detach().float()


def _check_shapes(encoder: Tensor, biases: Mapping[str, tuple[Tensor, int]], where: str) -> None:
    if encoder.ndim != 2:
        raise ValueError(f"{where}: {ENCODER} has shape {tuple(encoder.shape)}, not (h, d)")
    for name, (bias, axis) in biases.items():
        if tuple(bias.shape) != (encoder.shape[axis],):
            raise ValueError(
                f"{where}: {name} has shape {tuple(bias.shape)}, but {ENCODER} with "
                f"{tuple(encoder.shape)} asks for ({encoder.shape[axis]},)"
            )
