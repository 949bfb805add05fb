"""A data set repository on the Hub: written in one commit, read at one commit.

Nothing here knows codes or indexes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from csr_st._io.files import refuse_newer_format
from csr_st.hub_data.errors import LOADING, PUBLISHING, check_repo_id, check_token, plain_errors

KIND = "dataset"
MOST_TEXT = 100_000_000  # bytes of a file that is read into memory whole


@dataclass
class Destination:
    """A repository to write to.

    Attributes:
        api: The client.
        repo_id: Its name, as the Hub spells it.
        revision: The branch, None for the main one.
        commit_id: What the branch was at when its card was read.
        names: Paths of the files that it has.
    """

    api: HfApi
    repo_id: str
    revision: str | None
    commit_id: str | None
    names: set[str]
    _added: list[CommitOperationAdd] = field(default_factory=list)

    def read(self, name: str) -> bytes | None:
        """A file that is in the repository, None where there is none."""
        if name not in self.names:
            return None
        options: dict[str, Any] = {"repo_type": KIND, "revision": self.commit_id}
        return Path(self.api.hf_hub_download(self.repo_id, name, **options)).read_bytes()

    def add(self, name: str, content: bytes | Path) -> bool:
        """Send a file. The Hub shows it after `commit`, and is not sent what it has.

        Returns:
            Whether it was sent, and a local file is no longer needed; a small one goes with the
            commit.
        """
        addition = CommitOperationAdd(name, content)
        where: dict[str, Any] = {"repo_type": KIND, "revision": self.revision}
        self.api.preupload_lfs_files(self.repo_id, [addition], **where)
        self._added.append(addition)
        return addition.path_or_fileobj == b""  # which the client leaves of what it sent

    def commit(self, message: str, replaced: Callable[[str], bool]) -> str:
        """Show all files that were added.

        Args:
            message: Message of the commit.
            replaced: Whether a file goes that is there and was not added.

        Returns:
            URL of the commit.
        """
        new = {addition.path_in_repo for addition in self._added}
        old = [name for name in sorted(self.names - new) if replaced(name)]
        commit = self.api.create_commit(
            self.repo_id,
            [*self._added, *map(CommitOperationDelete, old)],
            commit_message=message,
            repo_type=KIND,
            revision=self.revision,
            parent_commit=self.commit_id,  # as it was when the card was read
        )
        return str(commit.commit_url)


@contextmanager
def destination(
    repo_id: str, *, private: bool | None, revision: str | None, token: str | None
) -> Iterator[Destination]:
    """A repository to write to, made when missing, and its branch too.

    Raises:
        ValueError: If the name or the token cannot be right, or the repository is public and
            ``private`` is True.
        ConnectionError: If the Hub cannot be reached or refuses, also within the block.
    """
    check_repo_id(repo_id)
    check_token(token)
    api = HfApi(token=token)
    with plain_errors(api.endpoint, repo_id, PUBLISHING):
        made = api.create_repo(repo_id, private=private, exist_ok=True, repo_type=KIND)
        repo_id = made.repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=KIND)
        remote = api.dataset_info(repo_id, revision=revision)
        if private and remote.private is False:
            raise ValueError(
                f"{repo_id} is a public repository; nothing was published: make it private in its "
                "settings, push to another name, or leave --private out"
            )
        names = {sibling.rfilename for sibling in remote.siblings or []}
        yield Destination(api, repo_id, revision, remote.sha, names)


@dataclass(frozen=True)
class Source:
    """A repository at one commit, to read from.

    Attributes:
        api: The client.
        repo_id: Its name.
        commit_id: The commit.
        sizes: Bytes of its files by path; None where the Hub does not say.
    """

    api: HfApi
    repo_id: str
    commit_id: str
    sizes: dict[str, int | None]

    def json(self, name: str, written_by: str) -> dict[str, Any]:
        """The content of a file of JSON.

        Args:
            name: Its path.
            written_by: The call that writes such a file.

        Raises:
            ValueError: If there is none, or it is damaged or very large.
        """
        if name not in self.sizes:
            raise ValueError(f"{self.repo_id} has no {name}; {written_by} writes it")
        if (size := self.sizes[name] or 0) > MOST_TEXT:
            raise ValueError(
                f"{name} of {self.repo_id} has {size:,} bytes; the most is {MOST_TEXT:,}"
            )
        try:
            found = json.loads(self.fetch(name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} of {self.repo_id} is not valid JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{name} of {self.repo_id} must contain a JSON object")
        return found

    def described(self, name: str, written_by: str, format_: str, newest: int) -> dict[str, Any]:
        """`json` of a file that names its format and version.

        Raises:
            ValueError: Also if it is of another format, or of a newer version.
        """
        found = self.json(name, written_by)
        if found.get("format") != format_:
            raise ValueError(
                f"{name} of {self.repo_id} is of {found.get('format')!r:.60}, not of {format_!r}; "
                f"{written_by} writes it"
            )
        refuse_newer_format(f"{name} of {self.repo_id}", found.get("version"), newest)
        return found

    def fetch(self, name: str, folder: Path | None = None) -> Path:
        """A file, in a folder or in the Hub's cache; what is there is not fetched again.

        Raises:
            ValueError: If the repository has no such file.
        """
        if name not in self.sizes:
            raise ValueError(f"{self.repo_id} has no {name}, which it needs: push it again")
        options: dict[str, Any] = {"repo_type": KIND, "revision": self.commit_id}
        return Path(self.api.hf_hub_download(self.repo_id, name, local_dir=folder, **options))


@contextmanager
def source(repo_id: str, *, revision: str | None, token: str | None) -> Iterator[Source]:
    """A repository to read from, at the commit that a branch, a tag or a commit's id stands for.

    Raises:
        ValueError: If the name or the token cannot be right.
        ConnectionError: If the Hub cannot be reached or refuses, also within the block.
    """
    check_repo_id(repo_id)
    check_token(token)
    api = HfApi(token=token)
    with plain_errors(api.endpoint, repo_id, LOADING):
        found = api.dataset_info(repo_id, revision=revision, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in found.siblings or []}
        yield Source(api, repo_id, str(found.sha), sizes)
