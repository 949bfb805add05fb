"""The card of a data set of codes, or of an index: metadata, a generated text, an author's words.

On the next push what an author wrote outside the two marker lines stays, and so does metadata that
is not ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from csr_st.hub_data.markers import END, GENERATED, START
from csr_st.hub_data.repository import Destination

CARD_NAME = "README.md"
TAGS = ["csr-st", "sparse-embeddings"]


def card_text(
    repo_id: str, what: str, facts: Mapping[str, Any], calls: Sequence[str], notes: str
) -> str:
    """The generated part of a card.

    Args:
        repo_id: Name of the repository.
        what: One sentence.
        facts: Rows of a table.
        calls: Python that reads the repository, each a block of its own.
        notes: A last paragraph.
    """
    rows = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    blocks = [f"```python\n{call}\n```" for call in calls]
    parts = [f"# {repo_id.split('/')[-1]}", what, "\n".join(["| | |", "| --- | --- |", *rows])]
    return "\n\n".join([START, *parts, *blocks, notes, END])


def new_card(
    remote: Destination, text: str, metadata: Mapping[str, Any], replace_card: bool
) -> bytes:
    """The card to publish.

    Args:
        remote: The repository, whose card is kept where it is not ours.
        text: What `card_text` gave.
        metadata: Ours, which replaces the card's under the same names.
        replace_card: Whether a card that someone wrote is overwritten.

    Raises:
        ValueError: If the repository has a card without our markers and ``replace_card`` is False.
    """
    stored = None if replace_card else remote.read(CARD_NAME)
    there = (stored or b"").decode("utf-8", "replace")
    kept: dict[str, Any] = {}
    if there.strip():
        if not GENERATED.search(there):
            raise ValueError(
                f"{remote.repo_id} has a card that this push would overwrite; nothing was "
                "published: pass replace_card=True (--replace-card) to replace it, or push to "
                "another name"
            )
        kept, words = _parsed(remote.repo_id, there)
        text = GENERATED.sub(lambda _: text, words, count=1)
    tags = [tag for tag in kept.get("tags") or [] if tag not in TAGS]
    header = {**kept, **metadata, "tags": [*TAGS, *tags]}
    front = DatasetCardData(**header).to_yaml()
    return f"---\n{front.strip()}\n---\n\n{text.strip()}\n".encode()


def _parsed(repo_id: str, card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card."""
    try:
        found = DatasetCard(card, ignore_metadata_errors=True)
        metadata: dict[str, Any] = found.data.to_dict()  # type: ignore[no-untyped-call] # the Hub's
        return metadata, found.text
    except Exception as error:  # whatever a parser of YAML meets
        raise ValueError(
            f"the metadata of {repo_id}'s card cannot be read ({type(error).__name__}); nothing "
            "was published: mend the card, or pass replace_card=True (--replace-card)"
        ) from None
