"""A head's decoder as arrays: what search and evaluation need of it, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes

if TYPE_CHECKING:
    from csr_st.head import SparseCSRHead


@dataclass(frozen=True, eq=False)
class Decoder:
    """v̂ = weightᵀ z^(1/power) + pre_bias, from raw code values z.

    Attributes:
        weight: (hidden_dim, input_dim) float32.
        pre_bias: (input_dim,) float32.
        power: What the head raised magnitudes to.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or power is not within 0..1.
    """

    weight: NDArray[np.float32]
    pre_bias: NDArray[np.float32]
    power: float = 1.0

    def __post_init__(self) -> None:
        for name in ("weight", "pre_bias"):
            array = np.asarray(getattr(self, name))
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"the decoder's {name} must be finite floating-point numbers")
            object.__setattr__(self, name, np.ascontiguousarray(array, np.float32))
        if self.weight.ndim != 2 or self.pre_bias.shape != self.weight.shape[1:]:
            raise ValueError(
                f"decoder weight {self.weight.shape} and pre_bias {self.pre_bias.shape} must be "
                "(hidden_dim, input_dim) and (input_dim,)"
            )
        if not 0 < self.power <= 1:
            raise ValueError(f"the decoder's power={self.power} must be above 0 and at most 1")

    @classmethod
    def from_head(cls, head: SparseCSRHead) -> Decoder:
        """The decoder of a head; of one with modalities, about the mean that they share."""
        weight, bias = (
            parameter.detach().float().cpu().numpy()
            for parameter in (head.decoder_weight, head.pre_bias)
        )
        return cls(weight, bias, head.power)

    @property
    def hidden_dim(self) -> int:
        """Number of latents."""
        return int(self.weight.shape[0])

    @property
    def input_dim(self) -> int:
        """Width of the dense vectors."""
        return int(self.weight.shape[1])

    def decode(self, codes: SparseCodes) -> NDArray[Any]:
        """(n, input_dim) float32 reconstructions of n codes."""
        magnitudes = codes.raw().to_scipy()
        if self.power != 1:
            magnitudes.data **= np.float32(1 / self.power)
        dense: NDArray[Any] = magnitudes @ self.weight
        return dense + self.pre_bias
