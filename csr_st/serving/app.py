"""The ASGI app of a model: made here, run by `csr_st.serving.serve` or mounted in another app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI

import csr_st
from csr_st.attaching import name_of
from csr_st.insight.names import LatentNames
from csr_st.search import Searchable
from csr_st.searcher import Texts
from csr_st.serving.about import about_routes
from csr_st.serving.embedding import embedding_routes
from csr_st.serving.errors import add_handlers
from csr_st.serving.guard import Guard
from csr_st.serving.limits import Limits
from csr_st.serving.searching import search_routes
from csr_st.serving.service import Service, load_model
from csr_st.sparse_encoders import AnyModel, ready

ROUTES = ("/embed_sparse", "/v1/embeddings", "/search", "/health", "/info", "/metrics")


def create_app(
    model: AnyModel | str | Path,
    index: Searchable | str | Path | None = None,
    texts: Texts | None = None,
    *,
    names: LatentNames | None = None,
    token: str | None = None,
    hosts: Collection[str] | None = None,
    limits: Limits | None = None,
    name: str | None = None,
) -> FastAPI:
    """An app that encodes texts by a model and searches its index.

    - ``POST /embed_sparse``: codes, in the form of text-embeddings-inference
    - ``POST /v1/embeddings``: dense vectors of the backbone, in the form of OpenAI
    - ``POST /search``: hits of an index
    - ``GET /health``, ``GET /info``, ``GET /metrics`` (Prometheus), ``GET /openapi.json``

    Requests that arrive together share forward passes, which one thread does. To mount it in an app
    of yours: ``app.mount("/csr", csr_st.serving.create_app(model, index))``.

    Args:
        model: A model with a head, a `SparseEncoder`, or the folder or Hub id of a model with a
            head. Nothing else should use it at the same time.
        index: An index of codes of its documents, or its file or folder; None for no ``/search``.
        texts: See `csr_st.Searcher`: returned with hits.
        names: Names of latents, for explanations of hits.
        token: What each request but ``/health`` must send as ``Authorization: Bearer``.
        hosts: Names that the Host header may have, such as ["localhost"]: without a token, no page
            in a browser can then reach the server by a name of its own. None for any.
        limits: Bounds of requests; `Limits()` when None.
        name: Name of the model in answers; taken from the model when None.

    Raises:
        TypeError: If texts are one str.
        ValueError: If the model has no head or takes no texts, the index does not fit it, texts are
            not as many as documents, or the token is empty or not of visible ASCII characters.
        ImportError: If numba is not installed, and there is an index.
    """
    if token is not None:
        check_token(token)
    loaded, limits = load_model(model), limits or Limits()
    if name is None:
        name = str(model) if isinstance(model, str | Path) else name_of(ready(loaded, 1).model)
    service = Service(loaded, index, texts, names, name or "csr-st", limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.open()
        yield
        await anyio.to_thread.run_sync(service.batcher.close)

    release = csr_st.__version__
    app = FastAPI(
        title="csr-st",
        version=release,
        description=f"Sparse adaptive embeddings of {name}.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    for router in (
        embedding_routes(service),
        search_routes(service),
        about_routes(service, release),
    ):
        app.include_router(router)
    add_handlers(app)
    app.add_middleware(
        Guard,
        limits=limits,
        metrics=service.metrics,
        token=token,
        hosts=None if hosts is None else [host.lower() for host in hosts],
        routes=ROUTES,
    )
    return app


def check_token(token: str) -> str:
    """The token, if a header can have it.

    Raises:
        ValueError: If it is empty or has other characters; the message does not show it.
    """
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError(
            f"the token has {len(token)} characters; it must be one or more visible ASCII "
            "characters without spaces, such as those of `openssl rand -hex 32`"
        )
    return token
