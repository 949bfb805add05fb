"""A model whose vectors follow from the text alone, and that can fail where a test wants."""

import hashlib

import numpy as np

DIM = 8


def vector_of(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)


class StubModel:
    """Has what EmbeddingStore.embed uses of a SentenceTransformer."""

    default_prompt_name = None

    def __init__(
        self,
        name=None,
        prompts=None,
        stop_after=None,
        break_at=None,
        nan_at=(),
        scale=1.0,
        before=None,
    ):
        self.prompts = prompts or {}
        self.embedded = 0
        self.calls = 0
        self._stop_after = stop_after
        self._break_at = break_at
        self._nan_at = nan_at
        self._scale = scale
        self._before = before
        if name is not None:
            self.model_card_data = type("Card", (), {"base_model": name})()

    def encode(self, items, prompt=None, prompt_name=None, **options):
        if self.calls == self._stop_after:
            raise KeyboardInterrupt
        if self.calls == self._break_at:
            raise ValueError("the model broke")
        self.calls += 1
        if self._before is not None:
            self._before(self)
        self.embedded += len(items)
        prompt = prompt if prompt is not None else self.prompts.get(prompt_name, "")
        vectors = np.stack([vector_of(prompt + item) * self._scale for item in items])
        vectors[[item in self._nan_at for item in items]] = np.nan
        return vectors

    def encode_query(self, items, **options):
        return self.encode(items, prompt_name="query", **options)
