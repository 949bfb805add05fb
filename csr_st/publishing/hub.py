"""Save a model with its card, and publish a folder on the Hugging Face Hub."""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelInfo
from sentence_transformers import SentenceTransformer

from csr_st._io.files import write_atomically
from csr_st._io.optional import OptionalStep
from csr_st.attaching import modality_of, name_of, parsed_card
from csr_st.config import TrainConfig
from csr_st.evaluation.results import Evaluation
from csr_st.head import find_head
from csr_st.hub_data.errors import check_repo_id, check_token, plain_errors
from csr_st.insight.names import LatentNames
from csr_st.publishing.facts import FACTS_NAME, CardFacts
from csr_st.publishing.figures import (
    update_card,
    write_figures,
)
from csr_st.publishing.files import (
    CARD_NAME,
    card_bytes,
    card_for,
    check_folder,
    facts_in,
    published_files,
    read_card,
    rendered,
    updated,
)
from csr_st.publishing.model_card import (
    EVALUATION_NAME,
    GENERATED,
    NAMES_NAME,
    PICTURE_NAME,
    is_ours,
    merged,
)
from csr_st.publishing.replacing import finish, replacing

OF_A_HEAD: dict[str, Any] = {
    "search": None,
    "mixture": [],
    "fvu": {},
    "others": [],
    "mteb": [],
    "adapted": "",
}
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def save(
    model: SentenceTransformer,
    path: str | Path,
    *,
    evaluation: Evaluation | None = None,
    config: TrainConfig | None = None,
    replace_card: bool = False,
    names: LatentNames | None = None,
    **facts: Any,
) -> CardFacts:
    """Write a model with head to a folder: modules, card, figures and picture.

    A card in the folder, or that of a loaded model, keeps what its author wrote outside the two
    marker lines, and the metadata that is not ours. A card without markers stays as it is, with a
    warning. That of a model from the Hub changes only if something new is given, and then no longer
    says how the head was trained: csr_card.json is not loaded with a model.

    Args:
        model: What `csr_st.attach` gave, or a loaded model.
        path: Folder; made when missing.
        evaluation: Figures for the card.
        config: How the head was trained.
        replace_card: Replace a card that is in the folder, its author's words included.
        names: Names of the latents, from `csr_st.name_latents`: for the card, and saved as
            latents.json beside it. They hold words, and neither texts nor their rows. A head that
            was saved with names keeps them.
        facts: Fields of `CardFacts` to set, such as ``data``, ``datasets`` or ``license``.

    Returns:
        The facts that the card was made from.

    Raises:
        ValueError: If the model has no head, or the names are of another.
        TypeError: If a fact is not a field of `CardFacts`, or names are not `LatentNames`.
    """
    folder = Path(path)
    head = find_head(model)
    if names is not None:
        _check_names(names, head.hidden_dim)
    own = model._model_card_text or ""
    source = _source(model, own, folder)
    card = CardFacts(
        **{
            **(_inherited(model, own) if source is None else asdict(CardFacts.load(source))),
            "model_id": folder.resolve().name,
            "input_dim": head.input_dim,
            "hidden_dim": head.hidden_dim,
            "k": head.k,
            "level": "" if head.level == "text" else head.level,
            "modality": modality_of(model),
            # transformers loads classes that came with a model under this name
            "remote_code": any(
                type(module).__module__.startswith("transformers_modules")
                for module in model.modules()
            ),
            # earlier figures are those of another head
            **({} if config is None else {"training": asdict(config), **OF_A_HEAD}),
            **facts,
        }
    )
    text = "" if replace_card else read_card(folder) or (own if is_ours(own) else "")
    trained = config is not None
    without = "the model is saved without; csr_st.save it again for a card"
    with replacing(folder, optional=(EVALUATION_NAME, PICTURE_NAME, NAMES_NAME)) as staged:
        model.save(str(staged), create_model_card=False)
        if evaluation is not None:
            write_figures(evaluation, staged)
        elif source is not None and not trained:  # other figures are those of another head
            for name in (EVALUATION_NAME, PICTURE_NAME):
                if (source / name).is_file():
                    shutil.copyfile(source / name, staged / name)
        if names is not None:
            names.save(staged / NAMES_NAME)
        elif source is not None and not trained and (source / NAMES_NAME).is_file():
            shutil.copyfile(source / NAMES_NAME, staged / NAMES_NAME)
        with OptionalStep(f"writing the card in {folder}", without):
            if source or evaluation or config or names or facts or not text or text != own:
                write_atomically(staged / FACTS_NAME, card.to_json())
                text = updated(staged, text, card, owned=facts, named=folder)
            write_atomically(staged / CARD_NAME, card_bytes(text))
    model._model_card_text = text  # type: ignore[assignment] # text or None in sentence-transformers
    model._csr_st_folder = folder.resolve()  # type: ignore[assignment] # ours, read by `_source`
    return card


def _check_names(names: Any, hidden_dim: int) -> None:
    if not isinstance(names, LatentNames):
        raise TypeError(
            f"names={names!r:.60} must be csr_st.LatentNames: pass what csr_st.name_latents gave"
        )
    if names.hidden_dim != hidden_dim:
        raise ValueError(
            f"the names are of a head with hidden_dim={names.hidden_dim}, and this head has "
            f"{hidden_dim}; name the latents of this one"
        )


