"""Commands that make a head and measure it: train, evaluate, demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csr_st.cli.arguments import (
    BatchSize,
    Column,
    EvaluateEvery,
    Model,
    ModelOrVectors,
    Patience,
    Split,
    Trust,
    check_output,
    inputs_for,
    load_model,
)

if TYPE_CHECKING:
    from csr_st.training.loop import TrainResult
    from csr_st.workflow import Trained

MOST = 50_000  # documents that are measured where they come without queries


def train(
    model: ModelOrVectors,
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")],
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A .jsonl, .csv, .tsv, .parquet or .txt file, a saved data set, or a Hub id; "
            "left out when the first argument is a file of vectors."
        ),
    ] = None,
    split: Split = "train",
    text_column: Column = None,
    labels: Annotated[str | None, typer.Option(help="Column of classes to learn from.")] = None,
    pairs: Annotated[
        str | None, typer.Option(help="Two columns that belong together, as anchor,positive.")
    ] = None,
    scores: Annotated[str | None, typer.Option(help="With --pairs: column of scores.")] = None,
    recipe: Annotated[str, typer.Option(help="nested, csr or csrv2.")] = "nested",
    k: Annotated[int, typer.Option(help="Default active latents.", min=1)] = 32,
    hidden_dim: Annotated[
        int | None,
        typer.Option(help="Latents; 8 times the width when not given, 4 for few vectors."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps; fitted to the data if not given.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    label_weight: Annotated[
        float | None,
        typer.Option(help="How far --labels move codes from the dense vectors; 3 for nested."),
    ] = None,
    patience: Patience = 0,
    evaluate_every: EvaluateEvery = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    base_model: Annotated[
        str | None, typer.Option(help="Hub id that the card names as the base of a local MODEL.")
    ] = None,
    batch_size: BatchSize = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave out rows with a corrupt image or a missing entry, naming them.",
        ),
    ] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Give a model a sparse head.

    Embeds the data once, trains the head on the vectors, measures it on rows held out, and saves
    model, card and picture. Example: csr-st train sentence-transformers/all-MiniLM-L6-v2 texts.txt
    --output my-csr

    Or from vectors that you have: csr-st train vectors.npy --output my-csr
    """
    from csr_st import config as configs
    from csr_st.data import loading as sources
    from csr_st.workflow import train_model, train_vectors

    check_output(output, is_folder=True)
    chosen: dict[str, Any] = {
        "k": k,
        "hidden_dim": hidden_dim,
        "steps": steps,
        "learning_rate": learning_rate,
        "supervised_weight": label_weight,
        "patience": patience,
        "evaluate_every": evaluate_every,
        "seed": seed,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = configs.recipe(recipe, **given)
    if dataset is None:
        _check_vectors(model, {"--pairs": pairs, "--scores": scores, "--skip-bad": skip_bad})
        made = train_vectors(
            model,
            output,
            settings,
            column=text_column,
            label_column=labels,
            data_name=Path(model).name,
            base_model=base_model,
            resume=resume,
        )
        _tell(made)
        return
    pair_columns = _pair(pairs)
    rows = sources.load(dataset, split)
    if skip_bad:
        named = [*(pair_columns or ()), *([text_column] if text_column else []), scores]
        rows = sources.without_bad(rows, [name for name in named if name])
    done = train_model(
        load_model(model, trust_remote_code),
        rows,
        output,
        settings,
        data_name=Path(dataset).name if Path(dataset).exists() else dataset,
        base_model=base_model or (None if Path(model).exists() else model),
        batch_size=batch_size,
        resume=resume,
        facts={} if Path(dataset).exists() else {"datasets": [dataset]},
        text_column=text_column,
        label_column=labels,
        pair_columns=pair_columns,
        score_column=scores,
    )
    _tell(done)


def _tell(done: Trained) -> None:
    typer.echo(done.evaluation.table())
    if done.sides is not None:
        typer.echo("\n" + done.sides.table())
    if done.result.config.patience:
        typer.echo(_ending(done.result))
    typer.echo(f"Saved to {done.path}. Load it with SentenceTransformer({str(done.path)!r}).")


def _ending(result: TrainResult) -> str:
    """When training ended, and which step's head was kept, by the rows that patience goes by."""
    from csr_st.training.early_stopping import best_of

    evaluations = result.evaluations
    last, best = evaluations[-1]["step"], evaluations[best_of(evaluations)]["step"]
    steps = result.config.steps or last
    ended = f"Stopped early at step {last} of {steps}" if last < steps else f"Ran all {steps} steps"
    return f"{ended}; kept the head of step {best}, the best on rows set aside for --patience."


def _check_vectors(path: str, of_data: dict[str, str | bool | None]) -> None:
    """Refuse what is no file of vectors, and options of data, where no DATASET was given."""
    if (Path(path) / "modules.json").exists() or not Path(path).exists():
        raise ValueError(
            f"{path} is no file of vectors: name the DATASET to train on as well, or a file such "
            "as vectors.npy alone"
        )
    for option, given in of_data.items():
        if given:
            raise ValueError(f"{option} needs a DATASET; a file of vectors takes no such option")


def _pair(names: str | None) -> tuple[str, str] | None:
    if names is None:
        return None
    parts = [name.strip() for name in names.split(",")]
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"--pairs {names!r} must name two columns, as in anchor,positive")
    return parts[0], parts[1]


def evaluate(
    model: Model,
    dataset: Annotated[
        str, typer.Argument(help="A folder in BEIR's form, or documents as for train.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json and quality.png. The model's own: its card is updated."
        ),
    ] = None,
    split: Split = "test",
    text_column: Column = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Documents to measure on at most, 50,000 by default; a BEIR folder is measured "
            "whole.",
            min=11,
        ),
    ] = None,
    batch_size: BatchSize = 64,
    trust_remote_code: Trust = False,
) -> None:
    """Measure a head on your data.

    Prints quality at every k beside the dense model, PCA and truncation. Documents that come
    without queries are searched by one another.
    """
    from csr_st.data import loading as sources
    from csr_st.publishing.hub import update_card
    from csr_st.workflow import evaluate_model

    if output is not None:
        check_output(output, is_folder=True)
    loaded = load_model(model, trust_remote_code)
    about = {"data": Path(dataset).name}
    if sources.is_judged(dataset):
        if limit is not None:
            raise ValueError(
                f"--limit {limit}: {dataset} has judged queries and is measured whole; leave it out"
            )
        judged = sources.load_judged(dataset)
        measured = evaluate_model(
            loaded, judged.documents, judged.queries, judged.relevant, about, batch_size
        )
    else:
        documents = inputs_for(loaded, dataset, split, text_column)[: limit or MOST]
        measured = evaluate_model(loaded, documents, about=about, batch_size=batch_size)
    for metric in measured.scores:
        typer.echo(measured.table(metric) + "\n")
    if output is not None:
        update_card(output, measured)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("csr-demo"),
    documents: Annotated[int, typer.Option(help="Docstrings to use at most.", min=2000)] = 8000,
) -> None:
    """Show the whole path on your own machine.

    Trains, measures, saves and searches a sparse MiniLM on the docstrings of the Python packages
    that are installed here.
    """
    from csr_st.demo.run import run

    run(output, typer.echo, documents)
