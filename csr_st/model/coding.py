"""From dense vectors to codes and back: what a head computes."""

from __future__ import annotations

import bisect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csr_st.model import settings
from csr_st.model.coefficients import debiased
from csr_st.model.linear import centred_linear
from csr_st.model.pursuit import pursue
from csr_st.model.token_pooling import OF_MEANS, Tokens, means_of, pooled, tokens_of
from csr_st.model.top_k import top_k


class Code(NamedTuple):
    """The active latents of a batch, sorted by falling value.

    Attributes:
        values: (..., k) activations, never negative; trailing zeros where fewer are positive.
        indices: (..., k) int64 latents, distinct within a row.
    """

    values: Tensor
    indices: Tensor


class Coding(nn.Module):
    """The equations of `csr_st.head.SparseCSRHead`, which has the settings and makes the weights.

    Attributes are those of the head.
    """

    input_dim: int
    hidden_dim: int
    k: int
    power: float
    debias: bool
    modalities: list[str] | None
    short_ks: list[int]
    encoder_weight: nn.Parameter
    decoder_weight: nn.Parameter
    pre_bias: nn.Parameter
    latent_bias: nn.Parameter
    modality_bias: nn.Parameter | None
    short_maps: nn.Parameter | None
    level: str
    pooling: str
    k_token: int
    skipped_tokens: list[int]
    saturation: float
    text_share: float
    latent_weights: nn.Parameter | None

    def check_k(self, k: Any, name: str = "k") -> int:
        """``k`` as an int. Raises TypeError if it is not one, ValueError beyond 1..hidden_dim."""
        return settings.integer(name, k, 1, self.hidden_dim, "hidden_dim=")

    def pre_activations(self, x: Tensor) -> Tensor:
        """W_enc (v - b_pre) + b_enc: (..., input_dim) vectors to (..., hidden_dim)."""
        x = x.to(self.pre_bias.dtype)
        return centred_linear(x, self.encoder_weight, self.latent_bias, self.pre_bias)

    def shift(self, modality: Any) -> Tensor | None:
        """How a modality's mean differs from b_pre; None where the head has no mean for it."""
        if self.modality_bias is None or modality not in (self.modalities or ()):
            return None
        assert self.modalities is not None
        return self.modality_bias[self.modalities.index(modality)]

    def encode(
        self,
        x: Tensor,
        k: int | None = None,
        modality: str | None = None,
        pursuit: bool = False,
    ) -> Code:
        """The raw codes of dense vectors: to the head's ``power``, not scaled to unit norm.

        Args:
            x: (..., input_dim) vectors of any floating type.
            k: Active latents, the head's default when None.
            modality: Modality of the vectors, where the head has a mean for each.
            pursuit: Choose latents one after another by what the decoder still lacks, and fit
                their values to the vector, see `csr_st.model.pursuit`. Such codes come much closer
                to the vector, at some 30 times the cost; without gradient. For documents: a
                query's latents are those of the encoder.

        Returns:
            (..., k) values and indices, sorted by falling value: without ``pursuit``, the code at a
            smaller k is a prefix.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If k is out of bounds, x has another width than input_dim, or NaN or Inf.
        """
        k = self.check_k(self.k if k is None else k)
        x = x.to(self.pre_bias.dtype)
        self._check_input(x)
        shift = self.shift(modality)
        if shift is not None:
            x = x - shift
        with _no_autocast(x.device.type):  # a head computes in its own type, whatever is around it
            if pursuit:
                return self._pursued(x, k)
            values, indices = top_k(self.pre_activations(x), k)
        return Code(self.raised(values.relu()), indices)

    def tokens_of(self, features: dict[str, Any]) -> Tokens:
        """The tokens that a token-level head pools over; raises what `tokens_of` does."""
        skipped = torch.tensor(self.skipped_tokens, device=self.pre_bias.device)
        found = tokens_of(features, skipped)
        self._check_width(found.vectors)
        return found

    def encode_tokens(self, tokens: Tokens, k: int | None = None) -> Code:
        """The raw codes of texts by their tokens: of a token-level head.

        Args:
            tokens: The tokens of n texts.
            k: Active latents of each text, the head's default when None.

        Returns:
            (n, k) values and indices, sorted by falling value; a text without tokens has zeros.

        Raises:
            TypeError: If k is not an integer.
            ValueError: If k is out of bounds or the head is of another level.
        """
        k = self.check_k(self.k if k is None else k)
        values, indices = top_k(self.weighted(self.pooled(tokens)), k)
        return Code(values.to(self.pre_bias.dtype), indices)

    def pooled(self, tokens: Tokens) -> Tensor:
        """(n, hidden_dim) sums or maxima over the tokens of each text, before they are weighted.

        In float32 at least. Memory: that table, twice with ``text_share``, and 64 MiB.
        """
        if self.latent_weights is None:
            raise ValueError("a head with level='text' encodes vectors of texts; call encode")
        with _no_autocast(tokens.vectors.device.type):
            tokens = tokens._replace(vectors=tokens.vectors.to(self.pre_bias.dtype))
            table = pooled(tokens, self._of_tokens, self.hidden_dim, self.pooling)
            if not self.text_share:
                return table
            whole = pooled(means_of(tokens), self._of_means, self.hidden_dim, self.pooling)
            counts = torch.bincount(tokens.texts, minlength=tokens.n_texts)
            return table + whole * (self.text_share * counts[:, None])

    def _of_tokens(self, vectors: Tensor) -> Code:
        values, indices = top_k(self.pre_activations(vectors), self.k_token)
        return Code(values.relu(), indices)

    def _of_means(self, vectors: Tensor) -> Code:
        k = min(OF_MEANS * self.k_token, self.hidden_dim)
        values, indices = top_k(self.pre_activations(vectors), k)
        return Code(values.relu(), indices)

    def weighted(self, pooled: Tensor) -> Tensor:
        """Values of all latents: their weights times s / (s + saturation), for pooled s."""
        assert self.latent_weights is not None
        return self.latent_weights * (pooled / (pooled + self.saturation))

    def refuse_reconstruction(self, **wanted: Any) -> None:
        """Raise a ValueError if a token-level head is asked for what goes by the dense vector."""
        if self.level == "token" and (named := [name for name, on in wanted.items() if on]):
            raise ValueError(
                f"{', '.join(named)}: a head with level='token' neither encodes nor rebuilds the "
                "dense vector of a text; csr_st.encode(model, texts) gives its codes. Leave this "
                "out, or use a head with level='text'"
            )

    @torch.no_grad()
    def _pursued(self, x: Tensor, k: int) -> Code:
        wide = torch.promote_types(x.dtype, torch.float32)
        targets = (x - self.pre_bias).reshape(-1, self.input_dim).to(wide)
        values, indices = pursue(targets, self.decoder_weight.to(wide), k)
        shape = (*x.shape[:-1], k)
        return Code(self.raised(values).to(x.dtype).reshape(shape), indices.reshape(shape))

    def raised(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes, never negative, to ``power``; 0 stays 0 and has no gradient."""
        if self.power == 1:
            return magnitudes
        active = magnitudes > 0
        return torch.where(active, magnitudes, 1).pow(self.power).where(active, 0)

    def magnitudes(self, values: Tensor) -> Tensor:
        """The weights of the decoder's rows: raw code values with ``power`` inverted."""
        return values if self.power == 1 else values.pow(1 / self.power)

    def coefficients(self, values: Tensor, indices: Tensor) -> Tensor:
        """What raw codes (..., k) multiply the decoder's rows by.

        They are `magnitudes`, or with ``debias`` those of `csr_st.model.coefficients`. The gradient
        to ``values`` is that of `magnitudes`.
        """
        if not self.debias:
            return self.magnitudes(values)
        magnitudes = self.magnitudes(values)
        with torch.no_grad():
            flat = magnitudes.reshape(-1, indices.shape[-1]).float()
            weights = self.encoder_weight, self.latent_bias, self.decoder_weight
            latents = indices.reshape(flat.shape).long()
            found: Tensor = debiased(flat, latents, *(weight.float() for weight in weights))
            change = (found - flat).to(magnitudes.dtype)
        return magnitudes + change.reshape(magnitudes.shape)

    def decode(
        self,
        values: Tensor,
        indices: Tensor,
        modality: str | None = None,
        fitted: bool = False,
    ) -> Tensor:
        """Dense vectors from raw codes, at a cost of O(k * input_dim) each, k times more to debias.

        The sum over a short code's latents lacks what tends to occur together with them. For a code
        of width k up to ``short_ks[i]`` it is therefore multiplied by a map A_i, the regression of
        vectors on such sums, at an additional cost of O(input_dim²).

        Args:
            values: (..., k) raw values, as `encode` gives them.
            indices: (..., k) integer latents.
            modality: As for `encode`.
            fitted: Whether `encode` made the codes with ``pursuit``: then magnitudes are the
                coefficients, and there is no map.

        Returns:
            (..., input_dim) reconstructions A W_dec a + b_pre, with the modality's mean: a are the
            `coefficients`, and A is the identity where the head has no map for k.
        """
        k = indices.shape[-1]
        weights = self.magnitudes(values) if fitted else self.coefficients(values, indices)
        flat = F.embedding_bag(
            indices.reshape(-1, k).long(),
            self.decoder_weight,
            per_sample_weights=weights.reshape(-1, k).to(self.decoder_weight.dtype),
            mode="sum",
        )
        if self.short_maps is not None and k <= self.short_ks[-1] and not fitted:
            flat = flat @ self.short_maps[bisect.bisect_left(self.short_ks, k)]
        shift = self.shift(modality)
        mean = self.pre_bias if shift is None else self.pre_bias + shift
        return flat.reshape(*indices.shape[:-1], self.input_dim) + mean

    def _check_input(self, x: Tensor) -> None:
        self._check_width(x)
        if not torch.isfinite(x).all():
            rows = (~torch.isfinite(x.reshape(-1, self.input_dim)).all(dim=1)).nonzero()[:5, 0]
            raise ValueError(
                f"NaN or Inf in the input vectors, first in batch rows {rows.tolist()}; check the "
                "backbone's output (fp16 overflow is the usual cause: load it in bf16 or fp32)"
            )

    def _check_width(self, x: Tensor) -> None:
        if x.shape[-1] != self.input_dim:
            raise ValueError(
                f"vectors of width {x.shape[-1]} given to a head with input_dim={self.input_dim}; "
                "use the backbone that the head was trained on, or train a head for this one"
            )


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()
