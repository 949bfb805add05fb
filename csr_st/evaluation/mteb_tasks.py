"""Tasks of MTEB at every k, by mteb's own evaluation; one forward pass of the texts for all k.

mteb takes a `SentenceTransformer` with a head as it is, and passes ``encode_kwargs={"k": 16}`` on
to it. But its cache of results does not know k: figures of one k would be given for another. Here
it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from csr_st.attaching import detach
from csr_st.codes import SparseCodes
from csr_st.encoding import Role, encode
from csr_st.evaluation.quality import measured_ks
from csr_st.head import find_head
from csr_st.search.engines.base import require


@dataclass(frozen=True)
class TaskFigures:
    """A task's main score at each k.

    Attributes:
        task: Name of the task, such as "NFCorpus".
        kind: Its type, such as "Retrieval".
        data: Hub id of its data.
        metric: Its main score, such as "ndcg_at_10".
        dense: Figure of the dense vectors.
        by_k: Figure where queries and documents have k latents each.
    """

    task: str
    kind: str
    data: str
    metric: str
    dense: float
    by_k: dict[int, float]

    def __post_init__(self) -> None:
        found = {int(k): figure for k, figure in dict(self.by_k).items()}  # text in JSON
        object.__setattr__(self, "by_k", found)
        texts = self.task, self.kind, self.data, self.metric
        numbers = self.dense, *found.values()
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(number, int | float) for number in numbers
        ):
            raise TypeError(f"{self!r} must have figures that are numbers, and names")

    def __str__(self) -> str:
        figures = "  ".join(f"k={k}: {100 * figure:.1f}" for k, figure in self.by_k.items())
        return f"{self.task} ({self.metric})  dense: {100 * self.dense:.1f}  {figures}"


def find_tasks(names: Sequence[str]) -> list[Any]:
    """The tasks of these names.

    Raises:
        ValueError: If mteb knows no such task.
        ImportError: If mteb is missing.
    """
    mteb = require("mteb", "mteb")
    tasks = []
    for name in names:
        try:
            tasks.append(mteb.get_task(name))
        except KeyError as error:
            hint = str(error.args[0]).removeprefix("KeyError: ")
            raise ValueError(
                f"mteb has no task {name!r} ({hint}); see: mteb available-tasks"
            ) from None
    return tasks


def evaluate_tasks(
    model: SentenceTransformer,
    tasks: Sequence[Any],
    ks: Sequence[int] | None = None,
    *,
    batch_size: int = 64,
    done: Callable[[TaskFigures], None] = lambda _: None,
) -> list[TaskFigures]:
    """The main score of each task, of the dense vectors and of codes at each k.

    Memory: the codes of a task's texts at the largest k, besides what mteb needs.

    Args:
        model: A model that ends in a head.
        tasks: Tasks of mteb.
        ks: Active latents of queries and documents alike; those above hidden_dim are left out. As
            for `csr_st.evaluate` when None.
        batch_size: Texts per forward pass.
        done: Called with the figures of each task, once they are there.

    Returns:
        The figures, in the order of the tasks.

    Raises:
        ValueError: If the model does not end in a head, or none of ks is possible.
        ImportError: If mteb is missing.
    """
    mteb = require("mteb", "mteb")
    wrapper = require("mteb.models", "mteb").SentenceTransformerEncoderWrapper
    dense, measured = detach(model), measured_ks(find_head(model), ks)
    options = {"batch_size": batch_size, "show_progress_bar": False}

    def score(wrapped: Any, task: Any) -> float:
        result = mteb.evaluate(
            wrapped, task, encode_kwargs=options, cache=None, show_progress_bar=False
        )
        return float(result.task_results[0].get_score())

    found = []
    for task in tasks:
        about = task.metadata
        of_dense = score(wrapper(dense), task)
        by_k, wrapped, coder = {}, wrapper(model), CodesOnce(model, max(measured))
        wrapped.model = coder
        for k in measured:
            coder.k = k
            by_k[k] = score(wrapped, task)
        figures = TaskFigures(
            str(about.name), str(about.type), str(about.dataset["path"]), str(about.main_score),
            of_dense, by_k,
        )  # fmt: skip
        done(figures)
        found.append(figures)
    return found


class CodesOnce:
    """A model as mteb asks it, which encodes each set of texts once, at the largest k.

    Codes at a smaller k are their prefixes.

    Args:
        model: The model, asked for everything else.
        largest: The largest k.

    Attributes:
        k: The k of the next calls.
    """

    def __init__(self, model: SentenceTransformer, largest: int) -> None:
        self.k = self._largest = largest
        self._model = model
        self._known: dict[tuple[Any, ...], SparseCodes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, inputs: Any, **options: Any) -> NDArray[np.float32]:
        """(n, hidden_dim) codes at ``k``."""
        return self._codes(None, inputs, **options)

    def encode_query(self, inputs: Any, **options: Any) -> NDArray[np.float32]:
        """(n, hidden_dim) codes of queries at ``k``."""
        return self._codes("query", inputs, **options)

    def encode_document(self, inputs: Any, **options: Any) -> NDArray[np.float32]:
        """(n, hidden_dim) codes of documents at ``k``."""
        return self._codes("document", inputs, **options)

    def _codes(
        self, role: Role | None, inputs: Any, prompt: str | None = None, **options: Any
    ) -> NDArray[np.float32]:
        batch = {"batch_size": options.get("batch_size", 32), "prompt": prompt}
        if not all(isinstance(text, str) for text in inputs):  # images, and pairs with them
            codes = encode(self._model, inputs, self.k, role=role, show_progress=False, **batch)
            return codes.to_dense()
        key = (role, prompt, *inputs)
        if key not in self._known:
            codes = encode(
                self._model, list(inputs), self._largest, role=role, show_progress=False, **batch
            )
            self._known[key] = codes
        return self._known[key].prefix(self.k).to_dense()
