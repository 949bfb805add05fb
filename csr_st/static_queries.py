"""Codes of queries by look-up, for models whose queries are the mean of vectors of their tokens.

Such a model's queries need no backbone: `csr_st.distill_queries` makes one. sentence-transformers
takes about half a millisecond to look one up; `StaticQueries` takes some 30 microseconds and gives
the same codes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

from csr_st.codes import SparseCodes, index_dtype
from csr_st.head import SparseCSRHead
from csr_st.search.kernels.importing import announced_compilation, load_kernels
from csr_st.word_tokenizer import WordTokenizer

if TYPE_CHECKING:
    from torch import nn

PROJECTED_BYTES = 1 << 28  # memory for the encoder's products with tokens' vectors


class StaticRoute(NamedTuple):
    """The modules that turn a query into a code without a backbone.

    Attributes:
        embedding: The vectors of the tokens.
        unit: Whether their mean is scaled to unit norm.
        head: The head.
    """

    embedding: StaticEmbedding
    unit: bool
    head: SparseCSRHead


def static_route(model: nn.Module) -> StaticRoute | None:
    """How a model encodes queries, if it is by looking up the vectors of their tokens, else None.

    It is so for ``[Router(query=[StaticEmbedding], document=...), SparseCSRHead]`` and for
    ``[StaticEmbedding, SparseCSRHead]``, both also with a `Normalize` before the head, where the
    head is a text-level one in float32 that has no modalities.
    """
    modules: list[Any] = list(model.children())
    if modules and isinstance(modules[0], Router):
        routes: Any = modules[0].sub_modules
        modules = [*routes["query"], *modules[1:]] if "query" in routes else []
    if len(modules) not in (2, 3):
        return None
    first, head = modules[0], modules[-1]
    if not isinstance(first, StaticEmbedding) or not isinstance(head, SparseCSRHead):
        return None
    if head.level != "text" or head.modalities or head.dtype != "float32":
        return None
    if len(modules) == 3 and not isinstance(modules[1], Normalize):
        return None
    return StaticRoute(first, len(modules) == 3, head)


class _Projected(NamedTuple):
    """The encoder's products with the vectors of the tokens that were met.

    Attributes:
        slots: (vocabulary,) int32, row of each token in ``rows``, -1 where it was not met.
        rows: (n, hidden_dim) float32.
        used: Length 1: rows that are filled.
    """

    slots: NDArray[np.int32]
    rows: NDArray[np.float32]
    used: NDArray[np.int64]


class StaticQueries:
    """Codes of queries by look-up; those of ``encode_query`` up to rounding.

    v = Σ E_t over the tokens t of a text, to unit norm, and the head's W (v - b_pre) + b: the
    products W E_t are kept once a token was met, so that a code is a sum of rows. Their memory is
    claimed as tokens are met, up to `PROJECTED_BYTES`.

    Weights are copied: later changes of the model have no effect. Several threads may encode at
    once.

    Args:
        model: A model with a `static_route`.

    Raises:
        ValueError: If it has none.
        ImportError: If numba is not installed.
    """

    def __init__(self, model: Any) -> None:
        route = static_route(model)
        if route is None:
            raise ValueError(
                "the model has no static query route; csr_st.distill_queries gives it one"
            )
        self._tokenizer = WordTokenizer(route.embedding.tokenizer)
        self._prompt = query_prompt(model)
        self.head, self._unit = route.head, route.unit
        with torch.no_grad():
            head = route.head
            self._table = _as_array(route.embedding.embedding.weight)
            self._encoder = _as_array(head.encoder_weight)
            self._bias = _as_array(head.latent_bias) - self._encoder @ _as_array(head.pre_bias)
        self._dtype = index_dtype(head.hidden_dim)
        zeros = np.zeros((1, 1), self._dtype), np.zeros((1, 1), np.float32)
        self._template = SparseCodes(*zeros, head.hidden_dim)
        self.__setstate__(vars(self))

    def __getstate__(self) -> dict[str, Any]:
        """All but what is derived and locks."""
        left_out = "_kernel", "_lock", "_projected"
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kernel = load_kernels("static_queries").code_of_tokens
        self._lock = threading.Lock()
        self._projected = self._nothing_projected(0)
        with announced_compilation("static queries"):  # here, and not in the first search
            self.codes([""], 1)

    def codes(self, queries: Sequence[str], k: int, *, trimmed: bool = False) -> SparseCodes:
        """The codes of n texts at k, as ``csr_st.encode(model, queries, k, role="query")``.

        Args:
            queries: Texts.
            k: Active latents of each, within 1..hidden_dim.
            trimmed: Leave out the columns in which all values are 0.
        """
        values = np.empty((len(queries), k), np.float32)
        latents = np.empty((len(queries), k), self._dtype)
        norms = np.empty(len(queries), np.float32)
        most = 1
        for row, tokens in enumerate(self._tokens(queries)):
            n, norms[row] = self._code(tokens, values[row], latents[row])
            most = max(most, n)
        if trimmed:
            values, latents = values[:, :most], latents[:, :most]
        given = norms if self.head.normalize else None
        return self._template._with(values=values, indices=latents, norms=given)

    def vectors(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """(n, input_dim) dense vectors of n texts, which the head encodes."""
        found = np.zeros((len(queries), self._table.shape[1]), np.float32)
        for row, tokens in enumerate(self._tokens(queries)):
            if len(tokens):
                found[row] = self._table[tokens].mean(axis=0)
        if self._unit:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found

    def _tokens(self, queries: Sequence[str]) -> list[NDArray[np.int64]]:
        if self._prompt:
            queries = [self._prompt + text for text in queries]
        return [self._tokenizer.ids(text) for text in queries]

    def _code(
        self, tokens: NDArray[np.int64], values: NDArray[np.float32], latents: NDArray[Any]
    ) -> tuple[int, float]:
        """Write a code; how many values are above 0, and their norm."""
        known = self._projected
        while True:
            n, norm = self._kernel(
                tokens,
                known.slots,
                known.rows,
                self._table,
                self._bias,
                self.head.power,
                self._unit,
                self.head.normalize,
                values,
                latents,
            )
            if n >= 0:
                return n, norm
            known = self._project(tokens)

    def _project(self, tokens: NDArray[np.int64]) -> _Projected:
        """Products that include those of these tokens."""
        with self._lock:
            known = self._projected
            new = np.unique(tokens[known.slots[tokens] < 0])
            if known.used[0] + len(new) > len(known.rows):  # full, and others may still read it
                new = np.unique(tokens)
                known = self._nothing_projected(len(new))
            first = int(known.used[0])
            rows = slice(first, first + len(new))
            known.rows[rows] = self._table[new] @ self._encoder.T
            known.used[0] = rows.stop
            known.slots[new] = np.arange(first, rows.stop)  # last: it says that rows are there
            self._projected = known
            return known

    def _nothing_projected(self, at_least: int) -> _Projected:
        hidden_dim, vocabulary = len(self._bias), len(self._table)
        room = max(at_least, min(vocabulary, PROJECTED_BYTES // (4 * hidden_dim)))
        return _Projected(
            np.full(vocabulary, -1, np.int32),
            np.empty((room, hidden_dim), np.float32),
            np.zeros(1, np.int64),
        )


def _as_array(weight: torch.Tensor) -> NDArray[np.float32]:
    """A copy in float32, contiguous."""
    return np.array(weight.detach().float().cpu().numpy(), np.float32, order="C")


def query_prompt(model: Any) -> str:
    """What ``encode_query`` puts before a text."""
    prompts = getattr(model, "prompts", None) or {}
    for name in ("query", getattr(model, "default_prompt_name", None)):
        if prompts.get(name) is not None:
            return str(prompts[name])
    return ""
