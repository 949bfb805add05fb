"""The model card: its facts, its rendering, and how an author's own words are kept.

A card is rendered from `CardFacts` and an `Evaluation` alone, so the same JSON always gives the
same README. All of its text is between two marker lines. `merged` replaces what is between them,
and the metadata that we own, in a card that an author has edited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from csr_st.attaching import parsed_card
from csr_st.evaluation.latency import SearchTime
from csr_st.evaluation.quality import METHODS, METRICS, SPARSE_METHODS, Evaluation

TEMPLATE = Path(__file__).with_name("model_card_template.md")
FACTS_NAME = "csr_card.json"
EVALUATION_NAME = "evaluation.json"
PICTURE_NAME = "quality.png"
START = "<!-- csr_st: generated, edits between these two lines are overwritten -->"
END = "<!-- csr_st: end -->"
GENERATED = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
HEADER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?=^---[ \t]*\r?$)", re.DOTALL | re.MULTILINE)
# Metadata that each rendering replaces; licence, languages, tags and all others are the author's.
OWNED = {
    "base_model",
    "base_model_relation",
    "datasets",
    "library_name",
    "model-index",
    "model_name",  # of a card without figures
    "pipeline_tag",
}


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

    def __post_init__(self) -> None:
        search: Any = self.search
        if isinstance(search, dict):  # as JSON and `dataclasses.asdict` give it
            search = SearchTime(**search)
            object.__setattr__(self, "search", search)
        if search is not None and not isinstance(search, SearchTime):
            raise TypeError(f"search={search!r} must be a SearchTime or None")
        for name in ("input_dim", "hidden_dim", "k"):
            if type(getattr(self, name)) is not int:
                raise TypeError(f"{name}={getattr(self, name)!r} must be an integer")

    def to_json(self) -> str:
        """The facts as JSON text."""
        facts = asdict(self)
        if self.search is None:  # unknown to the first readers of this file
            del facts["search"]
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


def render(facts: CardFacts, evaluation: Evaluation | None = None, *, picture: bool = True) -> str:
    """The README of a model, with the Hub's metadata at its top.

    Args:
        facts: What is not measured.
        evaluation: The measured figures; the card says so when there are none.
        picture: Whether the picture is beside the card.

    Returns:
        Markdown with a YAML header; all of the text is between `START` and `END`.
    """
    card = ModelCard.from_template(
        _metadata(facts, evaluation),
        template_path=str(TEMPLATE),
        facts=facts,
        evaluation=evaluation,
        headline=None if evaluation is None else _headline(facts, evaluation),
        linked=_on_hub(facts.base_model),
        picture=PICTURE_NAME if picture and evaluation else None,
        name=facts.model_id.split("/")[-1],
        training=_readable(facts.training),
        short=_short,
        k=min(facts.k, facts.hidden_dim),
        query_k=min(4 * facts.k, facts.hidden_dim),
        small_k=min(16, facts.hidden_dim),
        start=START,
        end=END,
    )
    return str(card).rstrip() + "\n"


def merged(text: str, fresh: str, owned: Collection[str] = ()) -> str:
    """A card with the generated part of a fresh rendering; all else stays byte for byte.

    Args:
        text: A card with both markers.
        fresh: What `render` gave.
        owned: Keys of the metadata to take from ``fresh``, besides those in `OWNED`.

    Returns:
        The card, with new text between its markers and new values of these keys.
    """
    text = GENERATED.sub(lambda _: GENERATED.findall(fresh)[0], text, count=1)
    header, new_header = HEADER.match(text), HEADER.match(fresh)
    assert new_header is not None  # the template has one
    if header is None:
        return f"{new_header[0]}---\n{text}"
    owned = OWNED.union(owned)
    new = {key: entry for key, entry in _entries(new_header[1]) if key in owned}
    kept = [new.pop(key, "") if key in owned else entry for key, entry in _entries(header[1])]
    return text[: header.start(1)] + "".join([*kept, *new.values()]) + text[header.end(1) :]


def _entries(metadata: str) -> list[tuple[str, str]]:
    """Each top-level entry of YAML metadata: its key, and its lines with those of the value."""
    entries = re.split(r"(?m)^(?=[^\s-])", metadata)
    return [(entry.partition(":")[0].strip(), entry) for entry in entries]


def is_ours(text: str) -> bool:
    """Whether a card is of a model with a head: its metadata has the tag csr."""
    if not text.startswith("---"):
        return False
    tags = parsed_card(text).data.get("tags")
    return isinstance(tags, list) and "csr" in tags


def _metadata(facts: CardFacts, evaluation: Evaluation | None) -> ModelCardData:
    pipeline = {"text": "sentence-similarity", "image": "image-feature-extraction"}
    base_model = facts.base_model if _on_hub(facts.base_model) else None
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=pipeline.get(facts.modality, "feature-extraction"),
        tags=["sentence-transformers", "csr", "sparse", "sparse-autoencoder", "feature-extraction"],
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        license=facts.license,
        language=facts.language or None,
        datasets=facts.datasets or None,
        model_name=facts.model_id.split("/")[-1],
        eval_results=_results(facts, evaluation) or None,
    )


def _on_hub(base_model: str | None) -> bool:
    """Whether a name has the form of a Hub id; a bare folder name must not become a dead link."""
    return bool(base_model and re.fullmatch(r"[\w.-]+/[\w.-]+", base_model))


def _results(facts: CardFacts, evaluation: Evaluation | None) -> list[EvalResult]:
    if evaluation is None:
        return []
    about = evaluation.about.get("data")
    unnamed = "vectors" if about is None else "held-out"
    return [
        EvalResult(
            task_type="retrieval",
            dataset_type=facts.datasets[0] if facts.datasets else unnamed,
            dataset_name=str(about or "vectors"),
            metric_type=metric.replace("@", "_at_"),
            metric_name=f"{METRICS[metric]}, k={k}, {METHODS[method]}",
            metric_value=round(rows[method][k], 4),
        )
        for metric, rows in evaluation.scores.items()
        for method in SPARSE_METHODS
        for k in rows[method]
    ]


def _headline(facts: CardFacts, evaluation: Evaluation) -> str:
    """The main figure at the head's default k, or the nearest measured, by the best scoring."""
    k = min(evaluation.ks, key=lambda measured: abs(measured - facts.k))
    metric = evaluation.main_metric
    rows = evaluation.scores[metric]
    best = max(SPARSE_METHODS, key=lambda method: rows[method][k])  # the first of equals
    return (
        f"**At k={k} a document takes {evaluation.bytes_per_item[k]:,} bytes where the dense "
        f"vector takes {evaluation.dense_bytes_per_item:,}, and {METRICS[metric]} is "
        f"{100 * rows[best][k]:.1f} where the dense vector has "
        f"{100 * evaluation.dense[metric]:.1f}** ({METHODS[best]}; see Evaluation below)."
        f" {evaluation.caution or ''}".rstrip()
    )


def _short(figure: float) -> str:
    """Two figures, without an exponent: 0.12, 8.9, 1,200."""
    return f"{float(f'{figure:.2g}'):,.10g}"


def _readable(training: dict[str, Any]) -> dict[str, str]:
    """Settings as text, without those that are off."""
    readable = {}
    for name, value in training.items():
        if isinstance(value, list | tuple):  # a tuple comes back from JSON as a list
            readable[name] = ", ".join(str(item) for item in value)
        elif value not in (None, 0, False):
            readable[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return {name: value for name, value in readable.items() if value}
