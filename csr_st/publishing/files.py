"""What of a saved model's folder is published: which files, and the card under its new name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from csr_st.evaluation.quality import Evaluation
from csr_st.publishing.model_card import (
    EVALUATION_NAME,
    FACTS_NAME,
    PICTURE_NAME,
    CardFacts,
    renamed,
    render,
)

CARD_NAME = "README.md"
LEFT_BEHIND = ("vectors", "checkpoints")  # what training keeps beside the model, and data is in it


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no model with head.

    Raises:
        ValueError: If it does not.
    """
    if not (folder / "modules.json").is_file():
        raise ValueError(f"{folder} is no saved model: it has no modules.json; train one first")
    if "csr_st.head.SparseCSRHead" not in (folder / "modules.json").read_text(encoding="utf-8"):
        raise ValueError(f"the model in {folder} has no SparseCSRHead; csr_st.attach gives it one")


def published_files(folder: Path) -> dict[str, Path]:
    """What to publish, by path in the repository.

    Raises:
        ValueError: If a link leads out of the folder, where private files may be.
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
        if not any(path.resolve().is_relative_to(place) for place in allowed):
            raise ValueError(
                f"{path} is a link to a file outside the model's folder; nothing was published: "
                "replace it by the file, or remove it"
            )
        files["/".join(parts)] = path
    return files


def card_for(folder: Path, repo_id: str) -> dict[str, bytes]:
    """The card and its facts under the repository's name; an author's words stay."""
    changed: dict[str, bytes] = {}
    readme = folder / CARD_NAME
    text = readme.read_text(encoding="utf-8") if readme.is_file() else None
    if (folder / FACTS_NAME).is_file():
        facts = replace(CardFacts.load(folder), model_id=repo_id)
        changed[FACTS_NAME] = facts.to_json().encode()
        if text is None or text == rendered(folder):
            changed[CARD_NAME] = rendered(folder, repo_id).encode()
    if text is not None and CARD_NAME not in changed:
        changed[CARD_NAME] = renamed(text, repo_id).encode()
    return changed


def rendered(folder: Path, model_id: str | None = None) -> str:
    """The card that a folder's own facts and figures give."""
    facts, figures = CardFacts.load(folder), folder / EVALUATION_NAME
    facts = replace(facts, model_id=model_id or facts.model_id)
    evaluation = Evaluation.load(figures) if figures.is_file() else None
    return render(facts, evaluation, picture=(folder / PICTURE_NAME).is_file())
