"""Save a model with its card, and publish a folder on the Hugging Face Hub.

What the Hub answers when it refuses is put into words by `hub_errors`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from sentence_transformers import SentenceTransformer

from csr_st._io.files import write_atomically
from csr_st.attaching import modality_of, name_of
from csr_st.config import TrainConfig
from csr_st.evaluation.quality import Evaluation
from csr_st.head import find_head
from csr_st.publishing.errors import check_repo_id, check_token, plain_errors
from csr_st.publishing.files import CARD_NAME, card_for, check_folder, published_files, rendered
from csr_st.publishing.model_card import (
    EVALUATION_NAME,
    FACTS_NAME,
    MEASURED,
    PICTURE_NAME,
    TRAINED,
    CardFacts,
    is_ours,
    render,
    updated,
)

FIGURES = (EVALUATION_NAME, PICTURE_NAME)


def save(
    model: SentenceTransformer,
    path: str | Path,
    *,
    evaluation: Evaluation | None = None,
    config: TrainConfig | None = None,
    **facts: Any,
) -> CardFacts:
    """Write a model with head to a folder: modules, card, figures and picture.

    A model that was loaded keeps its card, and so does a folder whose card its author has edited:
    only the sections and metadata that new figures, settings or facts concern are written anew.

    Args:
        model: What `csr_st.attach` gave, or a loaded model.
        path: Folder; made when missing.
        evaluation: Figures for the card.
        config: How the head was trained.
        facts: Fields of `CardFacts` to set, such as ``data``, ``datasets`` or ``license``.

    Returns:
        The facts that the card was made from.

    Raises:
        ValueError: If the model has no head.
        TypeError: If a fact is not a field of `CardFacts`.
    """
    folder = Path(path)
    head = find_head(model)
    kept = model._model_card_text or _edited_card(folder)
    source = _source(model, kept)
    card = CardFacts(
        **{
            **_inherited(model, model._model_card_text or ""),
            **({} if source is None else asdict(CardFacts.load(source))),
            "model_id": folder.resolve().name,
            "input_dim": head.input_dim,
            "hidden_dim": head.hidden_dim,
            "k": head.k,
            "modality": modality_of(model),
            "remote_code": any(_is_remote(module) for module in model.modules()),
            **({} if config is None else {"training": asdict(config)}),
            **({} if config is None else {"search": None}),  # that of the head before
            **facts,
        }
    )
    model.save(str(folder), create_model_card=False)
    if source is not None or not is_ours(model._model_card_text or ""):
        card.save(folder)  # else a poorer record than the published one would replace it
    if evaluation is not None:
        evaluation.save(folder / EVALUATION_NAME)
        _draw(evaluation, folder / PICTURE_NAME)
    elif source is not None and source.resolve() != folder.resolve():
        for name in FIGURES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    elif source is None and not is_ours(kept):  # those of another head that was saved here
        for name in FIGURES:
            (folder / name).unlink(missing_ok=True)
    text = render(card, evaluation, picture=(folder / PICTURE_NAME).is_file())
    if is_ours(kept):
        concerned = ((evaluation, MEASURED), (config, TRAINED))
        sections = [heading for given, heading in concerned if given is not None]
        text = updated(kept, text, sections, [*facts, *(["eval_results"] if evaluation else [])])
    write_atomically(folder / CARD_NAME, text)
    model._model_card_text = text  # type: ignore[assignment] # text or None in sentence-transformers
    return card


def _edited_card(folder: Path) -> str:
    """The card in a folder, if it is of a model with head and not as this package made it."""
    try:
        text = (folder / CARD_NAME).read_text(encoding="utf-8")
        return text if is_ours(text) and text != rendered(folder) else ""
    except (OSError, ValueError):
        return ""


def _inherited(model: SentenceTransformer, card: str) -> dict[str, Any]:
    """Base model, licence, language and data: from the model's card, or else from its base."""
    if is_ours(card):
        return _stated(card)
    data = model.model_card_data
    return {
        "base_model": data.base_model or name_of(model),
        "license": data.license,
        "language": _listed(data.language),
    }


def _stated(card: str) -> dict[str, Any]:
    """The same, as a card's metadata states them."""
    data = ModelCard(card, ignore_metadata_errors=True).data
    return {
        "base_model": data.get("base_model"),
        "license": data.get("license"),
        "language": _listed(data.get("language")),
        "datasets": _listed(data.get("datasets")),
    }


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _is_remote(module: object) -> bool:
    """Whether a module's class came with a model, as transformers loads it on trust."""
    return type(module).__module__.startswith("transformers_modules")


def _source(model: SentenceTransformer, card: str) -> Path | None:
    """The folder that a model was loaded from, if it is still there with the same card."""
    config = getattr(model.transformers_model, "config", None)
    folder = Path(getattr(config, "_name_or_path", "") or "/nowhere")
    try:
        CardFacts.load(folder)
        same = (folder / CARD_NAME).read_text(encoding="utf-8") == card
    except (OSError, ValueError):
        return None
    return folder if same else None


