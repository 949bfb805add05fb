"""`PublishedIndex`: the mixin with `push_to_hub` of `SparseIndex` and `SegmentedIndex`."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from csr_st.hub_data.index import push_index
from csr_st.hub_data.origin import checked_origin


class PublishedIndex(ABC):
    """An index that goes to the Hub as one file, from which `SparseIndex` opens it."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the file, without removed documents."""

    @abstractmethod
    def _facts(self) -> dict[str, Any]:
        """What the index is, by name."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        model: str | None = None,
        model_revision: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        replace_card: bool = False,
        commit_message: str | None = None,
    ) -> str:
        """Publish the index on the Hugging Face Hub: its file, a card and csr_index.json.

        Removed documents are left out. The published file contains the ids of the documents and, if
        the index has words, every word of their texts.

        Args:
            repo_id: Data set such as "org/my-index"; made when missing.
            model: Hub id of the model that made the codes, such as "org/my-csr": for the card and
                csr_index.json, as an index does not know it.
            model_revision: Its commit, branch or tag.
            private: Whether a new repository is private; the account's default when None.
            revision: Branch; made when missing. The main one when None.
            token: Hub token; the one that ``hf auth login`` saved when None.
            replace_card: Overwrite a card on the Hub that `push_to_hub` did not write.
            commit_message: Message of the commit.

        Returns:
            URL of the commit.

        Raises:
            TypeError: If the model's name or revision is not a string.
            ValueError: If a name or the token cannot be right, the repository is public and
                ``private`` is True, or it has another card.
            ConnectionError: If the Hub cannot be reached or refuses; the message says which.
        """
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "index.csr"
            self.save(file)
            return push_index(
                file,
                self._facts(),
                repo_id,
                checked_origin(model, model_revision),
                private=private,
                revision=revision,
                token=token,
                replace_card=replace_card,
                commit_message=commit_message,
            )
