"""From the packed rows of a model's forward pass to codes, with what is kept of each vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st.codes import SparseCodes, index_dtype
from csr_st.head import SparseCSRHead, unpack
from csr_st.model.residual_basis import ResidualBasis
from csr_st.model.settings import flag
from csr_st.packed_codes import check_value_bits
from csr_st.residual import ResidualBits, check_residual_bits
from csr_st.sparse_encoders import Coder


@dataclass(frozen=True)
class CodeOptions:
    """What codes keep of their vectors, beside the number of latents; see `csr_st.encode`.

    Raises:
        TypeError: If residual_bits is not a number, value_bits not an integer, or pursuit not a
            bool.
        ValueError: If residual_bits is no multiple of 0.25 within 0..4, or value_bits not 4 or 8.
    """

    pursuit: bool = False
    residual_bits: float = 0
    value_bits: int | None = None

    def __post_init__(self) -> None:
        flag("pursuit", self.pursuit)
        object.__setattr__(self, "residual_bits", check_residual_bits(self.residual_bits))
        if self.value_bits is not None:
            check_value_bits(self.value_bits)

    @property
    def of_forward(self) -> dict[str, bool]:
        """Options of a forward pass whose rows `codes` takes."""
        options = {"packed": True, "pursuit": self.pursuit, "with_dense": self.residual_bits > 0}
        return {name: on for name, on in options.items() if on}

    def check_for(self, coder: Coder) -> None:
        """Raise a ValueError if they need a decoder, and what makes the codes has none."""
        given = {"pursuit": self.pursuit, "residual_bits": self.residual_bits}
        asked = [f"{name}={value}" for name, value in given.items() if value]
        if asked and not isinstance(coder, SparseCSRHead):
            raise ValueError(
                f"{' and '.join(asked)} needs the decoder of a SparseCSRHead, which this "
                "SparseEncoder does not have; leave it out"
            )
        if isinstance(coder, SparseCSRHead):
            coder.refuse_reconstruction(**given)

    def width(self, coder: Coder, k: int) -> int:
        """The width of these rows."""
        dense = coder.input_dim if self.residual_bits and isinstance(coder, SparseCSRHead) else 0
        return 2 * k + 1 + dense

    def codes(self, coder: Coder, k: int, rows: NDArray[Any], dtype: np.dtype[Any]) -> SparseCodes:
        """The codes in (n, `width`) rows, with values of ``dtype``.

        Raises:
            ValueError: If a value or norm exceeds the largest number of its type.
        """
        code, norms = unpack(torch.from_numpy(rows[:, : 2 * k + 1]))
        with np.errstate(over="ignore"):
            values = code.values.numpy().astype(dtype)
        if not (np.isfinite(values).all() and torch.isfinite(norms).all()):
            raise ValueError(
                f"code values are beyond {dtype.name}: the input vectors are very large; scale "
                "them, or use dtype='float32' or a head with normalize=True"
            )
        codes = SparseCodes(
            code.indices.numpy().astype(index_dtype(coder.hidden_dim)),
            values,
            coder.hidden_dim,
            norms[:, 0].numpy().astype(np.float32) if coder.normalize else None,
            fitted=self.pursuit,
        )
        return self.finished(coder, codes, rows[:, 2 * k + 1 :])

    def finished(self, coder: Coder, codes: SparseCodes, dense: NDArray[np.float32]) -> SparseCodes:
        """Codes as they are stored, with the residual of that.

        Args:
            coder: What made the codes.
            codes: n codes.
            dense: (n, input_dim) vectors that they stand for, less their modality's shift; not used
                without residual bits.
        """
        if self.value_bits is not None:
            dtype = codes.values.dtype
            codes = codes.pack(self.value_bits).unpack()
            codes = codes if dtype == np.float32 else codes.astype(dtype)
        if not self.residual_bits:
            return codes
        assert isinstance(coder, SparseCSRHead)  # `check_for` was asked before
        raw, device = codes.raw(), coder.pre_bias.device
        values = torch.from_numpy(raw.values.astype(np.float32)).to(device)
        indices = torch.from_numpy(raw.indices.astype(np.int64)).to(device)
        with torch.inference_mode():
            decoded = coder.decode(values, indices, fitted=codes.fitted).float().cpu().numpy()
        residual = ResidualBits.of(
            dense - decoded, self.residual_bits, ResidualBasis.from_head(coder)
        )
        return codes._with(residual=residual)
