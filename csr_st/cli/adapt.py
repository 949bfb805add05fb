"""The command that adapts a published head to a corpus: adapt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import workflow
from csr_st.cli import arguments
from csr_st.cli.train import pair_of, report
from csr_st.cli.training_data import training_data


def adapt(  # each argument is an option of the command
    model: arguments.Model,
    dataset: Annotated[str, typer.Argument(help=arguments.DATA)],
    output: Annotated[Path, typer.Option(help="Folder for the adapted model.")],
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    limit: Annotated[int | None, typer.Option(help="At most this many texts.", min=1)] = None,
    labels: Annotated[
        str | None, typer.Option(help="Column of class labels to learn from.")
    ] = None,
    pairs: Annotated[str | None, typer.Option(help="Pair columns, as anchor,positive.")] = None,
    scores: Annotated[str | None, typer.Option(help="With --pairs: column of scores.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of clusters, order and noise.", min=0)] = 0,
    batch_size: arguments.BatchSize = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Adapt a published head to your texts, in a tenth of the steps of training one.

    Latents that your texts hardly use are replaced by directions of their clusters, and all are
    trained further. Codes of the adapted model do not fit those of the published one. Example:
    csr-st adapt org/my-csr documents.jsonl --output mine
    """
    arguments.check_output(output, is_folder=True)
    found = training_data(
        [dataset],
        split,
        text_column,
        labels=labels,
        pairs=None if pairs is None else pair_of(pairs),
        scores=scores,
        weights=None,
        limit=limit,
        skip_bad=False,
        seed=seed,
    )
    why = "there is no head to train further; csr-st train gives a dense model one"
    loaded = arguments.load_with_head(model, trust_remote_code, why)
    name = Path(model).resolve().name if Path(model).exists() else model
    options: dict[str, Any] = {"batch_size": batch_size, "resume": resume, "facts": found.facts}
    trained = workflow.train_model(
        loaded,
        found.rows,
        output,
        data_name=found.name,
        adapted_from=name,
        **options,
        **found.columns,
    )
    report(trained)
