"""The card of a published model: its facts as data, their rendering, and later changes to its text.

A card is made from `CardFacts` and an `Evaluation` alone, so the same JSON always gives the same
README. Once an author has edited it, `renamed` and `updated` change only what they must.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from csr_st._io.files import write_atomically
from csr_st.evaluation.latency import SearchTime
from csr_st.evaluation.quality import METHODS, METRICS, Evaluation

TEMPLATE = Path(__file__).with_name("model_card_template.md")
FACTS_NAME = "csr_card.json"
EVALUATION_NAME = "evaluation.json"
PICTURE_NAME = "quality.png"
MEASURED, TRAINED = "## What it keeps", "## How it was trained"
METRIC_TYPES = {"ndcg@10": "ndcg_at_10", "recall@10": "recall_at_10", "accuracy": "accuracy"}


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside measured figures.

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

    def save(self, folder: Path) -> None:
        """Write the facts beside the card."""
        write_atomically(folder / FACTS_NAME, self.to_json())

    def to_json(self) -> str:
        """The facts as JSON text."""
        facts = asdict(self)
        if self.search is None:  # so that readers from before it existed can still read the rest
            del facts["search"]
        return json.dumps(facts, indent=2) + "\n"

    @classmethod
    def load(cls, folder: Path) -> CardFacts:
        """Read what `save` wrote.

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
        facts: What it is.
        evaluation: Its figures; the card says so when there are none.
        picture: Whether the picture lies beside the card.

    Returns:
        Markdown with a YAML header.
    """
    k = min(facts.k, facts.hidden_dim)
    card = ModelCard.from_template(
        _metadata(facts, evaluation),
        template_path=str(TEMPLATE),
        facts=facts,
        evaluation=evaluation,
        headline=None if evaluation is None else _headline(facts, evaluation),
        linked=_on_hub(facts.base_model),
        picture=PICTURE_NAME if picture else None,
        name=facts.model_id.split("/")[-1],
        training=_readable(facts.training),
        duration=_duration(facts.seconds or 0),
        search_ms=_short(facts.search.milliseconds) if facts.search else None,
        search_ms_million=_short(facts.search.per_million) if facts.search else None,
        k=k,
        query_k=min(4 * k, facts.hidden_dim),
        small_k=min(16, facts.hidden_dim),
    )
    return str(card).rstrip() + "\n"


def is_ours(text: str) -> bool:
    """Whether a card describes a model with a head, as far as its tags tell."""
    return text.startswith("---") and "csr" in (
        ModelCard(text, ignore_metadata_errors=True).data.get("tags") or []
    )


def renamed(text: str, model_id: str) -> str:
    """A card whose title, metadata and usage name the model by another id; all else stays."""
    found = re.search(r'SentenceTransformer\("([^"\n]+)"', text)
    if found is None or found[1] == model_id:
        return text
    old_name, name = (re.escape(found[1].split("/")[-1]), model_id.split("/")[-1])
    text = text.replace(f'("{found[1]}"', f'("{model_id}"')
    text = text.replace(f"csr-st evaluate {found[1]} ", f"csr-st evaluate {model_id} ")
    text = re.sub(rf"^# {old_name}$", f"# {name}", text, count=1, flags=re.MULTILINE)
    return re.sub(rf"^- name: {old_name}$", f"- name: {name}", text, count=1, flags=re.MULTILINE)


def updated(text: str, fresh: str, sections: Collection[str], metadata: Collection[str]) -> str:
    """An author's card with some parts taken from a fresh rendering.

    Args:
        text: The card as it is.
        fresh: A rendering with the new facts.
        sections: Headings, such as `MEASURED`, whose sections are replaced; one that the author
            has removed stays removed.
        metadata: Fields of `huggingface_hub.ModelCardData` to take over.

    Returns:
        The card, every other word as it was.
    """
    old, new = (ModelCard(t, ignore_metadata_errors=True) for t in (text, fresh))
    changes = {key: new.data.get(key) for key in metadata if new.data.get(key) is not None}
    if "eval_results" in changes:
        changes["model_name"] = old.data.get("model_name") or new.data.get("model_name")
    if changes:
        for key, value in changes.items():
            setattr(old.data, key, value)
        text = f"---\n{old.data.to_yaml()}\n---\n{old.text}"
    patterns = [rf"(?ms)^{re.escape(heading)}$.*?(?=^## |\Z)" for heading in sections]
    if MEASURED in sections:
        patterns.append(r"(?m)^\*\*At k=\d+ a document takes .*$")  # the headline
    for pattern in patterns:
        section = re.search(pattern, fresh)
        if section is not None:
            stale = re.search(pattern, text)
            if stale is not None:
                text = text[: stale.start()] + section[0] + text[stale.end() :]
    return text


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
            metric_type=METRIC_TYPES[metric],
            metric_name=f"{METRICS[metric]}, k={k}, {METHODS[method]}",
            metric_value=round(rows[method][k], 4),
        )
        for metric, rows in evaluation.scores.items()
        for method in ("symmetric", "rescored")
        for k in rows[method]
    ]


def _headline(facts: CardFacts, evaluation: Evaluation) -> str:
    """The one figure a reader should take away, at the head's default k or the nearest measured."""
    k = min(evaluation.ks, key=lambda measured: abs(measured - facts.k))
    size, dense = evaluation.bytes_per_item[k], evaluation.dense_bytes_per_item
    metric = evaluation.main_metric
    figure = 100 * evaluation.scores[metric]["rescored"][k]
    return (
        f"**At k={k} a document takes {size:,} bytes where the dense vector takes {dense:,}, and "
        f"{METRICS[metric]} is {figure:.1f} where the dense vector has "
        f"{100 * evaluation.dense[metric]:.1f}** (documents rescored through the decoder; details "
        "below)."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:,.0f} seconds" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def _short(figure: float) -> str:
    """Two figures, without an exponent: 0.12, 8.9, 1,200."""
    return f"{float(f'{figure:.2g}'):,.10g}"


def _readable(training: dict[str, Any]) -> dict[str, str]:
    """Settings as text, those that are off left out."""
    return {
        key: _setting(value)
        for key, value in training.items()
        if value not in (None, 0, False, (), [])
    }


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):  # a tuple comes back from JSON as a list
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
