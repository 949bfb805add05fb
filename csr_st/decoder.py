"""A head's decoder as NumPy arrays, for search and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes

if TYPE_CHECKING:
    from csr_st.head import SparseCSRHead


@dataclass(frozen=True, eq=False)
class Decoder:
    """v̂ = A weightᵀ z^(1/power) + pre_bias, from raw code values z.

    A is the identity except for short codes, see `weight_at`.

    Attributes:
        weight: (hidden_dim, input_dim) float32.
        pre_bias: (input_dim,) float32.
        power: The exponent that the head applies to magnitudes.
        short_maps: (input_dim, input_dim) float32 Aᵀ by the largest k for which it is used.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, power is not within 0..1, or a key
            of short_maps is not an integer in 1..hidden_dim.
    """

    weight: NDArray[np.float32]
    pre_bias: NDArray[np.float32]
    power: float = 1.0
    short_maps: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    _mapped: dict[int, NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("weight", "pre_bias"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if self.weight.ndim != 2 or self.pre_bias.shape != self.weight.shape[1:]:
            raise ValueError(
                f"decoder weight {self.weight.shape} and pre_bias {self.pre_bias.shape} must be "
                "(hidden_dim, input_dim) and (input_dim,)"
            )
        if not 0 < self.power <= 1:
            raise ValueError(f"the decoder's power={self.power} must be above 0 and at most 1")
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
        object.__setattr__(self, "short_maps", dict(sorted(maps.items())))

    @classmethod
    def from_head(cls, head: SparseCSRHead) -> Decoder:
        """The decoder of a head; with modalities, around the mean that they share."""
        weight, bias = (
            parameter.detach().float().cpu().numpy()
            for parameter in (head.decoder_weight, head.pre_bias)
        )
        maps = () if head.short_maps is None else head.short_maps.detach().float().cpu().numpy()
        return cls(weight, bias, head.power, dict(zip(head.short_ks, maps, strict=True)))

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return int(self.weight.shape[0])

    @property
    def input_dim(self) -> int:
        """Width of the dense vectors."""
        return int(self.weight.shape[1])

    def weight_at(self, k: int) -> NDArray[np.float32]:
        """(hidden_dim, input_dim) decoder weight for codes of width k.

        This is ``weight`` times the map of the smallest key of ``short_maps`` that is at least
        ``k``, computed once; ``weight`` if there is none.
        """
        short_k = next((key for key in self.short_maps if key >= k), None)
        if short_k is None:
            return self.weight
        if short_k not in self._mapped:
            self._mapped[short_k] = self.weight @ self.short_maps[short_k]
        return self._mapped[short_k]

    def decode(self, codes: SparseCodes) -> NDArray[Any]:
        """(n, input_dim) float32 reconstructions of n codes."""
        magnitudes = codes.raw().to_scipy()
        if self.power != 1:
            magnitudes.data **= np.float32(1 / self.power)
        dense: NDArray[Any] = magnitudes @ self.weight_at(codes.k)
        return dense + self.pre_bias


def _finite(name: str, values: Any) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"the decoder's {name} must be finite floating-point numbers")
    return np.ascontiguousarray(array, np.float32)
