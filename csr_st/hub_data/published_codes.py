"""`PublishedCodes`: the mixin with `push_to_hub` and `load_from_hub` of `CodeStore`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from typing_extensions import Self

from csr_st.embeddings.manifest import Manifest
from csr_st.hub_data.codes import load_codes, push_codes
from csr_st.hub_data.origin import ModelOrigin, checked_origin


class PublishedCodes(ABC):
    """Mixin for a directory of codes: publish it on the Hub, and load it from there.

    Attributes:
        path: The directory.
    """

    path: Path
    _manifest: Manifest

    @classmethod
    @abstractmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store that is complete."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        model: str | None = None,
        model_revision: str | None = None,
        replace_card: bool = False,
        commit_message: str | None = None,
    ) -> str:
        """Publish the codes on the Hugging Face Hub, as a data set that `datasets` reads.

        One Parquet file a shard, with the columns ``indices``, ``values``, ``norms`` (of codes of
        unit norm), ``residual_levels`` and ``residual_scales`` (of codes with residual bits) and
        ``id``; a card, and csr_codes.json with the model and what `load_from_hub` needs. Packed
        codes are published unpacked, and packed again when they are loaded. All files appear in
        one commit. A push that broke off sends only what the Hub does not have yet.

        Args:
            repo_id: Data set such as "org/my-codes"; made when missing.
            private: Whether a new repository is private; the account's default when None.
            revision: Branch; made when missing. The main one when None.
            token: Hub token; the one that ``hf auth login`` saved when None.
            model: Hub id of the model that made the codes. When None, the id that the store has
                recorded, which it has for models from the Hub.
            model_revision: Its commit, branch or tag; as the store has recorded it when None.
            replace_card: Overwrite a card that `push_to_hub` did not write. Without it, such a card
                is an error; text outside the two marker lines of our own cards is always kept.
            commit_message: Message of the commit.

        Returns:
            URL of the commit.

        Raises:
            TypeError: If the model's name or revision is not a string.
            ValueError: If a shard is damaged or above 4 GiB, a name or the token cannot be right,
                the repository is public and ``private`` is True, or it has another card.
            ConnectionError: If the Hub cannot be reached or refuses; the message says which.
        """
        info, recipe = self._manifest.info, self._manifest.plan.recipe
        known = ModelOrigin(info.model, info.revision, recipe.get("weights"))
        return push_codes(
            self.path,
            repo_id,
            checked_origin(model, model_revision, known),
            private=private,
            revision=revision,
            token=token,
            replace_card=replace_card,
            commit_message=commit_message,
        )

    @classmethod
    def load_from_hub(
        cls,
        repo_id: str,
        path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Load codes that `push_to_hub` published, equal bit for bit to the store that was pushed.

        An interrupted load goes on after its last complete shard, and a complete one is opened
        after a look at the Hub. Nothing of the repository is run, every file is checked against
        the checksum of its shard, and no name of a file comes from the repository.

        Args:
            repo_id: Data set such as "org/my-codes".
            path: Directory to write the store to.
            revision: Branch, tag or commit; the main branch when None.
            token: Hub token; the one that ``hf auth login`` saved when None.

        Raises:
            ValueError: If the repository has no such codes, a file of it is damaged, the name or
                the token cannot be right, or ``path`` has another store or other files.
            ConnectionError: If the Hub cannot be reached or refuses; the message says which.
            BlockingIOError: If another process is writing to ``path``.
            OSError: If the disk is full. Shards that were finished stay.
        """
        load_codes(repo_id, Path(path), revision=revision, token=token)
        return cls.open(path)
