"""Commands that use a head: encode, index, search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csr_st.cli.arguments import (
    BatchSize,
    Column,
    Data,
    Model,
    Split,
    Trust,
    check_output,
    inputs_for,
    load_model,
)

if TYPE_CHECKING:
    from csr_st.code_store import CodeStore
    from csr_st.codes import SparseCodes

RESCORE = 200  # candidates that the decoder scores again when its index stores one


def encode(
    model: Model,
    dataset: Data,
    output: Annotated[
        Path,
        typer.Option(
            help="File ending in .safetensors; or folder of shards, for a large corpus: a run that "
            "stopped goes on, and accelerate launch shares it among processes."
        ),
    ],
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
    """Encode a data set to sparse codes.

    Example: csr-st encode my-csr documents.jsonl --output codes.safetensors --role document
    """
    from csr_st.code_store import CodeStore
    from csr_st.data import loading as sources
    from csr_st.distributed import current_processes
    from csr_st.encoding import encode as encode_inputs
    from csr_st.vectors import VectorInput

    is_folder = output.suffix.lower() != ".safetensors"
    check_output(output, is_folder=is_folder)
    loaded = load_model(model, trust_remote_code)
    options: dict[str, Any] = {
        "k": k,
        "role": role,
        "batch_size": batch_size,
        "dtype": "float16" if half else "float32",
        "show_progress": True,
    }
    codes: SparseCodes | CodeStore
    if is_folder:
        if isinstance(loaded[0], VectorInput):
            rows, text_column = inputs_for(loaded, dataset, split, text_column), None
        else:
            rows = sources.load(dataset, split)
        codes = CodeStore.encode(loaded, rows, output, text_column=text_column, **options)
    else:
        codes = encode_inputs(loaded, inputs_for(loaded, dataset, split, text_column), **options)
        codes.save(output)
    if current_processes().rank == 0:
        typer.echo(f"{codes} in {output}")


def index(
    codes: Annotated[Path, typer.Argument(help="File or folder of codes that encode wrote.")],
    output: Annotated[Path, typer.Option(help="File to write, such as index.csr.")],
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of the model: stores its decoder, to rescore with."),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Text file of ids, one a line; 0, 1, 2, ... if not given.")
    ] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Build an index of codes, in one file.

    Searching it is exact. Example: csr-st index codes.safetensors --output index.csr --model my-csr
    """
    from csr_st.code_store import CodeStore
    from csr_st.codes import SparseCodes
    from csr_st.decoder import Decoder
    from csr_st.head import find_head
    from csr_st.search import SparseIndex

    check_output(output, is_folder=False)
    documents = CodeStore.open(codes).codes() if codes.is_dir() else SparseCodes.load(codes)
    names = None if ids is None else _read_ids(ids)
    decoder = None
    if model is not None:
        decoder = Decoder.from_head(find_head(load_model(model, trust_remote_code)))
    built = SparseIndex.build(documents, names, decoder)
    built.save(output)
    stored = "with" if decoder is not None else "without"
    typer.echo(f"{built} {stored} decoder in {output}")


def search(
    index: Annotated[Path, typer.Argument(help="File that index wrote.")],
    queries: Annotated[list[str], typer.Argument(help="What to search for, each in quotes.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of the model that made the codes.")],
    top_k: Annotated[int, typer.Option(help="Documents a query.", min=1)] = 10,
    k: Annotated[
        int | None, typer.Option(help="Latents of a document to use; all stored by default.")
    ] = None,
    query_k: Annotated[
        int | None, typer.Option(help="Latents of a query; four times the documents' by default.")
    ] = None,
    rescore: Annotated[
        int | None,
        typer.Option(
            help=f"Candidates that the decoder scores again, 0 for none; {RESCORE} by default if "
            "the index stores a decoder.",
            min=0,
        ),
    ] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Search an index.

    Prints rank, score and id of each hit, separated by tabs; with several queries, each after a
    line of its own. Example: csr-st search index.csr --model my-csr "copy a folder"
    """
    from csr_st.decoder import Decoder
    from csr_st.encoding import encode as encode_inputs
    from csr_st.encoding import encode_dense
    from csr_st.evaluation.modalities import shift_of
    from csr_st.head import find_head
    from csr_st.search import SparseIndex

    opened = SparseIndex.load(index)
    loaded = load_model(model, trust_remote_code)
    head = find_head(loaded)
    if query_k is None:
        query_k = head.query_k or min(4 * (k or opened.k), head.hidden_dim)
    if rescore is None:
        rescore = 0 if opened.decoder is None else RESCORE
    top_k = min(top_k, len(opened))
    dense = None
    if rescore:  # about the mean that modalities share, as the decoder is
        dense = encode_dense(loaded, queries, role="query") - shift_of(head, "text")
    found = opened.search(
        encode_inputs(loaded, queries, k=query_k, role="query"),
        top_k=top_k,
        k=k,
        rescore=max(rescore, top_k) if rescore else None,
        queries_dense=dense,
        decoder=Decoder.from_head(head) if rescore and opened.decoder is None else None,
    )
    for query, names, scores in zip(queries, found.ids, found.scores, strict=True):
        if len(queries) > 1:
            typer.echo(f"# {query}")
        for rank, (name, score) in enumerate(zip(names, scores, strict=True), start=1):
            typer.echo(f"{rank}\t{score:.4f}\t{name}")


def _read_ids(path: Path) -> list[str] | list[int]:
    """The lines of a file; as integers where all of them are, which need less room."""
    text = path.read_text(encoding="utf-8-sig")
    lines = text.removesuffix("\n").split("\n") if text else []
    if all(line.isascii() and line.isdigit() and str(int(line)) == line for line in lines):
        return [int(line) for line in lines]
    return lines
