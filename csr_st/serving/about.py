"""Routes about the server itself: ``/health``, ``/info`` and ``/metrics``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from csr_st.serving.service import Service


def about_routes(service: Service, version: str) -> APIRouter:
    """The routes, for a model."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> JSONResponse:
        """Liveness: 200 while the server accepts requests."""
        return JSONResponse({"status": "ok"})

    @router.get("/info")
    async def info() -> JSONResponse:
        """The model, its k and widths, the index, and the limits of requests."""
        head = service.head
        found: dict[str, Any] = {
            "model_id": service.name,
            "model_type": "csr" if head is not None else "sparse_encoder",
            "k": service.coder.resolve_k(),
            "query_k": service.coder.resolve_k(task="query"),
            "hidden_dim": service.coder.hidden_dim,
            "input_dim": None if head is None else head.input_dim,
            "max_input_length": service.tokens.most,
            "prompts": sorted(service.model.prompts or {}),
            "limits": asdict(service.limits),
            "index": _index(service),
            "version": version,
            "process": os.getpid(),
        }
        return JSONResponse(found)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Metrics in the text format of Prometheus."""
        content = service.metrics.rendered(service.batcher.waiting)
        return Response(content, media_type=service.metrics.content_type)

    return router


def _index(service: Service) -> dict[str, Any] | None:
    index = service.index
    if index is None:
        return None
    return {
        "documents": len(index),
        "k": index.k,
        "similarity": index.similarity,
        "rescores": index.decoder is not None,
        "words": index.language,
        "weight": index.weight,
    }
