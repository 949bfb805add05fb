"""`explain` of one hit of an index by latents and words.

`csr_st.explain` is the public function: it also takes two codes, and the words behind a latent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.search.bm25 import QueryWords, Statistics, count_matrix, impact_matrix
from csr_st.search.explanation import Explanation, Labels
from csr_st.search.ids import as_id_array
from csr_st.search.parts import Part
from csr_st.search.requests import checked_queries, checked_sizes, word_queries
from csr_st.search.searchable import Searchable


def explain(
    index: Searchable,
    query_codes: SparseCodes | None,
    document_id: int | str,
    words: str | None = None,
    k: int | None = None,
    weight: float | None = None,
    names: Labels | None = None,
) -> Explanation:
    """What one query's score of one document is made of.

    For example::

        explain(index, query_codes[:1], 17, words=query).words  # {'wing': 0.21, 'lift': 0.08}

    Args:
        index: The index.
        query_codes: One row, the query's code; None if it has only words.
        document_id: The document.
        words: The query's text; None if it has only a code.
        k: See `SparseIndex.search`.
        weight: See `SparseIndex.search`.
        names: Names of latents, such as `csr_st.LatentNames`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is not one query, the id is not in the index, or an argument does not
            fit the index.
    """
    if isinstance(query_codes, SparseCodes) and len(query_codes) != 1:
        raise ValueError(f"there are {len(query_codes)} query codes; pass one, codes[i : i + 1]")
    parts = index._parts()
    query, texts = checked_queries(query_codes, None if words is None else [words], parts)
    asked = word_queries(texts, parts, weight)
    _, k = checked_sizes(parts, 1, k)
    number, position = parts.places(as_id_array(np.array([document_id])))[0]
    part = parts.all[number]
    latents: dict[int, float] = {}
    of_words: dict[str, float] = {}
    if query_codes is not None:
        stored = part.collection.documents.rows(position).scored_codes(k)
        latents = shares_of_latents(query, stored)
    if asked is not None:
        of_words = _of_words(asked[number], part, parts.statistics, position)
    return Explanation.of(latents, of_words, names)


def shares_of_latents(query: SparseCodes, document: SparseCodes) -> dict[int, float]:
    """The products of the values of two codes, one row each, by the latents that both have."""
    values = query.to_scipy().astype(np.float64)
    shared = values.multiply(document.to_scipy()).tocoo()
    return dict(zip(shared.col.tolist(), shared.data.tolist(), strict=True))


def _of_words(
    asked: QueryWords, part: Part, statistics: Statistics | None, position: NDArray[np.int64]
) -> dict[str, float]:
    words = part.collection.words
    assert words is not None
    assert statistics is not None
    found = words.rows(position)
    counts = count_matrix(found)
    impacts = impact_matrix(counts, found.lengths, statistics.mean_length).toarray()[0]
    worth = dict(zip(asked.ids.tolist(), asked.values.tolist(), strict=True))
    shares = {}
    for name, place in found.vocabulary.items():
        number = words.vocabulary[name]
        if number in worth:
            shares[name] = worth[number] * float(impacts[place])
    return shares
