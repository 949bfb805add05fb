"""An index on the Hub: its file, a card, and csr_index.json with the model that made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csr_st.hub_data.card import CARD_NAME, card_text, new_card
from csr_st.hub_data.origin import ModelOrigin
from csr_st.hub_data.repository import destination, source

INDEX_NAME = "index.csr"
ABOUT_NAME = "csr_index.json"
FORMAT, VERSION = "csr_st.index_on_hub", 1
WRITER = "SparseIndex.push_to_hub"
READ_BYTES = 1 << 22


def push_index(
    file: Path,
    facts: Mapping[str, Any],
    repo_id: str,
    model: ModelOrigin,
    *,
    private: bool | None,
    revision: str | None,
    token: str | None,
    replace_card: bool,
    commit_message: str | None,
) -> str:
    """Publish the file of an index; see `SparseIndex.push_to_hub`.

    Args:
        file: The file.
        facts: What the index is, by name.
        repo_id: Its repository.
        model: What made its codes.
        private: Whether a new repository is private; the account's default when None.
        revision: Branch.
        token: Hub token.
        replace_card: Whether a card that someone wrote is overwritten.
        commit_message: Message of the commit.
    """
    about = {
        "format": FORMAT,
        "version": VERSION,
        "model": model._asdict(),
        **facts,
        "bytes": file.stat().st_size,
        "sha256": sha256_of(file),
    }
    with destination(repo_id, private=private, revision=revision, token=token) as remote:
        card = _card(remote.repo_id, facts, model)
        content = new_card(remote, card, {"viewer": False}, replace_card)
        remote.add(INDEX_NAME, file)
        remote.add(ABOUT_NAME, json.dumps(about, indent=1, ensure_ascii=False).encode())
        remote.add(CARD_NAME, content)
        message = commit_message or f"Add an index of {facts['n']:,} documents"
        return remote.commit(message, lambda _: False)


def load_index(repo_id: str, *, revision: str | None, token: str | None) -> Path:
    """The file of an index, in the Hub's cache; see `SparseIndex.load_from_hub`."""
    with source(repo_id, revision=revision, token=token) as remote:
        about = remote.described(ABOUT_NAME, WRITER, FORMAT, VERSION)
        expected = about.get("sha256")
        if not isinstance(expected, str):
            raise ValueError(
                f"{ABOUT_NAME} of {repo_id} is damaged: sha256 is {expected!r:.60}; push it again"
            )
        file = remote.fetch(INDEX_NAME)
        if (found := sha256_of(file)) != expected:
            raise ValueError(
                f"{INDEX_NAME} of {repo_id} is altered: its SHA-256 is {found[:12]}, "
                f"{ABOUT_NAME} has {expected[:12]!r}; push it again"
            )
        return file


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes."""
    state = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(READ_BYTES):
            state.update(piece)
    return state.hexdigest()


def _card(repo_id: str, facts: Mapping[str, Any], model: ModelOrigin) -> str:
    rows = {
        "documents": f"{facts['n']:,}",
        "model": model.linked(),
        "active latents (k)": facts["k"] or None,
        "latents (hidden_dim)": f"{facts['hidden_dim']:,}" if facts["hidden_dim"] else None,
        "packed values": None if facts["value_bits"] is None else f"{facts['value_bits']} bits",
        "similarity": facts["similarity"],
        "words": facts["language"],
        "decoder, to rescore with": "yes" if facts["decoder"] else None,
    }
    named = f'"{model.id}"' if model.id and "/" in model.id else '"MODEL"'
    call = (
        "import csr_st\nfrom sentence_transformers import SentenceTransformer\n\n"
        f'index = csr_st.SparseIndex.load_from_hub("{repo_id}")\n'
        f"model = SentenceTransformer({json.dumps(named[1:-1])})\n"
        'queries = csr_st.encode(model, ["a query"], k=64, role="query")\n'
        "index.search(queries, top_k=10)"
    )
    notes = (
        "The file has the documents' ids and codes, and their words if it has words; publish only "
        "what may be known."
    )
    what = f"An exact search index of sparse codes, one file: `{INDEX_NAME}`."
    return card_text(repo_id, what, rows, [call], notes)
