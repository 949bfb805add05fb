"""Commands that publish a model or change its format: push, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import CodeStore, LatentNames, SegmentedIndex, SparseIndex, attach, push_to_hub, save
from csr_st.cli import arguments
from csr_st.cli.kinds import Kind, kind_of
from csr_st.convert import from_native, head_from_file, to_native
from csr_st.publishing.replacing import PREFIX

NATIVE: dict[str, Any] = {"native": "SentenceTransformer", "sparse-encoder": "SparseEncoder"}


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


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Folder or Hub id of a model; with --backbone, a checkpoint file."),
    ],
    output: Annotated[Path, typer.Option(help="New folder for the converted model.")],
    to: Annotated[
        str,
        typer.Option(
            help="native: for SentenceTransformer without this package; sparse-encoder: for "
            "SparseEncoder without this package; csr: from either of these, or from a checkpoint "
            "of the CSR papers' authors or of CompresSAE."
        ),
    ],
    backbone: Annotated[
        str | None, typer.Option(help="With a checkpoint: the model whose vectors it encodes.")
    ] = None,
    k: Annotated[int, typer.Option(help="With a checkpoint: default active latents.", min=1)] = 32,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Convert a model to or from other formats.

    Example: csr-st convert my-csr --to native --output my-native
    """
    arguments.check_output(output, is_folder=True)
    found = [] if not output.is_dir() else [path.name for path in output.iterdir()]
    if not all(name.startswith(PREFIX) for name in found):  # what a killed run left is no model
        raise ValueError(f"--output {output} is not empty; name a new folder")
    lost: list[str] = []
    if to in NATIVE:
        why = f"--to {to} converts a head; such a model needs no conversion"
        loaded = arguments.load_with_head(source, trust_remote_code, why)
        lost = to_native(loaded, output, NATIVE[to])
    elif to != "csr":
        raise ValueError(f"--to {to!r} is not one of {', '.join([*NATIVE, 'csr'])}")
    elif backbone is not None:
        head = head_from_file(source, k)
        save(attach(arguments.load_model(backbone, trust_remote_code), head), output)
    else:
        save(from_native(source, trust_remote_code=trust_remote_code), output)
    for loss in lost:
        typer.echo(f"Lost: {loss}")
    typer.echo(f"Converted to {output}")
