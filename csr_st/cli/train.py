"""The command `train`: a head for a model, or for vectors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import config as configs
from csr_st import workflow
from csr_st.cli import arguments
from csr_st.cli.evaluate import echo_caution
from csr_st.cli.training_data import training_data
from csr_st.model.settings import LEVELS, one_of
from csr_st.training.early_stopping import best_of

LABEL_WEIGHT = (
    "3 for nested, 1 for csrv2; more separates classes, less keeps the dense similarities."
)
PATIENCE = "A tenth of the training rows is the validation set."


def _setting(field: str, more: str = "", **bounds: Any) -> Any:
    """An option with the help of the field of `TrainConfig` that it sets."""
    known = (f for name in configs.RECIPES for f in dataclasses.fields(configs.recipe(name)))
    text: str = next(f.metadata["help"] for f in known if f.name == field)
    return typer.Option(help=f"{text[0].upper()}{text[1:]}. {more}".strip(), **bounds)


def train(  # each argument is an option of the command
    model: Annotated[
        str,
        typer.Argument(
            help=f"{arguments.MODEL}; without DATASET, vectors: a .npy, .npz, .safetensors, "
            ".parquet, .arrow, .csv or .jsonl file, a folder of such files or a 'pattern*'."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    dataset: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"{arguments.DATA}; omit it for a file of vectors. Several are mixed. Each may "
            "say its own: DATASET:config=NAME,split=NAME,column=NAME."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Shares of several DATASETs, as 0.5 0.3 0.2; without, each gives what it has.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many texts, of all together.", min=1)
    ] = None,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    labels: Annotated[str | None, typer.Option(help="Column of class labels to train on.")] = None,
    pairs: Annotated[str | None, typer.Option(help="Pair columns, as anchor,positive.")] = None,
    scores: Annotated[str | None, typer.Option(help="With --pairs: column of scores.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="nested (the default), general (for texts of other kinds), csr, csrv2."),
    ] = None,
    level: Annotated[
        str, typer.Option(help="text: codes of pooled vectors. token: codes pooled from tokens.")
    ] = "text",
    k: Annotated[
        int | None,
        _setting("k", "By default 32, with --level token 128.", min=1, show_default=False),
    ] = None,
    hidden_dim: Annotated[int | None, _setting("hidden_dim")] = None,
    steps: Annotated[int | None, _setting("steps")] = None,
    learning_rate: Annotated[float | None, _setting("learning_rate")] = None,
    label_weight: Annotated[float | None, _setting("supervised_weight", LABEL_WEIGHT)] = None,
    patience: Annotated[int, _setting("patience", PATIENCE, min=0)] = 0,
    evaluate_every: Annotated[int | None, _setting("evaluate_every", min=1)] = None,
    seed: Annotated[int, _setting("seed")] = 0,
    base_model: Annotated[
        str | None, typer.Option(help="Base model's Hub id, for the card.")
    ] = None,
    batch_size: arguments.BatchSize = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Drop rows with a corrupt image or a missing entry.")
    ] = False,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Train a sparse head for a model.

    Embeds the data once, trains the head on the vectors, evaluates it on held-out rows, and saves
    the model with its card and a figure. Example: csr-st train
    sentence-transformers/all-MiniLM-L6-v2 texts.txt --output my-csr

    From vectors that you have already: csr-st train vectors.npy --output my-csr
    """
    arguments.check_output(output, is_folder=True)
    settings: dict[str, Any] = {
        "k": k,
        "hidden_dim": hidden_dim,
        "steps": steps,
        "learning_rate": learning_rate,
        "supervised_weight": label_weight,
        "patience": patience,
        "evaluate_every": evaluate_every,
        "seed": seed,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    truth = {
        "--labels": labels,
        "--pairs": pairs,
        "--scores": scores,
        "--label-weight": label_weight,
    }
    config = configs.recipe(_recipe_of(recipe, level, truth), **given)
    if not dataset:
        if level == "token":
            raise ValueError("--level token needs texts: name a MODEL and a DATASET")
        for_data = {"--pairs": pairs, "--scores": scores, "--skip-bad": skip_bad}
        _check_vectors(model, for_data | {"--weights": weights, "--limit": limit})
        trained = workflow.train_vectors(
            model,
            output,
            config,
            column=text_column,
            label_column=labels,
            data_name=Path(model).name,
            base_model=base_model,
            resume=resume,
        )
    else:
        found = training_data(
            dataset,
            split,
            text_column,
            labels=labels,
            pairs=None if pairs is None else pair_of(pairs),
            scores=scores,
            weights=weights,
            limit=limit,
            skip_bad=skip_bad,
            seed=seed,
        )
        trained = workflow.train_model(
            arguments.load_model(model, trust_remote_code),
            found.rows,
            output,
            config,
            data_name=found.name,
            base_model=base_model or (None if Path(model).exists() else model),
            batch_size=batch_size,
            resume=resume,
            facts=found.facts,
            **found.columns,
        )
    report(trained)


def _recipe_of(recipe: str | None, level: str, truth: dict[str, Any]) -> str:
    """The recipe of a level: only one is for tokens, and it learns from texts alone."""
    one_of("--level", level, LEVELS)
    if level == "text" and recipe == "token":
        raise ValueError("--recipe token needs --level token; add that, or name another recipe")
    if level == "token" and recipe not in (None, "token"):
        raise ValueError(f"--recipe {recipe} needs --level text; leave it out with --level token")
    if level == "token" and (given := [name for name, one in truth.items() if one is not None]):
        raise ValueError(
            f"{', '.join(given)}: a token-level head is trained on texts alone; leave it out with "
            "--level token"
        )
    return "token" if level == "token" else recipe or "nested"


def report(trained: workflow.Trained) -> None:
    """Print the figures, how training ended if it had a validation set, and the folder."""
    if trained.evaluation is not None:
        typer.echo(trained.evaluation.table())
        echo_caution(trained.evaluation)
    if trained.sides is not None:
        typer.echo("\n" + trained.sides.table())
    result = trained.result
    if result.config.patience:
        last, best = result.evaluations[-1]["step"], best_of(result.evaluations)
        steps = result.config.steps or last
        end = (
            f"Stopped early at step {last} of {steps}" if last < steps else f"Ran all {steps} steps"
        )
        kept = result.evaluations[best]["step"]
        typer.echo(f"{end}; kept the head of step {kept}, the best on the validation set.")
    typer.echo(f"Saved to {trained.path}. Load it with SentenceTransformer({str(trained.path)!r}).")


def _check_vectors(path: str, data_options: dict[str, Any]) -> None:
    """Refuse what is not a file of vectors, and options for a DATASET, if there is no DATASET."""
    is_there = Path(path).exists() or "*" in path or "?" in path
    if (Path(path) / "modules.json").exists() or not is_there:
        raise ValueError(
            f"{path} is not a file of vectors: add the DATASET to train on, or name a file such "
            "as vectors.npy"
        )
    for option, given in data_options.items():
        if given:
            raise ValueError(f"{option} needs a DATASET; a file of vectors has no such option")


def pair_of(names: str) -> tuple[str, str]:
    """The two columns of ``--pairs anchor,positive``. Raises ValueError for anything else."""
    first, *rest = (name.strip() for name in names.split(","))
    if len(rest) != 1 or not first or not rest[0]:
        raise ValueError(f"--pairs {names!r} must name two columns, as in anchor,positive")
    return first, rest[0]
