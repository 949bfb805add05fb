"""The command `demo`: every step once, on docstrings of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csr_st.cli import arguments
from csr_st.demo.run import run


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("csr-demo"),
    documents: Annotated[int, typer.Option(help="Docstrings to use at most.", min=2000)] = 8000,
    minutes: Annotated[
        float, typer.Option(help="Time in which to end: a slow machine takes fewer docstrings.")
    ] = 5,
) -> None:
    """Run every step once on your own machine.

    Trains, evaluates, saves and searches a sparse MiniLM on the docstrings of the Python packages
    that are installed here: as many, from 2,000 on, as the machine's speed allows.
    """
    arguments.check_output(output, is_folder=True)
    run(output, typer.echo, documents, minutes)
