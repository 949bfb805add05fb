"""The model, the index and the queue that all routes of an app share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from csr_st.attaching import modality_of
from csr_st.head import SparseCSRHead
from csr_st.insight.names import LatentNames
from csr_st.search import Searchable
from csr_st.searcher import Searcher, Texts
from csr_st.serving.batching import Batcher, Job, Work
from csr_st.serving.errors import Refused
from csr_st.serving.limits import Limits
from csr_st.serving.metrics import Metrics
from csr_st.serving.tokens import Tokens
from csr_st.sparse_encoders import AnyModel, ready

_SEARCHERS = 64  # of different options, kept between requests


class Service:
    """What the routes use.

    Args:
        model: See `csr_st.serving.create_app`, also for the other arguments.
        index: The index to search, or None.
        texts: Texts of the documents, returned with hits.
        names: Names of latents, for explanations.
        name: Name of the model in answers.
        limits: Bounds of requests.

    Raises:
        ValueError: See `csr_st.serving.create_app`.
    """

    def __init__(
        self,
        model: AnyModel,
        index: Searchable | str | Path | None,
        texts: Texts | None,
        names: LatentNames | None,
        name: str,
        limits: Limits,
    ) -> None:
        if "text" not in modality_of(model):
            raise ValueError(
                f"{name} takes {modality_of(model)}s, and requests have texts; name a model of "
                "texts"
            )
        if index is None and (texts is not None or names is not None):
            given = "texts" if texts is not None else "names"
            raise ValueError(f"{given} are for hits of an index, and there is none; name one")
        self.model, self.name, self.limits, self.names = model, name, limits, names
        self.coder = ready(model, 1).coder
        self.head = self.coder if isinstance(self.coder, SparseCSRHead) else None
        self.tokens = Tokens(model)
        self.metrics = Metrics()
        self.batcher = Batcher(limits, self.metrics.batch)
        self.searcher = None if index is None else Searcher(model, index, texts)
        self.searcher_with = lru_cache(_SEARCHERS)(self._searcher_with)

    @property
    def index(self) -> Searchable | None:
        """The index, None without one."""
        return None if self.searcher is None else self.searcher.index

    def check_prompt(self, prompt_name: str | None) -> None:
        """Refuse the name of a prompt that the model has not.

        Raises:
            Refused: If it has not.
        """
        prompts = self.model.prompts or {}
        if prompt_name is not None and prompt_name not in prompts:
            known = ", ".join(map(repr, prompts)) or "none"
            raise Refused(
                422, f"prompt_name={prompt_name[:60]!r} is no prompt of the model; it has {known}"
            )

    def _searcher_with(
        self,
        k: int | None,
        query_k: int | None,
        rescore: int,
        weight: float | None,
        approximate: float | None,
    ) -> Searcher:
        assert self.searcher is not None
        return self.searcher.with_options(
            k=k, query_k=query_k, rescore=rescore, weight=weight, approximate=approximate
        )

    async def answer(
        self,
        work: Work,
        texts: Sequence[str],
        finish: Callable[[Any], Any],
        check: Callable[[Sequence[str]], None] | None = None,
    ) -> Any:
        """The answer to the texts of one request, when their batch is done.

        Raises:
            Refused: If there is no room in the queue, the model failed, or ``check`` or ``finish``
                raise it.
        """
        return await asyncio.wrap_future(self.batcher.submit(Job(work, texts, finish, check)))


def one_line(error: Exception) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split())


def load_model(model: AnyModel | str | Path) -> AnyModel:
    """A model as it is, or the one in a folder or on the Hub."""
    return SentenceTransformer(str(model)) if isinstance(model, str | Path) else model