def _draw(evaluation: Evaluation, path: Path) -> None:
    try:
        from csr_st.evaluation.plots import draw

        draw(evaluation, path)
    except ImportError:
        # The card's picture is a nicety: a machine without matplotlib still saves its model.
        path.unlink(missing_ok=True)


def update_card(folder: str | Path, evaluation: Evaluation) -> None:
    """Put new figures into a saved model's folder: JSON, picture and the card's section.

    Args:
        folder: Folder that `save` wrote; in any other only JSON and picture are written.
        evaluation: The figures.
    """
    root = Path(folder)
    evaluation.save(root / EVALUATION_NAME)
    _draw(evaluation, root / PICTURE_NAME)
    readme = root / CARD_NAME
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if is_ours(text):
        facts = _facts(root, text, evaluation)
        fresh = render(facts, evaluation, picture=(root / PICTURE_NAME).is_file())
        write_atomically(readme, updated(text, fresh, [MEASURED], ["eval_results"]))


def _facts(folder: Path, card: str, evaluation: Evaluation) -> CardFacts:
    """A folder's facts, or what the measured section needs of them."""
    if (folder / FACTS_NAME).is_file():
        return CardFacts.load(folder)
    return CardFacts(
        model_id=folder.resolve().name,
        input_dim=evaluation.input_dim,
        hidden_dim=evaluation.hidden_dim,
        k=max(evaluation.ks),
        **_stated(card),
    )


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

    Vectors, checkpoints and hidden files beside the model stay at home.

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
        ValueError: If the folder is no model with head, the name or the token cannot be right, the
            repository is public and ``private`` is True, or it has a card that someone else wrote
            or edited and ``replace_card`` is False. Nothing is uploaded then.
        ConnectionError: If the Hub cannot be reached or refuses; the message tells which.
    """
    check_repo_id(repo_id)
    check_token(token)
    with _saved(model, repo_id) as folder:
        files = published_files(folder)
        api = HfApi(token=token)
        with plain_errors(api.endpoint, repo_id):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            there = api.model_info(repo_id, revision=revision)
            if private and there.private is False:
                raise ValueError(
                    f"{repo_id} is a public repository; nothing was published: make it private in "
                    "its settings, push to another name, or leave --private out"
                )
            operations = [*_operations(files, card_for(folder, repo_id))]
            if not replace_card:
                _refuse_foreign_card(api, repo_id, there, _text(operations), folder)
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=commit_message or "Add sparse adaptive embedding model",
                revision=revision,
                parent_commit=there.sha,  # what is there now, and was looked at
            )
    return str(commit.commit_url)


@contextmanager
def _saved(model: SentenceTransformer | str | Path, repo_id: str) -> Iterator[Path]:
    """The folder to publish, made for the time of the upload if a model is given."""
    if not isinstance(model, SentenceTransformer):
        check_folder(Path(model))
        yield Path(model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.split("/")[-1]
        save(model, folder)
        yield folder


def _operations(files: dict[str, Path], changed: dict[str, bytes]) -> Iterator[CommitOperationAdd]:
    for name, path in files.items():
        if name not in changed:
            yield CommitOperationAdd(name, str(path))
    for name, content in changed.items():
        yield CommitOperationAdd(name, content)


def _text(operations: list[CommitOperationAdd]) -> str:
    cards = [operation for operation in operations if operation.path_in_repo == CARD_NAME]
    return bytes(cards[0].path_or_fileobj).decode() if cards else ""  # type: ignore[arg-type] # made of bytes above


def _refuse_foreign_card(api: HfApi, repo_id: str, there: Any, ours: str, folder: Path) -> None:
    """Pass if no card is there, the same one, or one of this base model that no one edited."""
    names = {sibling.rfilename for sibling in there.siblings or []}
    if CARD_NAME not in names:
        return
    with tempfile.TemporaryDirectory() as temporary:
        card_files = {CARD_NAME, FACTS_NAME, EVALUATION_NAME, PICTURE_NAME} & names
        for name in card_files:
            api.hf_hub_download(repo_id, name, revision=there.sha, local_dir=temporary)
        text = (Path(temporary) / CARD_NAME).read_text(encoding="utf-8")
        untouched = FACTS_NAME in names and text == rendered(Path(temporary))
        same_base = (
            untouched
            and (folder / FACTS_NAME).is_file()
            and (CardFacts.load(Path(temporary)).base_model == CardFacts.load(folder).base_model)
        )
    words = ModelCard(text, ignore_metadata_errors=True).text.strip()
    if not words or text.strip() == ours.strip() or same_base:
        return
    kind = "a csr_st model's card" if is_ours(text) else "a card"
    raise ValueError(
        f"{repo_id} has {kind} that this push would overwrite; nothing was published: pass "
        "replace_card=True (--replace-card) to replace it, or push to another name"
    )
