"""The command line, ``csr-st``. The only module that prints."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="csr-st",
    help="Sparse adaptive embeddings: train, measure, publish and use a CSR head.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(help="Folder or Hub id of a sentence-transformers model.")]
Data = Annotated[
    str,
    typer.Argument(
        help="A .jsonl, .csv, .tsv, .parquet or .txt file, a saved data set, or a Hub id."
    ),
]
Split = Annotated[str, typer.Option(help="Split of a Hub or saved data set.")]
Column = Annotated[
    str | None, typer.Option(help="Column to embed; needed only if several hold text.")
]
BatchSize = Annotated[int, typer.Option(help="Items that the backbone takes at once.", min=1)]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the base model brings.")
]


@app.command()
def train(
    model: Model,
    dataset: Data,
    output: Annotated[Path, typer.Option(help="Folder of the finished model.")],
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
        int | None, typer.Option(help="Latents; 4 times the width when not given.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps; fitted to the data if not given.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    batch_size: BatchSize = 64,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Give a model a sparse head: embed once, train, measure, save with a card."""
    from csr_st import config as configs
    from csr_st import data as sources
    from csr_st.workflow import train_model

    chosen: dict[str, Any] = {"k": k, "hidden_dim": hidden_dim, "steps": steps, "seed": seed}
    if learning_rate is not None:
        chosen["learning_rate"] = learning_rate
    settings = configs.recipe(recipe, **chosen)
    pair_columns = _pair(pairs)
    rows = sources.load(dataset, split)
    done = train_model(
        _load(model, trust_remote_code),
        rows,
        output,
        settings,
        data_name=Path(dataset).name if Path(dataset).exists() else dataset,
        base_model=None if Path(model).exists() else model,
        batch_size=batch_size,
        resume=resume,
        facts={} if Path(dataset).exists() else {"datasets": [dataset]},
        text_column=text_column,
        label_column=labels,
        pair_columns=pair_columns,
        score_column=scores,
    )
    typer.echo(done.evaluation.table())
    typer.echo(f"Saved to {done.path}. Load it with SentenceTransformer({str(done.path)!r}).")


def _pair(names: str | None) -> tuple[str, str] | None:
    if names is None:
        return None
    parts = [name.strip() for name in names.split(",")]
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"--pairs {names!r} must name two columns, as in anchor,positive")
    return parts[0], parts[1]


@app.command()
def encode(
    model: Model,
    dataset: Data,
    output: Annotated[Path, typer.Option(help="File to write, such as codes.safetensors.")],
    k: Annotated[
        int | None, typer.Option(help="Active latents; the head's own by default.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="query or document.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store values as float16.")] = False,
    split: Split = "train",
    text_column: Column = None,
    batch_size: BatchSize = 64,
    trust_remote_code: Trust = False,
) -> None:
    """Encode a data set to sparse codes in one file."""
    from csr_st import data as sources
    from csr_st.encoding import encode as encode_inputs

    texts = sources.column(sources.load(dataset, split), text_column)
    codes = encode_inputs(
        _load(model, trust_remote_code),
        texts,
        k=k,
        role=role,  # type: ignore[arg-type] # checked by encode
        batch_size=batch_size,
        dtype="float16" if half else "float32",
        show_progress=True,
    )
    codes.save(output)
    typer.echo(f"{codes} in {output}")


@app.command()
def evaluate(
    model: Model,
    dataset: Annotated[
        str, typer.Argument(help="A folder in BEIR's form, or documents as for train.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json and quality.png.")
    ] = None,
    split: Split = "test",
    text_column: Column = None,
    limit: Annotated[int, typer.Option(help="Documents to measure on at most.", min=11)] = 50_000,
    batch_size: BatchSize = 64,
    trust_remote_code: Trust = False,
) -> None:
    """Measure a head: quality at every k beside the dense model, PCA and truncation."""
    from csr_st import data as sources
    from csr_st.plots import draw
    from csr_st.workflow import evaluate_model

    loaded = _load(model, trust_remote_code)
    about = {"data": Path(dataset).name}
    if sources.is_judged(dataset):
        judged = sources.load_judged(dataset)
        measured = evaluate_model(
            loaded, judged.documents, judged.queries, judged.relevant, about, batch_size
        )
    else:
        texts = sources.column(sources.load(dataset, split), text_column)[:limit]
        measured = evaluate_model(loaded, texts, about=about, batch_size=batch_size)
    for metric in measured.scores:
        typer.echo(measured.table(metric) + "\n")
    if output is not None:
        measured.save(output / "evaluation.json")
        draw(measured, output / "quality.png")


@app.command()
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("csr-demo"),
    documents: Annotated[int, typer.Option(help="Docstrings to use at most.", min=2000)] = 9000,
) -> None:
    """Build, measure, save and search a sparse MiniLM from your own docstrings."""
    from csr_st.demo.run import run

    run(output, typer.echo, documents)


def _load(model: str, trust_remote_code: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    import csr_st  # noqa: F401 - makes saved heads loadable

    if not Path(model).exists() and model.count("/") > 1:
        raise FileNotFoundError(f"{model} is no folder, and no Hub id (org/name)")
    return SentenceTransformer(model, trust_remote_code=trust_remote_code)


def main() -> None:
    """Run the command line: what the user can mend is one line on stderr and exit code 1."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"csr-st: error: {message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
