"""The route ``/search``: the options of `csr_st.Searcher`, and what scores are made of."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from csr_st.insight import explain
from csr_st.search import SegmentedIndex
from csr_st.searcher import Hit, Queries, Searcher
from csr_st.serving.errors import Refused
from csr_st.serving.forms import SearchForm, checked_texts
from csr_st.serving.limits import Limits
from csr_st.serving.service import Service, one_line
from csr_st.serving.work import EncodeQueries

logger = logging.getLogger(__name__)

TOP_K = 10


def search_routes(service: Service) -> APIRouter:
    """The route, for a model and its index."""
    router = APIRouter()

    @router.post("/search")
    async def search(form: SearchForm) -> JSONResponse:
        """The best documents of each query."""
        queries = checked_texts(form.query, "query", service.limits)
        top_k = min(TOP_K, service.limits.top_k) if form.top_k is None else form.top_k
        _check(form, top_k, len(queries), service)
        try:
            searcher = service.searcher_with(
                form.k, form.query_k, form.rescore, form.weight, form.approximate
            )
        except (ValueError, TypeError) as error:
            raise Refused(422, one_line(error)) from error
        work = EncodeQueries(searcher, searcher.query_k, form.rescore > 0)

        def finish(asked: Queries) -> dict[str, Any]:
            if isinstance(searcher.index, SegmentedIndex):
                _see_changes(searcher.index)
            try:
                found = searcher.search(asked, top_k, filter=form.filter, boost=form.boost)
                rows = enumerate(found)
                return {"results": [{"hits": rendered(asked, row, hits)} for row, hits in rows]}
            except (ValueError, TypeError) as error:
                raise Refused(422, one_line(error)) from error

        def rendered(asked: Queries, row: int, hits: list[Hit]) -> list[dict[str, Any]]:
            answers = [_rendered(hit) for hit in hits]
            if form.explain:
                query = asked.part(row, row + 1)
                for answer, hit in zip(answers, hits, strict=True):
                    answer["explanation"] = _explained(service, searcher, query, hit, form.boost)
            return answers

        return JSONResponse(await service.answer(work, queries, finish))

    return router


def _see_changes(index: SegmentedIndex) -> None:
    """See what other processes changed in the folder; without it, search what was there."""
    try:
        index.refresh()
    except (OSError, ValueError) as error:
        logger.warning("the index is searched as it was: %s", error)


def _check(form: SearchForm, top_k: int, queries: int, service: Service) -> None:
    """Refuse options that do not fit the limits, the index or each other."""
    index, limits = service.index, service.limits
    if index is None:
        raise Refused(
            404, "this server has no index to search; start it with --index documents.index"
        )
    if not 1 <= top_k <= limits.top_k:
        raise Refused(422, f"top_k={top_k} must be within 1..{limits.top_k:,}")
    if top_k * queries > limits.hits:
        raise Refused(
            422,
            f"the answer would have {top_k * queries:,} hits, and {limits.hits:,} is the most; "
            "pass a lower top_k, or fewer queries",
        )
    if form.rescore > limits.rescore:
        raise Refused(422, f"rescore={form.rescore} must be within 0..{limits.rescore:,}")
    if form.rescore and index.decoder is None:
        raise Refused(
            422,
            f"rescore={form.rescore} needs a decoder, and the index has none; build it with "
            "csr-st index CODES --model MODEL, or leave it out",
        )
    if form.boost and form.rescore:
        raise Refused(422, "boost does not go with rescore, which ranks by dense vectors")
    if form.explain:
        _check_explained(form, top_k * queries, limits)


def _check_explained(form: SearchForm, hits: int, limits: Limits) -> None:
    if form.rescore:
        raise Refused(
            422,
            f"explain is for scores of codes and words, not for those of rescore={form.rescore}, "
            "which have no shares; leave one of them out",
        )
    if hits > limits.explained:
        raise Refused(
            422,
            f"explain is for {hits:,} hits here, and {limits.explained:,} is the most; pass a "
            "lower top_k, or fewer queries",
        )


def _explained(
    service: Service, searcher: Searcher, asked: Queries, hit: Hit, boost: dict[int, float] | None
) -> dict[str, Any]:
    """What the score of a hit of one query is made of: shares that add up to it."""
    index = searcher.index
    found = explain(
        asked.codes.boost(boost) if boost else asked.codes,
        hit.id,
        service.names,
        index=index,
        words=None if index.language is None else asked.texts[0],
        k=searcher.k,
        weight=searcher.weight,
    )
    return {"latents": [share._asdict() for share in found.latents], "words": found.words}


def _rendered(hit: Hit) -> dict[str, Any]:
    text = {} if hit.text is None else {"text": hit.text}
    return {"id": hit.id, "score": hit.score, **text}
