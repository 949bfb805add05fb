"""From the packed rows of a head's forward pass to codes, with what is kept of each vector."""

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


@dataclass(frozen=True)
class CodeOptions:
    """What codes keep of their vectors, beside the number of latents; see `csr_st.encode`.

    Raises:
        TypeError: If residual_bits is no number, value_bits no integer, or pursuit not a bool.
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

    def width(self, head: SparseCSRHead, k: int) -> int:
        """The width of these rows."""
        return 2 * k + 1 + (head.input_dim if self.residual_bits else 0)

    def codes(
        self, head: SparseCSRHead, k: int, rows: NDArray[Any], dtype: np.dtype[Any]
    ) -> SparseCodes:
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
            code.indices.numpy().astype(index_dtype(head.hidden_dim)),
            values,
            head.hidden_dim,
            norms[:, 0].numpy().astype(np.float32) if head.normalize else None,
            fitted=self.pursuit,
        )
        return self.finished(head, codes, rows[:, 2 * k + 1 :])

    def finished(
        self, head: SparseCSRHead, codes: SparseCodes, dense: NDArray[np.float32]
    ) -> SparseCodes:
        """Codes as they are stored, with the residual of that.

        Args:
            head: The head that made the codes.
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
        raw, device = codes.raw(), head.pre_bias.device
        values = torch.from_numpy(raw.values.astype(np.float32)).to(device)
        indices = torch.from_numpy(raw.indices.astype(np.int64)).to(device)
        with torch.inference_mode():
            decoded = head.decode(values, indices, fitted=codes.fitted).float().cpu().numpy()
        residual = ResidualBits.of(
            dense - decoded, self.residual_bits, ResidualBasis.from_head(head)
        )
        return codes._with(residual=residual)
