"""The command `push`: models, codes and indexes to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import CodeStore, LatentNames, SegmentedIndex, SparseIndex, push_to_hub
from csr_st.cli.kinds import Kind, kind_of


def push(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder written by train; or a folder of codes, or an index, which become data "
            "sets on the Hub."
        ),
    ],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, such as org/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create it as private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to.")] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Overwrite an existing card.")
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--page", help="Publish the pages of explore in the folder, texts included."),
    ] = False,
    names: Annotated[
        Path | None,
        typer.Option(
            help="Names of the latents, as explore --names writes them: put into FOLDER as "
            "latents.json, and on the card. Names that are there need no option."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="With codes or an index: Hub id of the model that made them, which is published "
            "with them. Codes of a model from the Hub need no option."
        ),
    ] = None,
) -> None:
    """Publish a model, codes or an index on the Hugging Face Hub.

    All files are uploaded in one commit: either all of them or none. The token is HF_TOKEN, or the
    one that `hf auth login` saved. Example: csr-st push my-csr org/my-csr --private
    """
    options: dict[str, Any] = {"private": private or None, "revision": revision}
    options["replace_card"] = replace_card
    kind = kind_of(folder)
    if kind in ("codes", "index"):
        for option, given in {"--page": page, "--names": names is not None}.items():
            if given:
                raise ValueError(f"{option} is for a model, and {folder} is none; leave it out")
        typer.echo(f"Published: {_push_data(folder, kind, repo_id, model=model, **options)}")
        return
    if model is not None:
        raise ValueError(f"--model is for codes or an index, and {folder} is none; leave it out")
    options["page"] = page
    if names is not None:
        if not names.is_file():
            raise FileNotFoundError(f"--names {names} is no file; explore --names writes one")
        options["names"] = LatentNames.load(names)
    typer.echo(f"Published: {push_to_hub(folder, repo_id, **options)}")


def _push_data(path: Path, kind: Kind, repo_id: str, **options: Any) -> str:
    """Publish a folder of codes or an index."""
    if kind == "index":
        index = SegmentedIndex.open(path, verify=True) if path.is_dir() else SparseIndex.load(path)
        return index.push_to_hub(repo_id, **options)
    if not path.is_dir():
        raise ValueError(
            f"{path} is one file of codes, and codes are pushed from a folder; write one with: "
            "csr-st encode MODEL DATA --output my-codes"
        )
    return CodeStore.open(path).push_to_hub(repo_id, **options)
