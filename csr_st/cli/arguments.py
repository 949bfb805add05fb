"""Arguments that several commands share, and the model they name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ModelOrVectors = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder or Hub id of a sentence-transformers model; or, without DATASET, a file of "
        "vectors: .npy, .npz, .safetensors, .parquet or .arrow.",
    ),
]
Model = Annotated[str, typer.Argument(help="Folder or Hub id of a sentence-transformers model.")]
Data = Annotated[
    str,
    typer.Argument(
        help="A .jsonl, .csv, .tsv, .parquet or .txt file, a saved data set, or a Hub id."
    ),
]
Split = Annotated[str, typer.Option(help="Split of a Hub or saved data set.")]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        "--text-column",
        help="Column of texts, images or vectors; needed only if there are several.",
    ),
]
Patience = Annotated[
    int,
    typer.Option(
        help="End when this many measurements in a row bring nothing better, and keep the best "
        "head; 0 for never. A tenth of the training rows is set aside for it.",
        min=0,
    ),
]
EvaluateEvery = Annotated[
    int | None,
    typer.Option(help="With --patience: steps between measurements; 100 by default.", min=1),
]
BatchSize = Annotated[int, typer.Option(help="Items that the backbone takes at once.", min=1)]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the base model brings.")
]


def load_model(model: str, trust_remote_code: bool) -> SentenceTransformer:
    """The model in a folder or on the Hub.

    Raises:
        FileNotFoundError: If there is none of that name.
        OSError: If it cannot be read or fetched.
        ValueError: If what is there is no sound model.
    """
    from huggingface_hub.errors import RepositoryNotFoundError
    from sentence_transformers import SentenceTransformer

    import csr_st  # noqa: F401 - makes saved heads loadable

    if not Path(model).exists() and model.count("/") > 1:
        raise FileNotFoundError(f"{model} is no folder, and no Hub id (org/name)")
    try:
        return SentenceTransformer(model, trust_remote_code=trust_remote_code)
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"{model} is neither a folder here nor a model that the Hub shows you: check the "
            "name, or run `hf auth login` if it is private"
        ) from None
    except OSError as error:
        if Path(model).exists():
            raise
        raise FileNotFoundError(
            f"{model} is no folder here, and cannot be had from the Hub: {error}"
        ) from error


def inputs_for(model: SentenceTransformer, source: str, split: str, name: str | None) -> Any:
    """What a model encodes out of a data set: vectors where it takes vectors, else a column.

    Raises:
        FileNotFoundError: If there is no such data.
        ValueError: If the data is damaged, or its column is missing or unclear.
    """
    from csr_st.data import loading as sources
    from csr_st.embeddings import EmbeddingStore
    from csr_st.vectors import VectorInput

    if isinstance(model[0], VectorInput):
        return EmbeddingStore.open(source, column=name).vectors()
    return sources.column(sources.load(source, split), name)


def check_output(path: Path, is_folder: bool) -> None:
    """Refuse an output that cannot be written, before hours of work are lost to it.

    Raises:
        ValueError: If there is a file where a folder goes, or a folder where a file goes.
    """
    if is_folder and path.is_file():
        raise ValueError(f"--output {path} is a file; name a folder")
    if not is_folder and path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file in it, such as {path}/result")
