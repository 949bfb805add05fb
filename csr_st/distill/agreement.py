"""How near static queries come to those of the backbone: by judged queries, or by the texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.data.beir import RetrievalSet
from csr_st.evaluation.metrics import ndcg_at
from csr_st.search import SparseIndex

TOP = 10


@dataclass(frozen=True)
class Agreement:
    """Figures of static queries beside those of the backbone's.

    Attributes:
        data: What was searched, in words.
        n_documents: Documents, each with k latents.
        n_queries: Queries, each with ``query_k`` latents.
        k: Latents of a document.
        query_k: Latents of a query.
        code_cosine: Mean cosine of a query's two codes.
        static: nDCG@10 of static queries, or None without judged queries.
        backbone: nDCG@10 of the backbone's queries, or None.
        shared: Share of the ten documents that the backbone's query finds which the static one
            finds too.
    """

    data: str
    n_documents: int
    n_queries: int
    k: int
    query_k: int
    code_cosine: float
    shared: float
    static: float | None = None
    backbone: float | None = None

    def __str__(self) -> str:
        about = (
            f"On {self.data} ({self.n_documents:,} documents at k={self.k}, {self.n_queries:,} "
            f"queries at k={self.query_k})"
        )
        near = (
            f"codes of a query have a mean cosine of {self.code_cosine:.2f}, and "
            f"{100 * self.shared:.0f}% of the first {TOP} documents are the same"
        )
        if self.static is None or self.backbone is None:
            return f"{about}, {near}."
        share = 100 * self.static / self.backbone if self.backbone else 0
        return (
            f"{about}, nDCG@10 is {100 * self.static:.1f} with static queries and "
            f"{100 * self.backbone:.1f} with the backbone's ({share:.0f}%); {near}."
        )


def agreement(
    data: str,
    documents: SparseCodes,
    static: SparseCodes,
    backbone: SparseCodes,
    judged: RetrievalSet | None = None,
) -> Agreement:
    """Compare two codes of each query, by themselves and by what they find.

    Args:
        data: The documents in words.
        documents: Their codes.
        static: (n_queries, query_k) codes by look-up.
        backbone: Codes of the same queries by the backbone.
        judged: What is relevant to them.
    """
    index, top = SparseIndex.build(documents), min(TOP, len(documents))
    found, wanted = (index.search(codes, top).ids for codes in (static, backbone))
    figures = {}
    if judged is not None:
        for name, ids in (("static", found), ("backbone", wanted)):
            figures[name] = ndcg_at(ids, judged.relevant, TOP)
    return Agreement(
        data=data,
        n_documents=len(documents),
        n_queries=len(static),
        k=documents.k,
        query_k=static.k,
        code_cosine=_mean_cosine(static, backbone),
        shared=_shared(found, wanted),
        **figures,
    )


def _mean_cosine(one: SparseCodes, other: SparseCodes) -> float:
    products = one.normalize().to_scipy().multiply(other.normalize().to_scipy())
    return float(products.sum() / max(1, len(one)))


def _shared(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    both = [np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)]
    return float(np.mean(both)) if both else 0.0
