"""What the model does with the texts of a batch: codes, dense vectors, encoded queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.encoding import Role, encode, encode_dense
from csr_st.searcher import Queries, Searcher
from csr_st.serving.tokens import Tokens
from csr_st.sparse_encoders import AnyModel


class Codes(NamedTuple):
    """Codes of a batch."""

    codes: SparseCodes

    def part(self, begin: int, end: int) -> SparseCodes:
        """The codes of one job."""
        return self.codes[begin:end]


class Vectors(NamedTuple):
    """Dense vectors of a batch, (n, input_dim), and the number of tokens of each text."""

    vectors: NDArray[np.float32]
    tokens: list[int]

    def part(self, begin: int, end: int) -> Vectors:
        """The vectors of one job."""
        return Vectors(self.vectors[begin:end], self.tokens[begin:end])


@dataclass(frozen=True)
class Encode:
    """Codes at a k, for a role or with a prompt."""

    model: AnyModel = field(compare=False, repr=False)
    k: int | None
    role: Role | None
    prompt_name: str | None
    batch_size: int

    def __call__(self, texts: list[str]) -> Codes:
        """The codes, as `csr_st.encode` gives them."""
        options = _options(self.prompt_name, self.batch_size)
        return Codes(encode(self.model, texts, k=self.k, role=self.role, **options))


@dataclass(frozen=True)
class EncodeDense:
    """Dense vectors, for a role or with a prompt."""

    model: AnyModel = field(compare=False, repr=False)
    tokens: Tokens = field(compare=False, repr=False)
    role: Role | None
    prompt_name: str | None
    batch_size: int

    def __call__(self, texts: list[str]) -> Vectors:
        """The vectors, as `csr_st.encode_dense` gives them."""
        options = _options(self.prompt_name, self.batch_size)
        vectors = encode_dense(self.model, texts, role=self.role, **options)
        return Vectors(vectors, self.tokens.count(texts, self.role, self.prompt_name))


@dataclass(frozen=True)
class EncodeQueries:
    """Queries, encoded for searchers of one query_k that rescore or do not."""

    searcher: Searcher = field(compare=False, repr=False)
    query_k: int | None
    rescores: bool

    def __call__(self, texts: list[str]) -> Queries:
        """The queries, as `csr_st.Searcher.encoded` gives them."""
        return self.searcher.encoded(texts)


def _options(prompt_name: str | None, batch_size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": False}
    return options if prompt_name is None else {**options, "prompt_name": prompt_name}
