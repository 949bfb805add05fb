"""Measured figures in a saved model's folder: JSON, picture, and what the card says of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from csr_st._io.files import write_atomically
from csr_st._io.optional import OptionalStep
from csr_st._io.staging import staging
from csr_st.evaluation.latency import SearchTime
from csr_st.evaluation.mteb_tasks import TaskFigures
from csr_st.evaluation.results import Evaluation
from csr_st.insight.names import LatentNames
from csr_st.publishing.facts import FACTS_NAME, CardFacts, OtherTexts
from csr_st.publishing.files import CARD_NAME, card_bytes, facts_in, read_card, updated
from csr_st.publishing.model_card import EVALUATION_NAME, NAMES_NAME, PICTURE_NAME, is_ours
from csr_st.publishing.replacing import PREFIX, finish, move


def update_card(
    folder: str | Path,
    evaluation: Evaluation | None,
    *,
    replace_card: bool = False,
    search: SearchTime | None = None,
    fvu: Mapping[int, float] | None = None,
    names: LatentNames | None = None,
    static_queries: str | None = None,
) -> None:
    """Put new figures into a saved model's folder: JSON, picture and card.

    Of the card, what is between the two marker lines and the metadata that is ours change. A card
    without markers, or without the csr_card.json that `save` writes, stays as it is, with a
    warning.

    Args:
        folder: Folder that `save` wrote; in any other only JSON and picture are written.
        evaluation: The figures; None leaves those that are there.
        replace_card: Replace the card, its author's words included.
        search: Measured time of a query; None leaves the one that is there.
        fvu: Unexplained fraction of the variance of held-out rows of the training data, by k; None
            leaves what is there.
        names: Names of the latents, written to latents.json; None leaves those that are there.
        static_queries: How near static queries come to the backbone's, in words; None leaves what
            is there.
    """
    root = Path(folder)
    finish(root)
    if names is not None:
        names.save(root / NAMES_NAME)
    if evaluation is not None:
        with staging(root, PREFIX) as staged:  # drawing takes seconds: nothing changes before it
            write_figures(evaluation, staged)
            for name in (PICTURE_NAME, EVALUATION_NAME):
                if (staged / name).is_file():
                    move(staged / name, root / name)
                else:
                    (root / name).unlink(missing_ok=True)
    given: dict[str, Any] = {"search": search, "fvu": fvu, "static_queries": static_queries}
    new = {name: value for name, value in given.items() if value is not None}
    _update(root, facts_in(root), new, replace_card)


def add_evaluation(folder: str | Path, evaluation: Evaluation) -> None:
    """Put figures on a corpus into a saved model's folder, beside those that are there.

    A model without figures gets these as its main ones, with JSON and picture, and so does one
    whose main figures are of the same corpus. In any other case the card's table of other texts
    gets a line for the corpus, in place of the one that it has. A corpus with the name of training
    data is no other text, and is left out with a warning. A folder that `save` did not write gets
    JSON and picture only.

    Args:
        folder: Folder of the model, or any other.
        evaluation: The figures; ``about["data"]`` names the corpus.

    Raises:
        ValueError: If the figures that are there cannot be read.
    """
    root = Path(folder)
    finish(root)
    facts, path = facts_in(root), root / EVALUATION_NAME
    main = Evaluation.load(path) if facts is not None and path.is_file() else None
    row = OtherTexts.of(evaluation)
    if facts is None or main is None or main.about.get("data") == row.data:
        update_card(root, evaluation)
        return
    trained_on = {facts.data, *(share.name for share in facts.mixture)}
    if row.data.removesuffix(" (train)") in trained_on:
        warnings.warn(
            f"the head was trained on data of the name {row.data}: the card keeps the figures on "
            "held-out rows, and gets no line for it; give texts that it has not seen",
            stacklevel=2,
        )
        return
    others = {other.data: other for other in facts.others} | {row.data: row}
    _update(root, facts, {"others": list(others.values())})


def add_tasks(folder: str | Path, tasks: Iterable[TaskFigures]) -> None:
    """Put figures on tasks of MTEB into a saved model's folder, in place of those it has of them.

    Raises:
        ValueError: If the folder has no csr_card.json, as `save` writes it.
    """
    root = Path(folder)
    finish(root)
    facts = CardFacts.load(root)
    known = {one.task: one for one in facts.mteb} | {one.task: one for one in tasks}
    _update(root, facts, {"mteb": list(known.values())})


def _update(
    root: Path, facts: CardFacts | None, new: Mapping[str, Any], replace_card: bool = False
) -> None:
    """Write a folder's facts with new ones, and the card that follows from them."""
    text = read_card(root)
    if facts is not None and new:
        facts = replace(facts, **new)
        write_atomically(root / FACTS_NAME, facts.to_json())
    if facts is not None or is_ours(text):
        text = updated(root, "" if replace_card and facts else text, facts)
        write_atomically(root / CARD_NAME, card_bytes(text))


def write_figures(evaluation: Evaluation, folder: Path) -> None:
    """Write JSON and picture; without matplotlib only the JSON."""
    evaluation.save(folder / EVALUATION_NAME)
    without = "the card is without it; the figures are complete"
    with OptionalStep(f"drawing {PICTURE_NAME}", without):
        from csr_st.evaluation.plots import draw

        with contextlib.suppress(ImportError):
            draw(evaluation, folder / PICTURE_NAME)
