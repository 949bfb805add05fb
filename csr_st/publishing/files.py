"""A saved model's folder: its card, and which of its files are published."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from huggingface_hub import hf_hub_download

# HTTPError is that of httpx or httpx2, whichever this version of the client uses.
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from csr_st.evaluation.results import Evaluation
from csr_st.insight.names import LatentNames
from csr_st.insight.page import is_page
from csr_st.model.files import CLASS_REFERENCE
from csr_st.publishing.facts import FACTS_NAME, CardFacts
from csr_st.publishing.model_card import (
    EVALUATION_NAME,
    GENERATED,
    NAMES_NAME,
    PICTURE_NAME,
    merged,
    render,
)

CARD_NAME = "README.md"
LEFT_BEHIND = ("vectors", "checkpoints")  # written by training beside the model; they contain data


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a saved model with a head.

    Raises:
        ValueError: If it is not.
    """
    if not (folder / "modules.json").is_file():
        raise ValueError(f"{folder} is not a saved model: it has no modules.json; train one first")
    if CLASS_REFERENCE not in (folder / "modules.json").read_text(encoding="utf-8"):
        raise ValueError(f"the model in {folder} has no SparseCSRHead; csr_st.attach gives it one")


def published_files(folder: Path, page: bool = False) -> dict[str, Path]:
    """What to publish, by path in the repository.

    Args:
        folder: A saved model.
        page: Whether pages of ``csr-st explore`` are published, which hold texts.

    Raises:
        ValueError: If a link points out of the folder, where private files may be.
    """
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":  # the Hub's cache links to its own blobs
        allowed.append(folder.resolve().parent.parent / "blobs")
    files = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if hidden or parts[0] in LEFT_BEHIND or not path.is_file():
            continue
        if not page and is_page(path):
            continue
        if not any(path.resolve().is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{path} is a link to a file outside the model's folder; nothing was published: "
                "replace it by the file, or remove it"
            )
        files["/".join(parts)] = path
    return files


def read_card(folder: Path) -> str:
    """The text of a folder's card; empty where there is none."""
    path = folder / CARD_NAME
    # Bytes that are not UTF-8 become surrogates, and bytes again in `card_bytes`.
    return path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""


def card_bytes(text: str) -> bytes:
    """A card as its file has it."""
    return text.encode("utf-8", "surrogateescape")


def facts_in(folder: Path) -> CardFacts | None:
    """The facts in a folder, None where none can be read."""
    try:
        return CardFacts.load(folder)
    except ValueError:
        return None


def facts_of(model: str) -> CardFacts | None:
    """The facts of a model in a folder or on the Hub, None where none can be read."""
    if Path(model).exists():
        return facts_in(Path(model))
    try:
        return facts_in(Path(hf_hub_download(model, FACTS_NAME)).parent)
    except (OSError, ValueError, HTTPError):  # none there, no such name, or no connection
        return None


def rendered(folder: Path, facts: CardFacts) -> str:
    """The card that facts, and the figures and names in a folder, give."""
    figures = folder / EVALUATION_NAME
    evaluation = Evaluation.load(figures) if figures.is_file() else None
    names = LatentNames.load(folder / NAMES_NAME) if (folder / NAMES_NAME).is_file() else None
    return render(facts, evaluation, picture=(folder / PICTURE_NAME).is_file(), names=names)


def updated(
    folder: Path,
    text: str,
    facts: CardFacts | None,
    owned: Collection[str] = (),
    named: Path | None = None,
) -> str:
    """A card with new facts and the figures in its folder; rendered where there is none.

    A card without markers or without facts stays as it is, with a warning, in which the folder is
    ``named``.
    """
    if facts is not None and not text.strip():
        return rendered(folder, facts)
    if facts is not None and GENERATED.search(text):
        return merged(text, rendered(folder, facts), owned)
    missing = f"has no {FACTS_NAME} beside it" if facts is None else "has no csr_st markers"
    warnings.warn(
        f"{(named or folder) / CARD_NAME} {missing} and is left as it is: it shows neither new "
        f"figures, which are in {EVALUATION_NAME} and {PICTURE_NAME} only, nor a new name; remove "
        "it and save the model again, or save it with replace_card=True, for a new card",
        stacklevel=3,
    )
    return text


def card_for(folder: Path, repo_id: str) -> dict[str, bytes]:
    """The card and its facts under the repository's name; the card as it is without facts.

    Raises:
        ValueError: If the facts are damaged.
    """
    text, content = read_card(folder), {}
    if (folder / FACTS_NAME).is_file():
        facts = replace(CardFacts.load(folder), model_id=repo_id)
        content[FACTS_NAME] = facts.to_json().encode()
        if GENERATED.search(text) or repo_id not in text:
            text = updated(folder, text, facts)
    return {**content, CARD_NAME: card_bytes(text)} if text else content
