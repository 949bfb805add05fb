"""The card of a published model: its facts as data, and their rendering by a template.

A card is made from `CardFacts` and an `Evaluation` alone, so the same JSON always gives the same
README.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from csr_st._files import write_atomically
from csr_st.evaluation import METHODS, METRICS, Evaluation

TEMPLATE = Path(__file__).with_name("model_card_template.md")
FACTS_NAME = "csr_card.json"
EVALUATION_NAME = "evaluation.json"
PICTURE_NAME = "quality.png"
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
        modality: What is encoded: "text", "image", "text and image" or "vectors".
        input_dim: Width of the dense vectors.
        hidden_dim: Number of latents.
        k: Default k of the head.
        training: Settings of the training run by name.
        seconds: Wall time of the head's training.
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

    def save(self, folder: Path) -> None:
        """Write the facts beside the card."""
        write_atomically(folder / FACTS_NAME, json.dumps(asdict(self), indent=2) + "\n")

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


def render(facts: CardFacts, evaluation: Evaluation | None = None) -> str:
    """The README of a model, with the Hub's metadata at its top.

    Args:
        facts: What it is.
        evaluation: Its figures; the card says so when there are none.

    Returns:
        Markdown with a YAML header.
    """
    card = ModelCard.from_template(
        _metadata(facts, evaluation),
        template_path=str(TEMPLATE),
        facts=facts,
        evaluation=evaluation,
        metrics=METRICS,
        methods=METHODS,
        picture=PICTURE_NAME,
        name=facts.model_id.split("/")[-1],
        training=_readable(facts.training),
    )
    return str(card).rstrip() + "\n"


def _metadata(facts: CardFacts, evaluation: Evaluation | None) -> ModelCardData:
    pipeline = {"text": "sentence-similarity", "image": "image-feature-extraction"}
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=pipeline.get(facts.modality, "feature-extraction"),
        tags=["sentence-transformers", "csr", "sparse", "sparse-autoencoder", "feature-extraction"],
        base_model=facts.base_model,
        base_model_relation="adapter" if facts.base_model else None,
        license=facts.license,
        language=facts.language or None,
        datasets=facts.datasets or None,
        model_name=facts.model_id.split("/")[-1],
        eval_results=_results(facts, evaluation) or None,
    )


def _results(facts: CardFacts, evaluation: Evaluation | None) -> list[EvalResult]:
    if evaluation is None:
        return []
    data = facts.datasets[0] if facts.datasets else "held-out"
    return [
        EvalResult(
            task_type="retrieval",
            dataset_type=data,
            dataset_name=str(evaluation.about.get("data", "held-out vectors")),
            metric_type=METRIC_TYPES[metric],
            metric_name=f"{METRICS[metric]}, k={k}, {METHODS[method]}",
            metric_value=round(rows[method][k], 4),
        )
        for metric, rows in evaluation.scores.items()
        for method in ("symmetric", "rescored")
        for k in rows[method]
    ]


def _readable(training: dict[str, Any]) -> dict[str, str]:
    """Settings as text, those that are off left out."""
    shown = {key: value for key, value in training.items() if value not in (None, 0, False)}
    return {key: f"{v:g}" if isinstance(v, float) else str(v) for key, v in shown.items()}
