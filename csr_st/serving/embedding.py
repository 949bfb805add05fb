"""The routes ``/embed_sparse`` (text-embeddings-inference) and ``/v1/embeddings`` (OpenAI)."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from csr_st.codes import SparseCodes
from csr_st.serving.errors import Refused
from csr_st.serving.forms import EmbeddingsForm, SparseForm, checked_texts
from csr_st.serving.service import Service, one_line
from csr_st.serving.work import Encode, EncodeDense, Vectors


def embedding_routes(service: Service) -> APIRouter:
    """The routes, for a model."""
    router = APIRouter()
    limits = service.limits

    @router.post("/embed_sparse")
    async def embed_sparse(form: SparseForm) -> JSONResponse:
        """Sparse codes: for each text its active latents and their values, largest first."""
        texts = checked_texts(form.inputs, "inputs", limits)
        service.check_prompt(form.prompt_name)
        try:
            service.coder.resolve_k(form.k, task=form.role)
        except (ValueError, TypeError) as error:
            raise Refused(422, one_line(error)) from error
        work = Encode(service.model, form.k, form.role, form.prompt_name, limits.batch)
        check = None
        if form.truncate is False:

            def check(inputs: Any) -> None:
                service.tokens.refuse_longer(inputs, form.role, form.prompt_name)

        return JSONResponse(await service.answer(work, texts, pairs, check))

    @router.post("/v1/embeddings")
    async def embeddings(form: EmbeddingsForm) -> JSONResponse:
        """Dense vectors of the backbone, (n, input_dim), before the head."""
        if service.head is None:
            raise Refused(
                422,
                f"{service.name} is a sparse encoder without a head and has no dense vectors; "
                "post to /embed_sparse",
            )
        texts = checked_texts(form.input, "input", limits)
        service.check_prompt(form.prompt_name)
        width = service.head.input_dim
        if form.dimensions not in (None, width):
            raise Refused(
                422,
                f"dimensions={form.dimensions} is not possible: the vectors have {width}; leave it "
                "out, and for fewer bytes post to /embed_sparse with k",
            )
        role, prompt_name = form.role, form.prompt_name
        work = EncodeDense(service.model, service.tokens, role, prompt_name, limits.batch)

        def finish(found: Vectors) -> dict[str, Any]:
            return {
                "object": "list",
                "data": _embeddings(found, form.encoding_format),
                "model": service.name,
                "usage": dict.fromkeys(("prompt_tokens", "total_tokens"), sum(found.tokens)),
            }

        return JSONResponse(await service.answer(work, texts, finish))

    return router


def pairs(codes: SparseCodes) -> list[list[dict[str, Any]]]:
    """Codes in the form of text-embeddings-inference; values of 0 are left out."""
    return [
        [
            {"index": index, "value": value}
            for index, value in zip(indices, values, strict=True)
            if value > 0
        ]
        for indices, values in zip(codes.indices.tolist(), codes.values.tolist(), strict=True)
    ]


def _embeddings(found: Vectors, encoding: str) -> list[dict[str, Any]]:
    vectors: list[Any] = found.vectors.tolist()
    if encoding == "base64":
        rows = found.vectors.astype("<f4")
        vectors = [base64.b64encode(row.tobytes()).decode() for row in rows]
    return [
        {"object": "embedding", "index": place, "embedding": vector}
        for place, vector in enumerate(vectors)
    ]
