"""What the manifest of a store of codes says of them, checked before anything is made of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from csr_st._io.bit_rows import RowFormat
from csr_st.embeddings.encoder import DTYPES
from csr_st.embeddings.manifest import Manifest
from csr_st.packed_codes import VALUE_BITS
from csr_st.residual import is_kind, row_bytes

IDS = (None, "int", "text")


class CodeLayout(NamedTuple):
    """How the codes of a store are kept.

    Attributes:
        k: Latents of each item.
        hidden_dim: Number of latents of the head.
        normalize: Whether rows have unit norm, and norms beside them.
        dtype: Type of the values, if they are not packed.
        value_bits: Bits of a value if the codes are packed, else None.
        residual: The kind of residual, or None.
        pursuit: Whether values were fitted.
        ids: "int" or "text" where items have ids, else None.
    """

    k: int
    hidden_dim: int
    normalize: bool
    dtype: str
    value_bits: int | None
    residual: dict[str, Any] | None
    pursuit: bool
    ids: str | None

    @classmethod
    def of(cls, manifest: Manifest) -> CodeLayout:
        """The layout of a manifest.

        Raises:
            ValueError: If no writer writes such a manifest.
        """
        recipe = manifest.plan.recipe
        names = ("hidden_dim", "normalize", "dtype", "value_bits", "residual", "pursuit", "ids")
        found = {name: recipe.get(name) for name in names}
        kinds = type(found["hidden_dim"]), type(found["normalize"])
        known = found["dtype"] in DTYPES and found["value_bits"] in (None, *VALUE_BITS)
        known &= not isinstance(found["value_bits"], float) and is_kind(found["residual"])
        known &= found["pursuit"] in (None, True) and found["ids"] in IDS
        if kinds != (int, bool) or not known:
            raise ValueError(f"it has {found}")
        about: dict[str, Any] = {**found, "pursuit": bool(found["pursuit"])}
        return cls(manifest.dim, **about)

    def shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays in a shard of so many rows; ids are none of them."""
        shapes: dict[str, tuple[int, ...]]
        shapes = {"indices": (rows, self.k), "values": (rows, self.k)}
        if self.normalize:
            shapes["norms"] = (rows,)
        if self.value_bits is not None:
            row_format = RowFormat(self.k, self.hidden_dim, self.value_bits)
            shapes = {"bits": (row_format.n_bytes(rows),)}
        if (kind := self.residual) is not None:
            shapes["residual_levels"] = (rows, row_bytes(kind["bits"], kind["input_dim"]))
            shapes["residual_scales"] = (rows,)
        return shapes
