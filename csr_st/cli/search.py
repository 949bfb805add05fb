"""The command `search`: hits of queries in an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

import csr_st
from csr_st import SparseCSRHead
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.search import Searchable, open_index
from csr_st.search.documents import Similarity
from csr_st.sparse_encoders import AnyModel, ready


def search(
    index: Annotated[Path, typer.Argument(help="File or folder written by index.")],
    queries: Annotated[list[str], typer.Argument(help="One or more queries, each in quotes.")],
    model: Annotated[str, typer.Option(help=f"{arguments.MODEL} that made the codes.")],
    top_k: Annotated[int, typer.Option(help="Results per query.", min=1)] = 10,
    k: Annotated[int | None, typer.Option(help="Latents per document; all if not given.")] = None,
    query_k: Annotated[
        int | None,
        typer.Option(
            help="Latents per query; if not given, 4 times --k, for SPLADE all active ones."
        ),
    ] = None,
    rescore: Annotated[
        int,
        typer.Option(
            help="Rank this many candidates again by the query's dense vector and the decoded "
            "documents; results are then nearest to dense search. 0 for none.",
            min=0,
        ),
    ] = 0,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of BM25, for an index built with --texts; 0 for codes alone, the index's "
            "if not given.",
            min=0,
        ),
    ] = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Search an index by codes and, if it was built with --texts, by BM25.

    Prints rank, score and id of each result, separated by tabs. With several queries, a line with
    the query comes before its results. Example: csr-st search index.csr --model my-csr "copy a
    folder"
    """
    expect(index, "index")
    opened = open_index(index)
    if not opened.hidden_dim:
        raise ValueError(f"{index} has only words; search it in Python: index.search(words=[...])")
    if weight is not None and opened.language is None:
        raise ValueError(f"--weight applies to words, and {index} has none; build it with --texts")
    loaded = arguments.load_any(model, trust_remote_code)
    coder = ready(loaded, 1).coder
    if not isinstance(coder, SparseCSRHead):
        if rescore:
            raise ValueError(
                f"--rescore ranks by dense vectors, and {model} is a SparseEncoder without a head, "
                "which has none; leave it out"
            )
        _note_other_similarity(index, opened, model, loaded)
    searcher = csr_st.Searcher(loaded, opened, k=k, query_k=query_k, rescore=rescore, weight=weight)
    for query, hits in zip(queries, searcher(queries, top_k), strict=True):
        if len(queries) > 1:
            typer.echo(f"# {query}")
        for rank, hit in enumerate(hits, start=1):
            typer.echo(f"{rank}\t{hit.score:.4f}\t{hit.id}")


def _note_other_similarity(path: Path, index: Searchable, model: str, loaded: AnyModel) -> None:
    """Say that an index ranks otherwise than the model does."""
    own = loaded.similarity_fn_name
    if own in get_args(Similarity) and own != index.similarity:
        typer.echo(
            f"{path} compares codes by {index.similarity}, {model} by {own}; for that, build it "
            f"with csr-st index CODES --model {model}",
            err=True,
        )
