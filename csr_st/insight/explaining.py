"""`csr_st.explain`: what a score is made of, and which words of a text carry it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from csr_st.codes import SparseCodes
from csr_st.encoding import Role
from csr_st.insight.names import LatentNames
from csr_st.insight.occlusion import word_shares
from csr_st.packed_codes import PackedCodes
from csr_st.search import Explanation, Searchable
from csr_st.search import explain as explain_hit
from csr_st.search.documents import checked_unit_codes
from csr_st.search.explaining import shares_of_latents
from csr_st.sparse_encoders import AnyModel


def explain(  # one score, with what it is of
    query_codes: SparseCodes | None,
    document: SparseCodes | PackedCodes | int | str,
    names: LatentNames | None = None,
    *,
    index: Searchable | None = None,
    words: str | None = None,
    k: int | None = None,
    weight: float | None = None,
    model: AnyModel | None = None,
    query_text: str | None = None,
    document_text: str | None = None,
) -> Explanation:
    """What the score of a query and a document is made of; the shares add up to it.

    The score is the sum, over the latents that both have, of the products of their values at unit
    length (as they are for an index by dot product), so each latent has an exact share. With an
    index that has words, words have shares too.

    For example::

        csr_st.explain(query_codes[:1], codes[17], names).table()
        csr_st.explain(query_codes[:1], 17, names, index=index, words=query)

    Args:
        query_codes: One row, the query's code; None if an index is asked by words only.
        document: One row, the document's code; with ``index``, the document's id.
        names: Names of the latents, from `csr_st.name_latents` or, of a SPLADE model,
            `csr_st.insight.token_names`.
        index: The index that gave the hit.
        words: The query's text, if the search had words.
        k: Latents of the document that count, as in `SparseIndex.search`.
        weight: Weight of the words, as in `SparseIndex.search`.
        model: For the words that carry each latent, see `csr_st.insight.word_shares`.
        query_text: The query's text, for these words.
        document_text: The document's text, for these words.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is not one query or document, they are of different heads, words are
            asked for without an index, or texts given without a model.
    """
    if isinstance(document, SparseCodes | PackedCodes):
        if index is not None or words is not None or weight is not None:
            raise ValueError(
                "document is a code, and index, words and weight are for a hit of an index; pass "
                "the document's id, or leave them out"
            )
        found = _of_codes(query_codes, document, names, k)
    elif index is None:
        raise TypeError(
            f"document={document!r:.60} is no SparseCodes; pass one row, or an id with index="
        )
    else:
        found = explain_hit(index, query_codes, document, words, k, weight, names)
    latents = [share.latent for share in found.latents]
    return replace(
        found,
        query_words=_carried(model, query_text, latents, "query"),
        document_words=_carried(model, document_text, latents, "document"),
    )


def _carried(
    model: AnyModel | None, text: str | None, latents: list[int], role: Role
) -> dict[int, dict[str, float]]:
    if text is None:
        return {}
    if model is None:
        raise ValueError(f"{role}_text is given without a model; pass model= with it")
    return word_shares(model, text, latents, role=role)


def _of_codes(query: Any, document: Any, names: LatentNames | None, k: int | None) -> Explanation:
    if isinstance(document, PackedCodes):
        document = document.unpack()
    if k is not None:
        document = document.prefix(k)
    units = []
    for name, codes in (("query_codes", query), ("document", document)):
        units.append(checked_unit_codes(codes, name))
        if len(codes) != 1:
            raise ValueError(f"{name} has {len(codes)} rows; pass one, codes[i : i + 1]")
    one, other = units
    if one.hidden_dim != other.hidden_dim:
        raise ValueError(
            f"the query has hidden_dim={one.hidden_dim}, the document {other.hidden_dim}; encode "
            "both with the same head"
        )
    return Explanation.of(shares_of_latents(one, other), names=names)
