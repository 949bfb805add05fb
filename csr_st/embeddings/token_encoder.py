"""How a `TokenStore` embeds: texts to the vectors of their tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from csr_st.embeddings.encoder import Encoding
from csr_st.embeddings.manifest import TOKENS, StoreType
from csr_st.model.token_pooling import special_tokens, tokens_of

BATCHES = 4  # that the model gets at once: all features of them are in memory


@dataclass
class TokenEncoding(Encoding):
    """A model whose token vectors are stored; see `TokenStore.embed`.

    Attributes:
        tokens_per_text: At most so many of a text's tokens are kept, drawn at random.
    """

    type: ClassVar[StoreType] = TOKENS

    tokens_per_text: int | None = None

    def identity(self) -> dict[str, Any]:
        """What a vector depends on besides the text."""
        skipped = special_tokens(self.model)
        own = {"tokens_per_text": self.tokens_per_text, "skipped_tokens": skipped}
        return {**super().identity(), **own}

    def encode(self, items: list[Any], first: int) -> dict[str, NDArray[Any]]:
        """Arrays of a shard: "vectors" (m, dim) of tokens, "lengths" and "dense" of texts.

        Tokens are at unit norm, lengths are how many each text has, dense are the pooled vectors.

        Args:
            items: Texts.
            first: Row number of the first.

        Raises:
            ValueError: If the model gives no token vectors, or NaN or Inf, naming the rows.
        """
        skipped = torch.tensor(special_tokens(self.model))
        order = sorted(range(len(items)), key=lambda row: -len(str(items[row])))
        nothing = np.empty((0, 0), np.float32)
        found, dense = [nothing] * len(items), [nothing] * len(items)
        step = BATCHES * self.batch_size
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            read = self._read([items[row] for row in rows], skipped)
            for row, (vectors, pooled) in zip(rows, read, strict=True):
                found[row] = self._sampled(vectors, first + row).astype(self.dtype)
                dense[row] = pooled[None]
        self._refuse_not_finite(found, items, first)
        return {
            "vectors": np.concatenate(found),
            "lengths": np.array([len(vectors) for vectors in found], np.int32),
            "dense": self.as_stored(np.concatenate(dense), items, first),
        }

    def _read(
        self, items: list[Any], skipped: torch.Tensor
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        options: dict[str, Any] = {"prompt": self.prompt, "prompt_name": self.prompt_name}
        options = {name: value for name, value in options.items() if value is not None}
        method = getattr(self.model, "encode" if self.role is None else f"encode_{self.role}")
        with _padding(self.model):
            features = method(
                items,
                batch_size=self.batch_size,
                output_value=None,
                convert_to_numpy=False,
                show_progress_bar=False,
                device=self.device,
                **options,
            )
        for of_text in features:
            batched = {
                name: value[None] if isinstance(value, torch.Tensor) and value.dim() else value
                for name, value in of_text.items()
            }
            ids = batched.get("input_ids")
            known = skipped if ids is None else skipped.to(ids.device)
            pooled = of_text.get("sentence_embedding")
            if pooled is None:
                raise ValueError("the model does not pool its tokens; add a Pooling module")
            vectors = tokens_of(batched, known, checked=False).vectors
            yield vectors.cpu().numpy(), pooled.float().cpu().numpy()

    def _refuse_not_finite(
        self, found: list[NDArray[np.float32]], items: list[Any], first: int
    ) -> None:
        sums = np.array([vectors.sum(dtype=np.float64) for vectors in found])
        if not (finite := np.isfinite(sums)).all():
            self.refuse(sums[:, None], np.flatnonzero(~finite), items, first)

    def _sampled(self, vectors: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """At most ``tokens_per_text`` of a text's tokens, in their order."""
        most = self.tokens_per_text
        if most is None or len(vectors) <= most:
            return vectors
        drawn = np.random.default_rng((0, row)).choice(len(vectors), most, replace=False)
        return vectors[np.sort(drawn)]


@contextlib.contextmanager
def _padding(model: Any) -> Iterator[None]:
    """Let a model pad its batches: else flash attention has the texts of one in a single row."""
    first: Any = next(iter(model.children()), None) if hasattr(model, "children") else None
    if not getattr(first, "can_flatten_inputs", False):
        yield
        return
    before, first.unpad_inputs = first.unpad_inputs, False
    try:
        yield
    finally:
        first.unpad_inputs = before
