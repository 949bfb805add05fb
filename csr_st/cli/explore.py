"""`csr-st explore`: a page that shows what texts are about, as a file or served with a text box."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import csr_st
from csr_st import Decoder, SparseCSRHead, name_latents
from csr_st._io.files import write_atomically
from csr_st.attaching import modality_of
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.data import loading as sources
from csr_st.insight.page import MAX_TEXTS, Corpus, PageServer, gathered, rendered
from csr_st.sparse_encoders import AnyModel, ready
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
        typer.Option(help="A second collection, to see which topics each uses more."),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            help="JSON file to write the names of the topics to, without texts, for push --names."
        ),
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Topics (latents) noted of each entry; 32 if not given, or the head's all."
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            help="Texts or images to show at most; of more, the same sample is drawn every time.",
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
    captions: Annotated[
        str | None,
        typer.Option(help="Of images: column of texts that describe them; they name the topics."),
    ] = None,
    batch_size: arguments.BatchSize = 64,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Write a page in which topics, texts and reasons for matches can be looked at.

    It is one file that opens from disk and needs no network. It holds the texts, or small pictures
    of images with their captions, so publish it only if these are public. Examples:
    csr-st explore my-csr documents.jsonl --output explorer.html;
    csr-st explore my-clip-csr photos.parquet --captions caption
    """
    if output is None and not serve:
        output = Path("explorer.html")
    _check_files(output, names)
    for name in (dataset, compare):
        if name is not None and Path(name).exists():
            expect(name, "data")
    loaded = arguments.load_any(model, trust_remote_code)
    coder = ready(loaded, 1).coder
    k = coder.resolve_k(min(32, coder.hidden_dim) if k is None else k)
    if isinstance(loaded[0], VectorInput):
        raise ValueError(
            f"{model} takes vectors, and the page shows texts or images; name a model of these"
        )
    shown = _Shown(k, limit if compare is None else limit // 2, split, text_column, captions)
    corpora = [
        shown.corpus(loaded, name, batch_size) for name in (dataset, compare) if name is not None
    ]
    typer.echo("Naming the topics")
    found = name_latents(
        csr_st.SparseCodes.concatenate([one.plain() for one in corpora]),
        [text for one in corpora for text in one.texts],
    )
    if names is not None:
        found.save(names)
    decoder = None
    if isinstance(coder, SparseCSRHead) and coder.level == "text":
        decoder = Decoder.from_head(coder)
    content = gathered(corpora, found, decoder)
    if output is not None:
        write_atomically(output, rendered(content))
        named = sum(bool(name.words) for name in found)
        items = sum(len(one.texts) for one in corpora)
        typer.echo(
            f"{output}: {items:,} {content['noun']}s, {named:,} of {len(found):,} topics named, "
            f"{output.stat().st_size / 1e6:.1f} MB. Open it in a browser."
        )
    if serve:
        takes_texts = "text" in modality_of(loaded)
        if not takes_texts:
            typer.echo(f"{model} takes no texts: the page has no box for them")
        page = rendered(content, live=takes_texts)
        with PageServer(page, lambda text: _encoded(loaded, text, k), port) as server:
            typer.echo(f"The page is at {server.url} - Ctrl-C ends it")
            server.serve_forever()


def _check_files(output: Path | None, names: Path | None) -> None:
    for option, file in (("--output", output), ("--names", names)):
        if file is not None:
            arguments.check_output(file, is_folder=False, option=option)
    if names is not None and names == output:
        raise ValueError(f"--names and --output are both {names}; name two files")


def _encoded(model: AnyModel, text: str, k: int) -> csr_st.SparseCodes:
    return csr_st.encode(model, [text], k=k, role="query", show_progress=False)


@dataclass(frozen=True)
class _Shown:
    """What is shown of a data set: options of the command."""

    k: int
    limit: int
    split: str
    column: str | None
    captions: str | None

    def corpus(self, model: AnyModel, name: str, batch_size: int) -> Corpus:
        """The texts or images of a data set, or a sample of them, with their codes."""
        rows = sources.load(name, self.split, [one for one in (self.column, self.captions) if one])
        if len(rows) > self.limit:
            chosen = np.sort(np.random.default_rng(0).choice(len(rows), self.limit, replace=False))
            typer.echo(f"{name}: {self.limit:,} of {len(rows):,} entries, drawn at random")
            rows = rows.select(chosen)
        items = sources.column(rows, self.column or self._images(rows, model))
        captions = [] if self.captions is None else sources.column(rows, self.captions)
        options: dict[str, Any] = {"k": self.k, "role": "document", "batch_size": batch_size}
        if all(isinstance(item, str) for item in items):
            if captions:
                raise ValueError(f"--captions {self.captions} is for images, and {name} has texts")
            codes = csr_st.encode(model, items, **options, show_progress=True)
            return Corpus(codes, items, sources.short_name(name))
        if not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"--captions {self.captions} must name a column of texts")
        codes = csr_st.encode(model, items, **options, show_progress=True)
        return Corpus(codes, captions or [""] * len(items), sources.short_name(name), items)

    def _images(self, rows: Any, model: AnyModel) -> str | None:
        """The column of images if these are meant, where the user names none."""
        if self.captions is None and "text" in modality_of(model):
            return None
        return sources.item_column(rows.features, sources.text_columns(rows.features))
