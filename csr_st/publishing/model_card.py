"""The model card: its facts, its rendering, and how an author's own words are kept.

A card is rendered from `CardFacts` and an `Evaluation` alone, so the same JSON always gives the
same README. All of its text is between two marker lines. `merged` replaces what is between them,
and the metadata that we own, in a card that an author has edited.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from csr_st.attaching import parsed_card
from csr_st.evaluation.mteb_tasks import TaskFigures
from csr_st.evaluation.results import METHODS, METRICS, SPARSE_METHODS, Evaluation
from csr_st.hub_data.markers import END as END  # re-exported: their place in version 0.1
from csr_st.hub_data.markers import GENERATED as GENERATED
from csr_st.hub_data.markers import START as START
from csr_st.insight.names import LatentNames
from csr_st.publishing.facts import (
    FACTS_NAME,  # noqa: F401 - its path in version 0.1
    CardFacts,
    OtherTexts,
)
from csr_st.publishing.tables import latents_table, mixture_table, others_table, tasks_table

TEMPLATE = Path(__file__).with_name("model_card_template.md")
EVALUATION_NAME = "evaluation.json"
PICTURE_NAME = "quality.png"
NAMES_NAME = "latents.json"
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


def render(
    facts: CardFacts,
    evaluation: Evaluation | None = None,
    *,
    picture: bool = True,
    names: LatentNames | None = None,
) -> str:
    """The README of a model, with the Hub's metadata at its top.

    Args:
        facts: What is not measured.
        evaluation: The measured figures; the card says so when there are none.
        picture: Whether the picture is beside the card.
        names: Names of the latents, if they have some.

    Returns:
        Markdown with a YAML header; all of the text is between `START` and `END`.
    """
    of_tokens = facts.level == "token"
    card = ModelCard.from_template(
        _metadata(facts, evaluation),
        template_path=str(TEMPLATE),
        facts=facts,
        evaluation=evaluation,
        headline=None if evaluation is None else _headline(facts, evaluation),
        linked=_on_hub(facts.base_model),
        picture=PICTURE_NAME if picture and evaluation else None,
        name=facts.model_id.split("/")[-1],
        like_training=evaluation is not None and _is_held_out(evaluation),
        others=others_table(facts.others, facts.k) if facts.others else None,
        tasks=tasks_table(facts.mteb) if facts.mteb else None,
        words=None if evaluation is None else _words(evaluation),
        words_of_others=any(other.codes_and_words for other in facts.others),
        mixture=mixture_table(facts.mixture) if facts.mixture else None,
        fvu=_nearest(facts.fvu, facts.k),
        names=names,
        names_file=NAMES_NAME,
        latents_table=latents_table,
        training=_readable(facts.training),
        short=_short,
        k=min(facts.k, facts.hidden_dim),
        query_k=max(1, facts.k // 2) if of_tokens else min(4 * facts.k, facts.hidden_dim),
        of_tokens=of_tokens,
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
    others = [_result_on(other, k) for other in facts.others for k in other.query_4k]
    others += [_result_of(task, k) for task in facts.mteb for k in task.by_k]
    if evaluation is None:
        return others
    about = evaluation.about.get("data")
    unnamed = "vectors" if about is None else "held-out"
    own = [
        EvalResult(
            task_type="retrieval",
            dataset_type=facts.datasets[0] if facts.datasets else unnamed,
            dataset_name=str(about or "vectors"),
            metric_type=metric.replace("@", "_at_"),
            metric_name=f"{METRICS[metric]}, k={k}, {METHODS[method]}",
            metric_value=round(rows[method][k], 4),
        )
        for metric, rows in evaluation.scores.items()
        for method in (*SPARSE_METHODS, "codes_and_words")
        for k in rows.get(method, ())
    ]
    return own + others


def _result_on(other: OtherTexts, k: int) -> EvalResult:
    return EvalResult(
        task_type="retrieval",
        dataset_type=other.data,
        dataset_name=other.data,
        metric_type=other.metric.replace("@", "_at_"),
        metric_name=f"{METRICS[other.metric]}, k={k}, {METHODS['query_4k']}",
        metric_value=round(other.query_4k[k], 4),
    )


def _result_of(task: TaskFigures, k: int) -> EvalResult:
    return EvalResult(
        task_type=task.kind,
        dataset_type=task.data,
        dataset_name=f"MTEB {task.task}",
        metric_type=task.metric,
        metric_name=f"{task.metric}, k={k}",
        metric_value=round(task.by_k[k], 4),
    )


def _headline(facts: CardFacts, evaluation: Evaluation) -> str:
    """The main figure at the head's default k, or the nearest measured, by the best scoring."""
    k = min(evaluation.ks, key=lambda measured: abs(measured - facts.k))
    metric = evaluation.main_metric
    rows = evaluation.scores[metric]
    where = ", on texts like its training data" if _is_held_out(evaluation) else ""
    measured = [method for method in SPARSE_METHODS if method in rows]
    best = max(measured, key=lambda method: rows[method][k])  # the first of equals
    return (
        f"**At k={k} a document takes {evaluation.bytes_per_item[k]:,} bytes where the dense "
        f"vector takes {evaluation.dense_bytes_per_item:,}, and {METRICS[metric]} is "
        f"{100 * rows[best][k]:.1f} where the dense vector has "
        f"{100 * evaluation.dense[metric]:.1f}** ({METHODS[best]}{where}; see Evaluation below)."
        f" {evaluation.caution or ''}".rstrip()
    )


def _is_held_out(evaluation: Evaluation) -> bool:
    """Whether figures are those of `csr_st.train_model`, on rows held out of the training data."""
    return "held-out rows" in str(evaluation.about.get("data"))


def _words(evaluation: Evaluation) -> tuple[str, str] | None:
    """Language and weight of the words, where they were measured."""
    about = evaluation.about.get("words")
    if not isinstance(about, dict) or not isinstance(about.get("weight"), int | float):
        return None
    return " ".join(str(about.get("language")).split()), f"{about['weight']:g}"


def _nearest(figures: dict[int, float], k: int) -> tuple[int, float] | None:
    """The figure of the k nearest to ``k``, with that k."""
    return min(figures.items(), key=lambda entry: abs(entry[0] - k), default=None)


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
