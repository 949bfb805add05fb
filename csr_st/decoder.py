"""A head's decoder as NumPy arrays, for search and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.model.coefficients import debiased
from csr_st.model.residual_basis import ResidualBasis
from csr_st.residual import ResidualBits

if TYPE_CHECKING:
    from csr_st.head import SparseCSRHead


MAX_PRODUCTS = 4096  # latents whose row products are kept: 64 MiB


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes codes to dense vectors: v̂ = A weightᵀ a + pre_bias + r̂.

    a are the coefficients of a code (`coefficients`): debiased by `csr_st.model.coefficients` if
    ``encoder_weight`` is given, else z^(1/power) of its raw values z. A is the identity except for
    short codes (`weight_at`). r̂ is the decoded residual of codes with residual bits, else 0.

    Attributes:
        weight: (hidden_dim, input_dim) float32.
        pre_bias: (input_dim,) float32.
        power: The exponent that the head applies to magnitudes.
        short_maps: (input_dim, input_dim) float32 Aᵀ by the largest k for which it is used.
        encoder_weight: (hidden_dim, input_dim) float32, by which the codes were made, or None.
        latent_bias: (hidden_dim,) float32, given together with it.
        residual_basis: The axes of residual bits, where the head has some of its own.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, power is not within 0..1, a key of
            short_maps is not an integer in 1..hidden_dim, only one of encoder_weight and
            latent_bias is given, or the basis is of another width.
    """

    weight: NDArray[np.float32]
    pre_bias: NDArray[np.float32]
    power: float = 1.0
    short_maps: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    encoder_weight: NDArray[np.float32] | None = None
    latent_bias: NDArray[np.float32] | None = None
    residual_basis: ResidualBasis | None = None
    _mapped: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)
    _products: list[NDArray[np.float32]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        shape = np.shape(self.weight)
        for name, expected in (
            ("weight", shape[:2]),
            ("pre_bias", shape[1:]),
            ("encoder_weight", shape),
            ("latent_bias", shape[:1]),
        ):
            given = getattr(self, name)
            if given is None and name in ("encoder_weight", "latent_bias"):
                continue
            object.__setattr__(self, name, _finite(name, given))
            if np.shape(given) != expected or len(shape) != 2:
                raise ValueError(
                    f"the decoder's {name} has shape {np.shape(given)}; weights must be "
                    "(hidden_dim, input_dim), pre_bias (input_dim,), latent_bias (hidden_dim,)"
                )
        if (self.encoder_weight is None) != (self.latent_bias is None):
            raise ValueError("encoder_weight and latent_bias of a decoder come together: pass both")
        if not 0 < self.power <= 1:
            raise ValueError(f"the decoder's power={self.power} must be above 0 and at most 1")
        object.__setattr__(self, "short_maps", self._checked_maps())
        if self.residual_basis is not None and self.residual_basis.input_dim != self.input_dim:
            raise ValueError(
                f"the residual basis has input_dim={self.residual_basis.input_dim}, the decoder "
                f"{self.input_dim}; pass that of the same head"
            )

    def _checked_maps(self) -> dict[int, NDArray[np.float32]]:
        maps = {}
        for k, values in self.short_maps.items():
            if type(k) is not int or not 1 <= k <= self.hidden_dim:
                raise ValueError(
                    f"the decoder's short_maps have the key {k!r}; each must be an integer in "
                    f"1..{self.hidden_dim}"
                )
            maps[k] = _finite(f"map of k={k}", values)
            if maps[k].shape != 2 * self.pre_bias.shape:
                raise ValueError(
                    f"the decoder's map of k={k} has shape {maps[k].shape}; it must be "
                    f"{2 * self.pre_bias.shape}, (input_dim, input_dim)"
                )
        return dict(sorted(maps.items()))

    @classmethod
    def from_head(cls, head: SparseCSRHead) -> Decoder:
        """The decoder of a head; with modalities, around the mean that they share.

        Raises:
            ValueError: If the head is a token-level head, which has no decoder of texts.
        """
        head.refuse_reconstruction(decoder=True)
        weight, bias, *measured = (
            parameter.detach().float().cpu().numpy()
            for parameter in (
                head.decoder_weight,
                head.pre_bias,
                head.encoder_weight,
                head.latent_bias,
            )
        )
        maps = () if head.short_maps is None else head.short_maps.detach().float().cpu().numpy()
        short_maps = dict(zip(head.short_ks, maps, strict=True))
        basis = None if head.residual_basis is None else ResidualBasis.from_head(head)
        about = head.power, short_maps, *(measured if head.debias else (None, None)), basis
        return cls(weight, bias, *about)

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return int(self.weight.shape[0])

    @property
    def input_dim(self) -> int:
        """Width of the dense vectors."""
        return int(self.weight.shape[1])

    def weight_at(self, k: int, fitted: bool = False) -> NDArray[np.float32]:
        """(hidden_dim, input_dim) decoder weight for codes of width k; without map if ``fitted``.

        This is ``weight`` times the map of the smallest key of ``short_maps`` that is at least
        ``k``, computed once; ``weight`` if there is none.
        """
        short_k = next((key for key in self.short_maps if key >= k and not fitted), None)
        if short_k is None:
            return self.weight
        if short_k not in self._mapped:
            self._mapped[short_k] = self.weight @ self.short_maps[short_k]
        return self._mapped[short_k]

    def row_products(self, n: int) -> NDArray[np.float32]:
        """(hidden_dim, hidden_dim) products of the encoder's rows with the decoder's, made once.

        (0, 0) where they are too many to be kept, or more than n codes are likely to use.
        """
        if self.hidden_dim > min(MAX_PRODUCTS, n) or self.encoder_weight is None:
            return np.empty((0, 0), np.float32)
        if not self._products:
            self._products.append(self.encoder_weight @ self.weight.T)
        return self._products[0]

    def coefficients(self, codes: SparseCodes) -> NDArray[np.float32]:
        """(n, k) float32 coefficients of the decoder's rows for n codes; 0 where a value is 0."""
        raw = codes.raw()
        magnitudes = raw.values.astype(np.float32)
        if self.power != 1:
            magnitudes **= np.float32(1 / self.power)
        if codes.fitted or self.encoder_weight is None or self.latent_bias is None:
            return magnitudes
        weights = self.encoder_weight, self.latent_bias, self.weight
        coefficients: NDArray[np.float32] = debiased(magnitudes, raw.indices, *weights)
        return coefficients

    def decode(self, codes: SparseCodes) -> NDArray[Any]:
        """(n, input_dim) float32 reconstructions of n codes, with their residual bits.

        Raises:
            ValueError: If residual bits are of another basis or width.
        """
        n, k = codes.indices.shape
        arrays = self.coefficients(codes).ravel(), codes.indices.ravel(), np.arange(n + 1) * k
        sums = scipy.sparse.csr_matrix(arrays, shape=codes.shape) @ self.weight_at(k, codes.fitted)
        decoded: NDArray[Any] = sums + self.pre_bias
        if codes.residual is not None:
            self.check_residual(codes.residual)
            decoded += codes.residual.decode(self.residual_basis)
        return decoded

    def check_residual(self, residual: ResidualBits) -> None:
        """Check that residual bits were made by the head of this decoder.

        Raises:
            ValueError: If their basis or width is another.
        """
        if residual.input_dim != self.input_dim:
            raise ValueError(
                f"the decoder has input_dim={self.input_dim}, the residual of the codes "
                f"{residual.input_dim}; pass the decoder of the head that made the codes"
            )
        residual.check_basis(self.residual_basis)


def _finite(name: str, values: Any) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"the decoder's {name} must be finite floating-point numbers")
    return np.ascontiguousarray(array, np.float32)
