"""Commands that carry a model elsewhere: push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    folder: Annotated[Path, typer.Argument(help="Folder that train wrote.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, such as org/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Overwrite a model card that is there.")
    ] = False,
) -> None:
    """Publish a model on the Hugging Face Hub, in one commit."""
    from csr_st.hub import push_to_hub

    url = push_to_hub(
        folder,
        repo_id,
        private=private or None,
        revision=revision,
        replace_card=replace_card,
    )
    typer.echo(f"Published: {url}")
