"""Save a model with its card, and publish the folder on the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from sentence_transformers import SentenceTransformer

from csr_st.attaching import name_of
from csr_st.config import TrainConfig
from csr_st.evaluation import Evaluation
from csr_st.head import find_head
from csr_st.model_card import EVALUATION_NAME, PICTURE_NAME, CardFacts, render


def save(
    model: SentenceTransformer,
    path: str | Path,
    *,
    evaluation: Evaluation | None = None,
    config: TrainConfig | None = None,
    **facts: Any,
) -> CardFacts:
    """Write a model with head to a folder: modules, card, figures and picture.

    Args:
        model: What `csr_st.attach` gave.
        path: Folder; made when missing.
        evaluation: Figures for the card.
        config: How the head was trained.
        facts: Fields of `CardFacts` to set, such as ``data``, ``datasets`` or ``license``.

    Returns:
        The facts that the card was made from.

    Raises:
        ValueError: If the model has no head.
    """
    folder = Path(path)
    head = find_head(model)
    inherited = _inherited(model)
    card = CardFacts(
        **{
            "model_id": folder.name,
            "base_model": model.model_card_data.base_model or name_of(model),
            "input_dim": head.input_dim,
            "hidden_dim": head.hidden_dim,
            "k": head.k,
            "training": {} if config is None else asdict(config),
            **inherited,
            **facts,
        }
    )
    model.save(str(folder), create_model_card=False)
    card.save(folder)
    if evaluation is not None:
        evaluation.save(folder / EVALUATION_NAME)
        _draw(evaluation, folder / PICTURE_NAME)
    text = render(card, evaluation)
    (folder / "README.md").write_text(text, encoding="utf-8")
    model._model_card_text = text  # type: ignore[assignment] # text or None in sentence-transformers
    return card


def _inherited(model: SentenceTransformer) -> dict[str, Any]:
    """Licence and language that the base model's own card names."""
    data = model.model_card_data
    language = [data.language] if isinstance(data.language, str) else list(data.language or [])
    return {"license": data.license, "language": language}


def _draw(evaluation: Evaluation, path: Path) -> None:
    try:
        from csr_st.plots import draw

        draw(evaluation, path)
    except ImportError:
        # The card's picture is a nicety: a machine without matplotlib still saves its model.
        return


def push_to_hub(
    model: SentenceTransformer | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    replace_card: bool = False,
    commit_message: str | None = None,
) -> str:
    """Publish a model in one commit: it appears on the Hub whole or not at all.

    Args:
        model: A saved folder, or a model with head, which is saved first.
        repo_id: Repository such as "org/name"; made when missing.
        private: Whether a new repository is private; the account's default when None.
        revision: Branch; made when missing. The main one when None.
        token: Hub token; the one that ``hf auth login`` saved when None.
        replace_card: Overwrite a model card that is there already.
        commit_message: What the commit says.

    Returns:
        URL of the commit.

    Raises:
        ValueError: If the folder is no model with head, or the repository has a card of another
            and ``replace_card`` is False. Nothing is uploaded then.
        ConnectionError: If the Hub cannot be reached or refuses; the message tells which.
    """
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / repo_id.split("/")[-1]
        if isinstance(model, SentenceTransformer):
            save(model, staged)
        else:
            _check_folder(Path(model))
            shutil.copytree(model, staged, ignore=shutil.ignore_patterns("checkpoints", ".*"))
        _rename_card(staged, repo_id)
        api = HfApi(token=token)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            repo_id = url.repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            if not replace_card:
                _refuse_foreign_card(api, repo_id, revision, staged / "README.md")
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=staged,
                revision=revision,
                commit_message=commit_message or "Add sparse adaptive embedding model",
            )
        except HfHubHTTPError as error:
            raise ConnectionError(_explain(error, repo_id)) from None
        except OSError as error:
            raise ConnectionError(
                f"the Hub at {api.endpoint} cannot be reached ({type(error).__name__}); nothing "
                "was published: check the connection and push again"
            ) from None
    return str(commit.commit_url)


def _check_folder(folder: Path) -> None:
    if not (folder / "modules.json").is_file():
        raise ValueError(f"{folder} is no saved model: it has no modules.json; train one first")
    if "csr_st.head.SparseCSRHead" not in (folder / "modules.json").read_text(encoding="utf-8"):
        raise ValueError(f"the model in {folder} has no SparseCSRHead; csr_st.attach gives it one")


def _rename_card(folder: Path, repo_id: str) -> None:
    """Make the card name the repository, unless its author has rewritten it."""
    try:
        facts = CardFacts.load(folder)
        figures = folder / EVALUATION_NAME
        evaluation = Evaluation.load(figures) if figures.is_file() else None
    except ValueError:
        return
    readme = folder / "README.md"
    if readme.is_file() and readme.read_text(encoding="utf-8") != render(facts, evaluation):
        return
    renamed = replace(facts, model_id=repo_id)
    renamed.save(folder)
    readme.write_text(render(renamed, evaluation), encoding="utf-8")


def _refuse_foreign_card(api: HfApi, repo_id: str, revision: str | None, ours: Path) -> None:
    try:
        there = ModelCard.load(
            api.hf_hub_download(repo_id, "README.md", revision=revision, force_download=True)
        )
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
        return
    tags = there.data.tags or []
    empty = not there.text.strip()
    if empty or str(there).strip() == ours.read_text(encoding="utf-8").strip():
        return
    kind = "another csr_st model's card" if "csr" in tags else "a card"
    raise ValueError(
        f"{repo_id} has {kind} already; nothing was published: pass replace_card=True "
        "(--replace-card) to overwrite it, or push to another name"
    )


def _explain(error: HfHubHTTPError, repo_id: str) -> str:
    """One line a status, without headers or URLs, which may carry secrets."""
    status = getattr(error.response, "status_code", None)
    reasons = {
        401: "the token is missing or refused: run `hf auth login`, or pass a valid token",
        403: f"the token may not write to {repo_id}: use one with write access to it",
        404: f"{repo_id} was not found with this token: check the name and the token's access",
        409: f"{repo_id} was changed meanwhile: push again",
        429: "the Hub asks to slow down: wait a few minutes and push again",
    }
    reason = reasons.get(status or 0, f"the Hub answered with status {status}: push again later")
    return f"nothing was published: {reason}"
