"""What a card says besides the figures of its main evaluation: csr_card.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from csr_st.data.mixing import Share
from csr_st.evaluation.latency import SearchTime
from csr_st.evaluation.mteb_tasks import TaskFigures
from csr_st.evaluation.results import METRICS, Evaluation

FACTS_NAME = "csr_card.json"
NEW = (
    "search",
    "mixture",
    "fvu",
    "others",
    "adapted",
    "level",
    "static_queries",
    "mteb",
)  # unknown to the first readers of the file
WHOLE = ("words", "dense_and_words")  # the same at every k
T = TypeVar("T")


@dataclass(frozen=True)
class OtherTexts:
    """Figures on a corpus that the head was not trained on: one row of the card.

    Attributes:
        data: The corpus in words.
        n_documents: Documents searched.
        n_queries: Queries.
        metric: Key of `METRICS`.
        dense: The full dense vector's figure.
        query_4k: Figure of documents at k and queries at 4k, by k.
        fvu: Unexplained fraction of the documents' variance, by k.
        words: Figure of words alone, None where they were not measured.
        dense_and_words: Figure of the full dense vector and words.
        codes_and_words: Figure of documents at k, queries at 4k, and words, by k.
    """

    data: str
    n_documents: int
    n_queries: int
    metric: str
    dense: float
    query_4k: dict[int, float]
    fvu: dict[int, float]
    words: float | None = None
    dense_and_words: float | None = None
    codes_and_words: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.data, str) or self.metric not in METRICS:
            raise TypeError(f"figures of {self.data!r} have the metric {self.metric!r}")
        for name in ("query_4k", "fvu", "codes_and_words"):
            object.__setattr__(self, name, _by_k(name, getattr(self, name)))
        _check(self, n_documents=int, n_queries=int, dense=float)
        if self.codes_and_words:
            _check(self, words=float, dense_and_words=float)

    @classmethod
    def of(cls, evaluation: Evaluation) -> OtherTexts:
        """The row of an evaluation."""
        metric = evaluation.main_metric
        rows = evaluation.scores[metric]
        whole = {name: next(iter(rows.get(name, {}).values()), None) for name in WHOLE}
        return cls(
            data=str(evaluation.about.get("data", "vectors")),
            n_documents=evaluation.n_documents,
            n_queries=evaluation.n_queries,
            metric=metric,
            dense=evaluation.dense[metric],
            query_4k=rows["query_4k"],
            fvu=evaluation.fvu,
            codes_and_words=rows.get("codes_and_words", {}),
            **whole,
        )


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides the measured figures.

    Attributes:
        model_id: Hub id, or the folder's name until it is published.
        base_model: Hub id of the backbone, or None where it has none.
        license: Licence identifier as the Hub knows it, of the base model where inherited.
        language: Language codes.
        datasets: Hub ids of the training data.
        data: The training data in words.
        modality: What is encoded: "text", "image", "text and image" or "vector".
        input_dim: Width of the dense vectors.
        hidden_dim: Number of latents.
        k: Default k of the head.
        training: Settings of the training run by name.
        seconds: Wall time of the head's training.
        remote_code: Whether the backbone brings code of its own, so that loading needs
            ``trust_remote_code=True``.
        search: Measured time of a query, None where it was not measured.
        mixture: What each data set gave, where several were mixed.
        fvu: Unexplained fraction of the variance of held-out rows of the training data, by k.
        others: Figures on corpora that the head was not trained on.
        adapted: What the head was adapted from, and how many latents kept their meaning; empty
            for a head that was trained from the start.
        level: "token" for a head of tokens, else empty.
        static_queries: Of a model that encodes queries without its backbone: how near they come to
            the backbone's, in words; else empty.
        mteb: Figures on tasks of MTEB.
    """

    model_id: str
    base_model: str | None
    input_dim: int
    hidden_dim: int
    k: int
    license: str | None = None
    language: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    data: str = ""
    modality: str = "text"
    training: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    remote_code: bool = False
    search: SearchTime | None = None
    mixture: list[Share] = field(default_factory=list)
    fvu: dict[int, float] = field(default_factory=dict)
    others: list[OtherTexts] = field(default_factory=list)
    adapted: str = ""
    level: str = ""
    static_queries: str = ""
    mteb: list[TaskFigures] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.search is not None:
            object.__setattr__(self, "search", _as(SearchTime, "search", self.search))
        for name, kind in (("mixture", Share), ("others", OtherTexts), ("mteb", TaskFigures)):
            values = getattr(self, name)
            if not isinstance(values, list | tuple):
                raise TypeError(f"{name}={values!r} must be a list")
            object.__setattr__(self, name, [_as(kind, name, value) for value in values])
        object.__setattr__(self, "fvu", _by_k("fvu", self.fvu))
        for share in self.mixture:
            _check(share, name=str, rows=int)
        for name in ("input_dim", "hidden_dim", "k"):
            if type(getattr(self, name)) is not int:
                raise TypeError(f"{name}={getattr(self, name)!r} must be an integer")

    def to_json(self) -> str:
        """The facts as JSON text."""
        facts = {name: value for name, value in asdict(self).items() if value or name not in NEW}
        for other in facts.get("others", ()):
            if not other["codes_and_words"]:  # unknown to the first readers of the file
                for name in (*WHOLE, "codes_and_words"):
                    del other[name]
        return json.dumps(facts, indent=2) + "\n"

    @classmethod
    def load(cls, folder: Path) -> CardFacts:
        """Read a folder's csr_card.json.

        Raises:
            ValueError: If there is none, or it is damaged.
        """
        try:
            return cls(**json.loads((folder / FACTS_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{folder} has no readable {FACTS_NAME}: {error}") from error


def _as(kind: type[T], name: str, value: Any) -> T:
    """A record, which JSON and `dataclasses.asdict` give as a dict."""
    record = kind(**value) if isinstance(value, dict) else value
    if not isinstance(record, kind):
        raise TypeError(f"{name} has {value!r}, which must be a {kind.__name__}")
    return record


def _by_k(name: str, figures: Any) -> dict[int, float]:
    """Figures by k, which is text in JSON."""
    if not isinstance(figures, Mapping):
        raise TypeError(f"{name}={figures!r} must be figures by k")
    found = {int(k): figure for k, figure in figures.items()}
    if bad := [figure for figure in found.values() if not isinstance(figure, int | float)]:
        raise TypeError(f"{name} has {bad[0]!r}, which must be a number")
    return found


def _check(record: Any, **kinds: type) -> None:
    for name, kind in kinds.items():
        value = getattr(record, name)
        if not isinstance(value, (int, float) if kind is float else kind):
            raise TypeError(f"{name}={value!r} must be a {kind.__name__}")
