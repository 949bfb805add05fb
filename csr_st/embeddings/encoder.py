"""The model that embeds, with its options: items to the arrays of a shard."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from csr_st.data.images import decoded, is_picture
from csr_st.embeddings.identity import describe_modules, model_name, weights_digest
from csr_st.embeddings.manifest import EMBEDDINGS, StoreType
from csr_st.embeddings.matrix import name_rows
from csr_st.head import SparseCSRHead

DTYPES = ("float16", "float32")


@dataclass
class Encoding:
    """A model and its options; see `EmbeddingStore.embed`.

    The content of a store follows from three methods that a subclass may replace: `identity`,
    `encode` and `as_file`.
    """

    type: ClassVar[StoreType] = EMBEDDINGS

    model: Any
    role: str | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    batch_size: int = 64
    dtype: str = "float16"
    device: Any = None
    _pool: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.role not in (None, "query", "document"):
            raise ValueError(f"role={self.role!r}; pass None, 'query' or 'document'")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r}; pass one of {', '.join(DTYPES)}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}; pass 1 or more")
        if self.prompt is None and self.prompt_name not in (None, *self._prompts):
            raise ValueError(
                f"prompt_name={self.prompt_name!r} is not a prompt of the model; it has "
                f"{sorted(self._prompts)}"
            )

    @property
    def _prompts(self) -> dict[str, str]:
        return getattr(self.model, "prompts", None) or {}

    def identity(self) -> dict[str, Any]:
        """What a vector depends on besides the item."""
        name, revision = model_name(self.model)
        return {
            "model": name,
            "revision": revision,
            "weights": weights_digest(self.model),
            "modules": describe_modules(self.model),
            "truncate_dim": getattr(self.model, "truncate_dim", None),
            "max_seq_length": getattr(self.model, "max_seq_length", None),
            "prompt": self._resolved_prompt(),
            "role": self.role,
            "dtype": self.dtype,
        }

    def _resolved_prompt(self) -> str | None:
        """The prompt that the model will use, by sentence-transformers' order of precedence."""
        if self.prompt is not None:
            return self.prompt
        usual = {"query": ["query"], "document": ["document", "passage", "corpus"]}
        default = getattr(self.model, "default_prompt_name", None)
        names = [self.prompt_name, *usual.get(self.role or "", []), default]
        found = [self._prompts[name] for name in names if name in self._prompts]
        return (found[0] or None) if found else None

    @contextlib.contextmanager
    def ready(self, device: str | None) -> Iterator[None]:
        """Start worker processes when several devices are given, and stop them at the end."""
        self.device = device if self.device is None else self.device
        if not isinstance(self.device, list | tuple):
            yield
            return
        self._pool = self.model.start_multi_process_pool(list(self.device))
        try:
            yield
        finally:
            self.model.stop_multi_process_pool(self._pool)
            self._pool = None

    def encode(self, items: list[Any], first: int) -> dict[str, NDArray[Any]]:
        """Arrays of a shard's rows: "vectors", (len(items), dim) in the store's type.

        Args:
            items: What the model takes.
            first: Row number of the first item.

        Raises:
            ValueError: If the model gives another shape, or NaN or Inf, naming the rows.
        """
        vectors = self.ask_model(items)
        if vectors.ndim != 2 or len(vectors) != len(items) or vectors.dtype.kind != "f":
            raise ValueError(
                f"the model gave {vectors.dtype} of shape {vectors.shape} for {len(items)} items; "
                "floating-point vectors of shape (n, dim) are needed"
            )
        return {"vectors": self.as_stored(vectors, items, first)}

    def as_file(
        self, arrays: dict[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """What the file of a shard has: arrays, and metadata beside the shard's header."""
        return arrays, {}

    def ask_model(self, items: list[Any], **further: Any) -> NDArray[Any]:
        """Output of the model's encode method, with ``further`` arguments to it.

        Images are decoded per batch, so that memory has the pixels of one batch only.
        """
        encode = getattr(self.model, "encode" if self.role is None else f"encode_{self.role}")
        options: dict[str, Any] = {"prompt": self.prompt, "prompt_name": self.prompt_name}
        options |= {"pool": self._pool} if self._pool is not None else {"device": self.device}
        options = {name: value for name, value in options.items() if value is not None}
        options |= {"show_progress_bar": False, "convert_to_numpy": True, **further}
        at_once = self.batch_size if any(map(is_picture, items)) else len(items)
        batches = (decoded(items[i : i + at_once]) for i in range(0, len(items), at_once))
        found = [encode(batch, batch_size=self.batch_size, **options) for batch in batches]
        return np.concatenate(found)

    def as_stored(self, vectors: NDArray[Any], items: list[Any], first: int) -> NDArray[Any]:
        """Rows in the store's type.

        Raises:
            ValueError: If a row is NaN or Inf, or too large for the type, naming the rows.
        """
        with np.errstate(over="ignore"):
            stored = vectors.astype(self.dtype, copy=False)
        finite = np.isfinite(stored).all(axis=1)
        if not finite.all():
            self.refuse(vectors, np.flatnonzero(~finite), items, first)
        return stored

    def refuse(
        self, vectors: NDArray[Any], bad: NDArray[np.int64], items: list[Any], first: int
    ) -> NoReturn:
        """Raise a ValueError that names bad rows and why they are bad."""
        starts = "".join(f"\n  {first + row}: {items[row]!r:.80}" for row in bad[:5].tolist())
        if np.isfinite(vectors[bad]).all():
            why = f"exceeds {self.dtype}'s largest number; pass dtype='float32'"
        else:
            why = "is NaN or Inf; look at these items, or compute the model in float32"
        raise ValueError(
            f"the vector of row {name_rows(bad + first)} {why}. Shards that were finished stay."
            f"{starts}"
        )


def refuse_head(model: Any) -> None:
    """Raise a ValueError if a model outputs codes, hidden_dim wide, instead of vectors."""
    modules = model.modules() if hasattr(model, "modules") else ()
    if any(isinstance(module, SparseCSRHead) for module in modules):
        raise ValueError(
            "the model has a SparseCSRHead, and an embedding store has the vectors that enter one: "
            "pass csr_st.detach(model) or the backbone; csr_st.CodeStore.encode stores codes"
        )
