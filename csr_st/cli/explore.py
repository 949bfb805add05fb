"""`csr-st explore`: a page that shows what texts are about, as a file or served with a text box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sentence_transformers import SentenceTransformer

import csr_st
from csr_st import Decoder, find_head, name_latents
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.data import loading as sources
from csr_st.insight.page import MAX_TEXTS, Corpus, PageServer, render_page, write_page
from csr_st.vectors import VectorInput

PORT = 8765


def explore(  # each argument is an option of the command
    model: arguments.Model,
    dataset: arguments.Data,
    output: Annotated[
        Path | None,
        typer.Option(help="HTML file to write; explorer.html if neither it nor --serve is given."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(help="A second collection of texts, to see which topics each uses more."),
    ] = None,
    k: Annotated[
        int | None, typer.Option(help="Latents of each text; 32 if not given, or the head's all.")
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            help="Texts to show at most; of more, the same sample is drawn every time.",
            min=2,
            max=MAX_TEXTS,
        ),
    ] = MAX_TEXTS,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page to this machine, with a box for your texts."),
    ] = False,
    port: Annotated[
        int, typer.Option(help="With --serve: the port; 0 for one that is free.", min=0, max=65535)
    ] = PORT,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    batch_size: arguments.BatchSize = 64,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Write a page in which topics, texts and reasons for matches can be looked at.

    It is one file that opens from disk and needs no network. It holds the texts, so publish it only
    if they are public. Example: csr-st explore my-csr documents.jsonl --output explorer.html
    """
    if output is None and not serve:
        output = Path("explorer.html")
    if output is not None:
        arguments.check_output(output, is_folder=False)
    for name in (dataset, compare):
        if name is not None and Path(name).exists():
            expect(name, "data")
    loaded = arguments.load_model(model, trust_remote_code)
    head = find_head(loaded)
    k = head.check_k(min(32, head.hidden_dim) if k is None else k)
    if isinstance(loaded[0], VectorInput):
        raise ValueError(f"{model} takes vectors, and the page shows texts; name a model of texts")
    share = limit if compare is None else limit // 2
    corpora = [
        _corpus(loaded, name, share, k, split, text_column, batch_size)
        for name in (dataset, compare)
        if name is not None
    ]
    first, *others = corpora
    typer.echo("Naming the topics")
    names = name_latents(
        csr_st.SparseCodes.concatenate([one.plain() for one in corpora]),
        [text for one in corpora for text in one.texts],
    )
    decoder = None if head.level == "token" else Decoder.from_head(head)
    about = (first.codes, first.texts, names, decoder)
    shown: dict[str, Any] = {"label": first.label, "compared": others[0] if others else None}
    if output is not None:
        write_page(output, *about, **shown)
        named = sum(bool(name.words) for name in names)
        texts = sum(len(one.texts) for one in corpora)
        typer.echo(
            f"{output}: {texts:,} texts, {named:,} of {len(names):,} topics named, "
            f"{output.stat().st_size / 1e6:.1f} MB. Open it in a browser."
        )
    if serve:
        page = render_page(*about, live=True, **shown)
        with PageServer(page, lambda text: _encoded(loaded, text, k), port) as server:
            typer.echo(f"The page is at {server.url} - Ctrl-C ends it")
            server.serve_forever()


def _encoded(model: SentenceTransformer, text: str, k: int) -> csr_st.SparseCodes:
    return csr_st.encode(model, [text], k=k, role="query", show_progress=False)


def _corpus(  # the options of the command
    model: SentenceTransformer,
    name: str,
    limit: int,
    k: int,
    split: str,
    column: str | None,
    batch_size: int,
) -> Corpus:
    """The texts of a data set, or a sample of them, with their codes."""
    rows = sources.load(name, split, [column] if column else [])
    if len(rows) > limit:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), limit, replace=False))
        typer.echo(f"{name}: {limit:,} of {len(rows):,} texts, drawn at random")
        rows = rows.select(chosen)
    texts = sources.column(rows, column)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} holds images, and the page shows texts; name a column of texts")
    codes = csr_st.encode(
        model, texts, k=k, role="document", batch_size=batch_size, show_progress=True
    )
    return Corpus(codes, texts, sources.short_name(name))
