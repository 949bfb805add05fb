"""How a `CodeStore` encodes: what its codes depend on, and the arrays of a shard."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from csr_st import code_files
from csr_st.code_options import CodeOptions
from csr_st.codes import SparseCodes
from csr_st.embeddings.encoder import Encoding
from csr_st.embeddings.manifest import CODES, StoreType
from csr_st.head import find_head
from csr_st.model.residual_basis import ResidualBasis
from csr_st.residual import ResidualBits
from csr_st.sparse_encoders import coder_of

BAD_ROWS_NAMED = 5


@dataclass
class CodeEncoding(Encoding):
    """A model that ends in a coder and its options; see `CodeStore.encode`.

    Attributes:
        k: Active latents per item.
        kept: What codes keep; with value_bits they are packed.
    """

    type: ClassVar[StoreType] = CODES

    k: int = 1
    kept: CodeOptions = field(default_factory=CodeOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kept.value_bits is not None and self.dtype != "float32":
            raise ValueError(
                f"dtype={self.dtype!r} is for values that are not packed; leave it out, or "
                f"value_bits={self.kept.value_bits}"
            )

    def identity(self) -> dict[str, Any]:
        """What a code depends on besides the item; not the head's default k, which k replaces."""
        coder = coder_of(self.model)
        found = super().identity()
        for settings in found["modules"].values():
            if settings["class"] == type(coder).__qualname__:
                for name in ("k", "query_k"):
                    settings.pop(name, None)
        about = {"k": self.k, "hidden_dim": coder.hidden_dim, "normalize": coder.normalize}
        if self.kept.value_bits is not None:
            about["value_bits"] = self.kept.value_bits
        if self.kept.pursuit:
            about["pursuit"] = True
        return {**found, **about, **self._residual()}

    def _residual(self) -> dict[str, dict[str, Any]]:
        """The kind of residual; nothing where there is none, as before there were any."""
        if not self.kept.residual_bits:
            return {}
        head = find_head(self.model)
        basis = ResidualBasis.from_head(head).name
        kind = {"bits": self.kept.residual_bits, "basis": basis, "input_dim": head.input_dim}
        return {"residual": kind}

    def encode(self, items: list[Any], first: int) -> dict[str, NDArray[Any]]:
        """Arrays of a shard's rows: values and indices (len(items), k), norms and residual.

        Args:
            items: What the model takes.
            first: Row number of the first item.

        Raises:
            ValueError: If an item embeds to NaN or Inf, naming the rows.
        """
        try:
            rows = self.ask_model(items, max_active_dims=self.k, **self.kept.of_forward)
        except ValueError as error:
            if "NaN or Inf" in str(error):
                self._name_bad_rows(items, first)
            raise
        coder = coder_of(self.model)
        codes = replace(self.kept, residual_bits=0).codes(coder, self.k, rows, np.dtype(np.float32))
        codes = codes._with(values=self.as_stored(codes.values, items, first))
        codes = self.kept.finished(coder, codes, rows[:, 2 * self.k + 1 :])
        residual = {} if codes.residual is None else codes.residual.arrays()
        return {**codes._arrays(), **residual}

    def as_file(
        self, arrays: dict[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """What makes a shard a file that `SparseCodes.load` or `PackedCodes.load` reads."""
        about: dict[str, Any] = {"hidden_dim": coder_of(self.model).hidden_dim, **self._residual()}
        if self.kept.pursuit:
            about["fitted"] = True
        if self.kept.value_bits is None:
            return arrays, code_files.metadata("SparseCodes", about)
        residual = ResidualBits.stored(arrays, about.pop("residual", None))
        values = arrays["indices"], arrays["values"]
        codes = SparseCodes(*values, norms=arrays.get("norms"), residual=residual, **about)
        packed = codes.pack(self.kept.value_bits)
        return packed._arrays(), code_files.metadata("PackedCodes", packed._about())

    def _name_bad_rows(self, items: list[Any], first: int) -> None:
        """Raise a ValueError with the rows that embed to NaN or Inf.

        The head's own error has places in a batch, which was sorted by length: ask again per item.
        """
        vectors = np.zeros((len(items), 1), np.float32)
        for row, item in enumerate(items):
            try:
                self.ask_model([item], max_active_dims=self.k, packed=True)
            except ValueError:
                vectors[row] = np.nan
            if np.isnan(vectors).sum() == BAD_ROWS_NAMED:
                break
        if np.isnan(vectors).any():
            self.refuse(vectors, np.flatnonzero(np.isnan(vectors)), items, first)
