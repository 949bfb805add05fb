"""The command that writes a model for other runtimes: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csr_st.cli import arguments
from csr_st.data import loading as sources
from csr_st.data.names import DataName
from csr_st.export.agreement import MOST
from csr_st.export.exporting import GraphFormat, export_model

WHY = "export writes the graph of a head and its backbone"


def export(
    model: arguments.Model,
    format: Annotated[str, typer.Option(help="onnx, for onnxruntime, or openvino.")] = "onnx",
    output: Annotated[
        Path | None,
        typer.Option(help="New folder; beside MODEL, named MODEL-onnx, if not given."),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Round the backbone's weights to 8 bits; prints what that changes."
        ),
    ] = False,
    texts: Annotated[
        str | None,
        typer.Option(
            help=f"Texts like yours, to compare codes on, up to {MOST}: a data set. Python's own "
            "docstrings if not given."
        ),
    ] = None,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Write a model as one graph, from tokens to codes, that needs no torch.

    The folder has the graph, the tokenizer, the prompts and an example; csr_st.ExportedModel loads
    it. Prints how near its codes are to the model's. Example: csr-st export my-csr --format onnx
    """
    known: dict[str, GraphFormat] = {"onnx": "onnx", "openvino": "openvino"}
    if format not in known:
        raise ValueError(f"--format {format!r} is not one of {', '.join(known)}")
    if output is None:
        here = Path(model)
        name = f"{here.resolve().name}-{format}" if here.exists() else f"{here.name}-{format}"
        output = here.resolve().with_name(name) if here.exists() else Path(name)
    arguments.check_output(output, is_folder=True)
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"--output {output} is not empty; name a new folder")
    samples = None
    if texts is not None:
        named = DataName.parse(texts, split, text_column)
        rows = sources.load(named, columns=[named.column] if named.column else [])
        samples = [str(text) for text in sources.column(rows, named.column)[:MOST]]
    loaded = arguments.load_with_head(model, trust_remote_code, WHY)
    done = export_model(loaded, output, format=known[format], int8=int8, texts=samples)
    typer.echo(str(done.agreement))
    typer.echo(f"Saved to {done.path}. Load it with csr_st.ExportedModel({str(done.path)!r}).")
