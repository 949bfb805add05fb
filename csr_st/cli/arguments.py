"""Arguments that several commands share, and what they name: a model, a data set, an output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Module

from csr_st._io.files import read_json
from csr_st.cli.kinds import expect
from csr_st.data import loading as sources
from csr_st.embeddings import EmbeddingStore
from csr_st.head import SparseCSRHead
from csr_st.model.files import MODEL_CONFIG_NAME
from csr_st.sparse_encoders import AnyModel, ready
from csr_st.vectors import VectorInput

DATA = (
    "A .jsonl, .csv, .tsv, .parquet or .txt file (also .gz, .bz2, .xz or .zst), a folder or "
    "'pattern' of such files, - for standard input (-.csv for a table), a saved data set, or a Hub "
    "id"
)
MODEL_FILES = ("modules.json", "config.json")  # sentence-transformers' and transformers'
MODEL = "Folder or Hub id of a sentence-transformers model"
PACK = "Pack the codes with 4 or 8 bits per value, in a third to a half of the bytes"

Model = Annotated[str, typer.Argument(help=f"{MODEL}.")]
Data = Annotated[str, typer.Argument(help=f"{DATA}.")]
Split = Annotated[
    str, typer.Option(help="Split of a Hub or saved data set, or of a folder of files.")
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        "--text-column",
        help="Column of texts, images or vectors; needed only if there are several and none is "
        "called text.",
    ),
]
BatchSize = Annotated[int, typer.Option(help="Items per forward pass of the backbone.", min=1)]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the base model.")
]


def load_model(model: str, trust_remote_code: bool) -> SentenceTransformer:
    """The model in a folder or on the Hub, for its dense vectors or its head.

    Raises what `load_any` does.
    """
    _check_name(model)
    with _named_failures(model):
        return SentenceTransformer(model, trust_remote_code=trust_remote_code)


def load_with_head(model: str, trust_remote_code: bool, why: str) -> SentenceTransformer:
    """As `load_model`, for a command that has no use for a model of another kind of codes.

    Raises:
        ValueError: As `load_any`, or if it is a `SparseEncoder` without a head, such as SPLADE.
    """
    loaded = load_any(model, trust_remote_code)
    if isinstance(loaded, SentenceTransformer):
        return loaded
    if not any(isinstance(module, SparseCSRHead) for module in loaded.modules()):
        raise ValueError(f"{model} is a SparseEncoder without a SparseCSRHead: {why}")
    return ready(loaded, 1).model


def load_any(model: str, trust_remote_code: bool) -> AnyModel:
    """The model in a folder or on the Hub, in the class that it was saved as.

    Raises:
        FileNotFoundError: If there is no model of that name.
        OSError: If it cannot be read or downloaded.
        ValueError: If it is a file or a folder without a model, or its files are not valid.
    """
    _check_name(model)
    with _named_failures(model):
        path = Module.load_file_path(model, filename=MODEL_CONFIG_NAME)
        saved_as = None if path is None else read_json(Path(path), dict).get("model_type")
        kind = SparseEncoder if saved_as == "SparseEncoder" else SentenceTransformer
        return kind(model, trust_remote_code=trust_remote_code)


def _check_name(model: str) -> None:
    """Refuse what is no model, before it is loaded."""
    is_local = Path(model).exists()
    if is_local:
        expect(model, "model")
    if Path(model).is_file():
        raise ValueError(f"{model} is a file; a model is a folder, or a Hub id (org/name)")
    if is_local and not any((Path(model) / name).is_file() for name in MODEL_FILES):
        raise ValueError(f"{model} is not a saved model: it has no {' and no '.join(MODEL_FILES)}")
    if not is_local and model.count("/") > 1:
        raise FileNotFoundError(f"{model} is neither a folder nor a Hub id (org/name)")
    if is_local and (Path(model) / MODEL_FILES[0]).is_file():
        _check_modules(Path(model) / MODEL_FILES[0])


@contextlib.contextmanager
def _named_failures(model: str) -> Iterator[None]:
    """Say of a model that could not be downloaded what to do."""
    try:
        yield
    except OSError as error:
        if Path(model).exists():
            raise
        raise FileNotFoundError(
            f"{model} is not a folder, and loading it from the Hub failed: check the name, or run "
            f"`hf auth login` if it is private ({error})"
        ) from error


def _check_modules(path: Path) -> None:
    """Raise a ValueError if a modules.json is not a list of modules with their places."""
    for module in read_json(path, list):
        named = module if isinstance(module, dict) else {}
        if not all(isinstance(named.get(key), str) for key in ("name", "path", "type")):
            raise ValueError(
                f"{path} has the entry {str(module)[:60]!r} without a name, path and type; "
                "download or save the model again"
            )


def inputs_for(model: AnyModel, source: str, split: str, name: str | None) -> Any:
    """The vectors of a file if the model takes vectors, else a column of a data set.

    Raises:
        FileNotFoundError: If there is no such data.
        ValueError: If the data is damaged, or its column is missing or ambiguous.
    """
    if isinstance(model[0], VectorInput):
        return EmbeddingStore.open(source, column=name).vectors()
    return sources.column(sources.load(source, split, [name] if name else []), name)


def check_output(path: Path, is_folder: bool, option: str = "--output") -> None:
    """Refuse an output that cannot be written, before any work is done.

    Raises:
        ValueError: If there is a file where a folder is needed, or a folder instead of a file.
        PermissionError: If this user may not write there.
    """
    if is_folder and path.is_file():
        raise ValueError(f"{option} {path} is a file; name a folder")
    if not is_folder and path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file in it, such as {path}/result")
    above = next(one for one in path.absolute().parents if one.exists())
    if not above.is_dir():
        raise ValueError(f"{option} {path}: {above} is a file, not a folder; name another place")
    place = path if path.is_dir() else above
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{option} {path}: {place} is read-only here; name another place")
