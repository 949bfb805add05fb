"""The command that makes queries independent of the backbone: distill-queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csr_st.cli import arguments
from csr_st.data import loading as sources
from csr_st.data.names import DataName
from csr_st.distill import distill_queries as distilled

WHY = "there is no head whose queries could be looked up"


def distill_queries(  # each argument is an option of the command
    model: arguments.Model,
    dataset: Annotated[
        str, typer.Argument(help=f"Texts like those that are searched. {arguments.DATA}.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the model with static queries.")],
    queries: Annotated[
        str | None, typer.Option(help="Real queries to learn from too: a data set, as above.")
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option(
            help="A folder in BEIR's format to measure on; without, pieces of texts set aside."
        ),
    ] = None,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    epochs: Annotated[
        int, typer.Option(help="Passes of training; 0 for least squares alone.", min=0)
    ] = 8,
    seed: Annotated[int, typer.Option(help="Seed of pieces and order.", min=0)] = 0,
    batch_size: arguments.BatchSize = 64,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Make a model whose queries are looked up, without a forward pass.

    Fits a vector for each token so that their mean, through the same head, finds what the
    backbone's query vector would; documents and indexes stay as they are. To resume a stopped run,
    run the same command again. Example: csr-st distill-queries my-csr documents.jsonl --output
    my-csr-fast
    """
    arguments.check_output(output, is_folder=True)
    if Path(model).exists() and output.resolve() == Path(model).resolve():
        raise ValueError(f"--output {output} is the MODEL itself; name another folder")
    if evaluate is not None and not sources.is_beir(evaluate):
        raise ValueError(
            f"--evaluate {evaluate} is no folder in BEIR's format (corpus.jsonl, queries.jsonl, "
            "qrels.tsv)"
        )
    judged = None if evaluate is None else sources.load_beir(evaluate)
    source = DataName.parse(dataset, split, text_column)
    rows = sources.load(source, columns=[source.column] if source.column else [])
    texts = sources.column(rows, source.column)
    asked = []
    if queries is not None:
        named = DataName.parse(queries, split, text_column)
        found = sources.load(named, columns=[named.column] if named.column else [])
        asked = sources.column(found, named.column)
    done = distilled(
        arguments.load_with_head(model, trust_remote_code, WHY),
        texts,
        output,
        queries=asked,
        judged=judged,
        data_name=sources.short_name(str(evaluate) if evaluate else source.name),
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
    )
    if done.agreement is not None:
        typer.echo(str(done.agreement))
    typer.echo(f"Saved to {done.path}. Load it with SentenceTransformer({str(done.path)!r}).")