def _source(model: SentenceTransformer, own: str, folder: Path) -> Path | None:
    """The folder with the facts of a saved or loaded model.

    Args:
        model: The model.
        own: Its card.
        folder: Where it will be saved, which may be that folder.
    """
    config = getattr(model.transformers_model, "config", None)
    loaded_from = Path(getattr(config, "_name_or_path", "") or "/nowhere")
    for place in (folder, getattr(model, "_csr_st_folder", loaded_from), loaded_from):
        text = read_card(place)
        same = GENERATED.findall(text) == GENERATED.findall(own) != [] or text == own
        # A card of the same title was updated since the model was loaded or saved.
        same |= TITLE.findall(text)[:1] == TITLE.findall(own)[:1] != []
        if own and same and facts_in(place) is not None:
            return place
    return None


def _inherited(model: SentenceTransformer, own: str) -> dict[str, Any]:
    """Base model, licence, languages and data: from the model's card, or else from its base."""
    stated: Any = model.model_card_data
    base_model = stated.base_model or name_of(model)
    if is_ours(own):
        stated = parsed_card(own).data
        base_model = stated.base_model
    lists = {name: getattr(stated, name, None) or [] for name in ("language", "datasets")}
    return {
        "base_model": base_model,
        "license": stated.license,
        **{name: [value] if isinstance(value, str) else value for name, value in lists.items()},
    }


def push_to_hub(
    model: SentenceTransformer | str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    replace_card: bool = False,
    commit_message: str | None = None,
    names: LatentNames | None = None,
    page: bool = False,
) -> str:
    """Publish a model in one commit: it appears on the Hub complete or not at all.

    Vectors, checkpoints and hidden files beside the model are not published, nor is a page of
    ``csr-st explore``, which holds texts, without ``page=True``. The published card
    names the repository; a card without the two marker lines is published as it is.

    Args:
        model: A saved folder, or a model with head, which is saved first.
        repo_id: Repository such as "org/name"; made when missing.
        private: Whether a new repository is private; the account's default when None.
        revision: Branch; made when missing. The main one when None.
        token: Hub token; the one that ``hf auth login`` saved when None.
        replace_card: Overwrite a card on the Hub that someone wrote or edited.
        commit_message: Message of the commit.
        names: Names of the latents, as in `save`; put into the saved folder first, if the model is
            one. Names that are in the folder as latents.json are published without it.
        page: Publish pages of ``csr-st explore`` that are in the folder, with the texts in them.

    Returns:
        URL of the commit.

    Raises:
        ValueError: If the folder is not a model with head, the name or the token cannot be right,
            the names are damaged or of another head, the repository is public and ``private`` is
            True, or it has a card that someone else wrote or edited and ``replace_card`` is False.
            Nothing is uploaded then.
        ConnectionError: If the Hub cannot be reached or refuses; the message says which.
    """
    check_repo_id(repo_id)
    check_token(token)
    with _saved(model, repo_id, names) as folder:
        files = published_files(folder, page)  # refuses links before anything is sent
        api = HfApi(token=token)
        with plain_errors(api.endpoint, repo_id):
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            remote = api.model_info(repo_id, revision=revision)
            if private and remote.private is False:
                raise ValueError(
                    f"{repo_id} is a public repository; nothing was published: make it private in "
                    "its settings, push to another name, or leave --private out"
                )
            card: dict[str, Any] = card_for(folder, repo_id)
            if not replace_card:
                _refuse_foreign_card(api, repo_id, remote, card.get(CARD_NAME, b""), folder)
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, content) for name, content in {**files, **card}.items()],
                commit_message=commit_message or "Add sparse adaptive embedding model",
                revision=revision,
                parent_commit=remote.sha,  # as it was when the card was read
            )
    return str(commit.commit_url)


@contextmanager
def _saved(
    model: SentenceTransformer | str | Path, repo_id: str, names: LatentNames | None
) -> Iterator[Path]:
    """The folder to publish, made for the time of the upload if a model is given."""
    if not isinstance(model, SentenceTransformer):
        finish(Path(model))
        check_folder(Path(model))
        facts, there = facts_in(Path(model)), Path(model) / NAMES_NAME
        if names is not None:
            _check_names(names, names.hidden_dim if facts is None else facts.hidden_dim)
            update_card(model, None, names=names)
        elif facts is not None and there.is_file():  # the card will show them
            _check_names(LatentNames.load(there), facts.hidden_dim)
        yield Path(model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repo_id.split("/")[-1]
        # What the copy remembers of this folder goes with it.
        save(copy.copy(model), folder, names=names)
        yield folder


def _refuse_foreign_card(
    api: HfApi, repo_id: str, remote: ModelInfo, card: bytes, folder: Path
) -> None:
    """Pass if the Hub has no card, the same one, or one of this base model that no one edited."""
    names = {sibling.rfilename for sibling in remote.siblings or []}
    if CARD_NAME not in names:
        return
    with tempfile.TemporaryDirectory() as temporary:
        for name in {CARD_NAME, FACTS_NAME, EVALUATION_NAME, PICTURE_NAME, NAMES_NAME} & names:
            api.hf_hub_download(repo_id, name, revision=remote.sha, local_dir=temporary)
        text, theirs, ours = read_card(Path(temporary)), facts_in(Path(temporary)), facts_in(folder)
        if theirs and ours and theirs.base_model == ours.base_model:
            fresh = rendered(Path(temporary), theirs)
            if GENERATED.search(text) and merged(text, fresh) == fresh:
                return
    words = parsed_card(text).text.strip()
    if not words or card_bytes(text).strip() == card.strip():
        return
    kind = "a csr_st model's card" if is_ours(text) else "a card"
    raise ValueError(
        f"{repo_id} has {kind} that this push would overwrite; nothing was published: pass "
        "replace_card=True (--replace-card) to replace it, or push to another name"
    )
