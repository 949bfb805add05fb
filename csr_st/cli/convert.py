"""The command `convert`: models to other formats and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import attach, save
from csr_st.cli import arguments
from csr_st.convert import from_native, head_from_file, to_native
from csr_st.publishing.replacing import PREFIX

NATIVE: dict[str, Any] = {"native": "SentenceTransformer", "sparse-encoder": "SparseEncoder"}


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
