"""One call from text to hits: encode a query, search an index, rescore, look up the texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st.codes import SparseCodes
from csr_st.data.inputs import as_inputs, check_input
from csr_st.decoder import Decoder
from csr_st.encoding import encode, encode_dense, encode_vectors
from csr_st.head import SparseCSRHead
from csr_st.model.settings import integer
from csr_st.search import Searchable, open_index
from csr_st.search.ids import Ids
from csr_st.search.numbers import whole
from csr_st.search.requests import checked_recall
from csr_st.search.words import check_weight
from csr_st.sparse_encoders import AnyModel, ready
from csr_st.static_queries import StaticQueries, static_route

Texts = Sequence[str] | Mapping[Any, str]


class Hit(NamedTuple):
    """A document that was found.

    Attributes:
        id: Its id in the index.
        score: As `csr_st.SparseIndex.search` gives it.
        text: Its text, None where the searcher was given none.
    """

    id: Any
    score: float
    text: str | None


class Queries(NamedTuple):
    """Encoded queries, ready to be searched by `Searcher.search`.

    Attributes:
        texts: The queries.
        codes: Their codes, one row each.
        dense: (n, input_dim) their dense vectors, None without rescoring.
    """

    texts: list[str]
    codes: SparseCodes
    dense: NDArray[np.float32] | None

    def part(self, begin: int, end: int) -> Queries:
        """Some of the queries, such as those of one caller among several."""
        dense = None if self.dense is None else self.dense[begin:end]
        return Queries(self.texts[begin:end], self.codes[begin:end], dense)


class Searcher:
    """A model and an index of its codes, searched by text.

    ::

        searcher = csr_st.Searcher(model, index, texts)
        for hit in searcher("copy a folder", top_k=3):
            print(hit.score, hit.text)

    A model with static queries (`csr_st.distill_queries`) needs no forward pass: a call takes about
    0.12 ms at 100,000 documents (see tests/benchmarks/README.md). An index with words is searched
    by codes and BM25. Several threads may search at once, also while the index changes.

    Args:
        model: A model with a head, a `SparseEncoder`, or the folder or Hub id of a model with a
            head. The weights of static queries are copied, so later changes have no effect.
        index: An index of codes of the model's documents, or its file.
        texts: Texts of the documents, returned with hits: a sequence in the order of
            ``index.ids``, or a mapping by id. If None, hits have no text.
        k: Latents per document to use; all when None.
        query_k: Latents per query; when None, the head's ``query_k``, else 4k. A `SparseEncoder`
            without a head uses all active dimensions when None.
        rescore: Score this many of the best documents again through the decoder, see
            `csr_st.SparseIndex.search`; 0 for none. A model with static queries then ranks by their
            vectors, not by those of the backbone.
        weight: Weight of BM25, for an index with words: the index's when None, 0 for codes alone.
        approximate: Target recall, see `csr_st.SparseIndex.search`; exact when None.
        threads: Threads of the search; when None, one for a single query, else all CPUs.

    Raises:
        TypeError: If a number is not an integer, or texts are one str.
        ValueError: If the model has no head, the index no codes or other latents, a number is out
            of bounds, texts are not as many as documents, or rescoring needs a decoder that a
            `SparseEncoder` or a token-level head does not have.
        ImportError: If numba is not installed.
    """

    def __init__(  # what a search is, once for all queries
        self,
        model: AnyModel | str | Path,
        index: Searchable | str | Path,
        texts: Texts | None = None,
        *,
        k: int | None = None,
        query_k: int | None = None,
        rescore: int = 0,
        weight: float | None = None,
        approximate: float | None = None,
        threads: int | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            model = SentenceTransformer(str(model))
        self.index = index if isinstance(index, Searchable) else open_index(index)
        if not self.index.hidden_dim:
            raise ValueError("the index has only words; search it by index.search(words=[...])")
        self.model, coder = model, ready(model, 1).coder
        self._head = coder if isinstance(coder, SparseCSRHead) else None
        if coder.hidden_dim != self.index.hidden_dim:
            raise ValueError(
                f"the model has hidden_dim={coder.hidden_dim}, the index "
                f"{self.index.hidden_dim}; build the index from the model's codes"
            )
        self._set(k, query_k, rescore, weight, approximate)
        self.threads = None if threads is None else whole("threads", threads)
        self._static = None if static_route(model) is None else StaticQueries(model)
        self._texts = None if texts is None else self._by_id(texts)

    def with_options(
        self,
        *,
        k: int | None = None,
        query_k: int | None = None,
        rescore: int = 0,
        weight: float | None = None,
        approximate: float | None = None,
    ) -> Searcher:
        """A searcher of the same model, index and texts, which are shared, with other options.

        The arguments and what is raised are those of the class.
        """
        other = copy.copy(self)
        other._set(k, query_k, rescore, weight, approximate)
        return other

    def _set(
        self,
        k: int | None,
        query_k: int | None,
        rescore: int,
        weight: float | None,
        approximate: float | None,
    ) -> None:
        if weight is not None and self.index.language is None:
            raise ValueError(
                f"weight={weight} applies to words, and the index has none; build it with words="
            )
        self.k = (
            None if k is None else whole("k", k, self.index.k, "the latents stored per document")
        )
        self.query_k = self._query_k(query_k)
        self.rescore = integer("rescore", rescore, 0, 2**31 - 1)
        self._decoder = self._decoder_to_rescore() if self.rescore else None
        self.weight = None if weight is None else check_weight(weight)
        self.approximate = None if approximate is None else checked_recall(approximate)

    def _query_k(self, query_k: int | None) -> int | None:
        if self._head is None:
            return query_k
        if query_k is None:
            return self._head.query_k or min(4 * (self.k or self.index.k), self._head.hidden_dim)
        return self._head.check_k(query_k, "query_k")

    def _decoder_to_rescore(self) -> Decoder | None:
        if self._head is None:
            raise ValueError(
                f"rescore={self.rescore} ranks by dense vectors, and a SparseEncoder without a "
                "head has none; leave it out"
            )
        self._head.refuse_reconstruction(rescore=self.rescore)
        return None if self.index.decoder is not None else Decoder.from_head(self._head)

    def _by_id(self, texts: Texts) -> Texts:
        """Texts that an id finds: a sequence where ids are 0..n-1."""
        if isinstance(texts, str):
            raise TypeError("texts is one str; pass one for each document, or a mapping by id")
        if isinstance(texts, Mapping):
            return texts
        ids = self.index.ids
        if len(texts) != len(ids):
            raise ValueError(
                f"there are {len(texts):,} texts and {len(ids):,} documents in the index; pass one "
                "for each, or a mapping by id"
            )
        if ids.dtype != object and np.array_equal(ids, np.arange(len(ids))):
            return texts
        return dict(zip(ids.tolist(), texts, strict=True))

    @overload
    def __call__(  # type: ignore[overload-overlap] # a str is a sequence of str too
        self,
        queries: str,
        top_k: int = ...,
        *,
        filter: Ids | NDArray[np.bool_] | None = ...,
        boost: Mapping[int, float] | None = ...,
    ) -> list[Hit]: ...

    @overload
    def __call__(
        self,
        queries: Sequence[str],
        top_k: int = ...,
        *,
        filter: Ids | NDArray[np.bool_] | None = ...,
        boost: Mapping[int, float] | None = ...,
    ) -> list[list[Hit]]: ...

    def __call__(
        self,
        queries: str | Sequence[str],
        top_k: int = 10,
        *,
        filter: Ids | NDArray[np.bool_] | None = None,
        boost: Mapping[int, float] | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """The best documents of a query, or of each of several.

        Args:
            queries: One text, or several.
            top_k: Documents per query; all where there are fewer.
            filter: See `csr_st.SparseIndex.search`.
            boost: See `csr_st.SparseIndex.search`.

        Returns:
            Hits, best first, for a str; a list of them for each of several.

        Raises:
            TypeError: If a query is not text, or an option of the wrong type.
            ValueError: If a query is missing, or a combination is not possible.
        """
        single = isinstance(queries, str)
        asked = [queries] if isinstance(queries, str) else _checked(queries)
        if not asked:
            return []
        hits = self.search(self.encoded(asked), top_k, filter=filter, boost=boost)
        return hits[0] if single else hits

    def encoded(self, queries: Sequence[str]) -> Queries:
        """Encode one or more queries for `search`: codes, and dense vectors if it rescores.

        Raises:
            TypeError: If a query is not text.
            ValueError: If a query is missing, or there is none.
        """
        asked = _checked(queries)
        if not asked:
            raise ValueError("there are no queries; pass one or more")
        codes, dense = self._encoded(asked)
        return Queries(asked, codes, dense)

    def search(
        self,
        queries: Queries,
        top_k: int = 10,
        *,
        filter: Ids | NDArray[np.bool_] | None = None,
        boost: Mapping[int, float] | None = None,
    ) -> list[list[Hit]]:
        """Search with queries that `encoded` made: the best documents of each.

        Args:
            queries: From `encoded` of a searcher with the same ``query_k`` and ``rescore``.
            top_k: Documents per query; all where there are fewer.
            filter: See `csr_st.SparseIndex.search`.
            boost: See `csr_st.SparseIndex.search`.

        Returns:
            For each query its hits, best first.

        Raises:
            TypeError: If an option is of the wrong type.
            ValueError: If a combination is not possible.
        """
        asked, codes, dense = queries
        rescoring: dict[str, Any] = {}
        top_k = min(whole("top_k", top_k), len(self.index))
        if dense is not None:
            rescoring = {"queries_dense": dense, "decoder": self._decoder}
            rescoring["rescore"] = max(self.rescore, top_k)
        found = self.index.search(
            codes,
            top_k,
            self.k,
            filter,
            boost=boost,
            words=None if self.index.language is None else asked,
            weight=self.weight,
            approximate=self.approximate,
            threads=1 if self.threads is None and len(asked) == 1 else self.threads,
            **rescoring,
        )
        return [
            self._hits(names, scores)
            for names, scores in zip(found.ids.tolist(), found.scores.tolist(), strict=True)
        ]

    def _encoded(self, queries: list[str]) -> tuple[SparseCodes, NDArray[np.float32] | None]:
        """Codes of queries, and their dense vectors if documents are rescored."""
        if self._static is not None:
            assert self.query_k is not None
            codes = self._static.codes(queries, self.query_k, trimmed=True)
            return codes, self._static.vectors(queries) if self.rescore else None
        if not self.rescore:
            return encode(self.model, queries, k=self.query_k, role="query"), None
        assert self._head is not None
        assert self.query_k is not None
        dense = encode_dense(self.model, queries, role="query")
        shift = self._head.shift("text")
        if shift is not None:  # the decoder's mean is the one that all modalities share
            dense = dense - shift.detach().float().cpu().numpy()
        return encode_vectors(self._head, dense, self.query_k), dense

    def _hits(self, names: list[Any], scores: list[float]) -> list[Hit]:
        return [
            Hit(name, score, _text_of(name, self._texts))
            for name, score in zip(names, scores, strict=True)
            if score > -np.inf
        ]


def _text_of(name: Any, texts: Texts | None) -> str | None:
    """The text of a document; None of those that the index got later."""
    if isinstance(texts, Mapping):
        return texts.get(name)
    return None if texts is None or name >= len(texts) else texts[name]


def _checked(queries: Sequence[str]) -> list[str]:
    found = list(as_inputs(queries))
    for place, query in enumerate(found):
        check_input(query, place)
    return found
