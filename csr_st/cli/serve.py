"""`csr-st serve`: a model and an index over HTTP."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from csr_st import LatentNames
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.data import loading as sources
from csr_st.search import open_index

if TYPE_CHECKING:
    from csr_st.serving import Limits

TOKEN = "CSR_ST_TOKEN"  # noqa: S105 - the name of an environment variable
PORT = 8080


@dataclass(frozen=True)
class _App:
    """How a worker makes its app: it must be picklable, and loads its own model."""

    model: str
    index: Path | None
    texts: str | None
    split: str
    text_column: str | None
    names: Path | None
    token: str | None
    hosts: tuple[str, ...] | None
    limits: Limits
    device: str | None
    trust_remote_code: bool

    def __repr__(self) -> str:
        return f"_App({self.model!r})"  # without the token

    def __call__(self) -> Any:
        from csr_st.serving import create_app

        index = None if self.index is None else open_index(self.index)
        names = None if self.names is None else LatentNames.load(self.names)
        texts = None
        if self.texts is not None:
            columns = [self.text_column] if self.text_column else []
            rows = sources.load(self.texts, self.split, columns)
            texts = sources.column(rows, self.text_column)
        loaded = arguments.load_any(self.model, self.trust_remote_code)
        if self.device is not None:
            try:
                loaded.to(self.device)
            except (RuntimeError, AssertionError) as error:  # torch raises either
                reason = str(error).split("\n")[0]
                raise ValueError(
                    f"--device {self.device} cannot be used ({reason}); name another, such as cpu"
                ) from error
        return create_app(
            loaded,
            index,
            texts,
            names=names,
            token=self.token,
            hosts=self.hosts,
            limits=self.limits,
            name=self.model,
        )


def serve(  # each argument is an option of the command
    model: arguments.Model,
    index: Annotated[
        Path | None,
        typer.Option(
            help="File or folder that csr-st index wrote, for /search; no /search without it."
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="The texts of the index's documents, in their order, to return with hits: "
            f"{arguments.DATA[0].lower()}{arguments.DATA[1:]}."
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(help="Names of latents for explanations, written by explore --names."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to bind; the default is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 for one that is free.", min=0, max=65535)
    ] = PORT,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that requests must send as Authorization: Bearer; else the "
            f"environment variable {TOKEN} is read."
        ),
    ] = None,
    without_token: Annotated[
        bool,
        typer.Option(
            "--without-token", help="Allow a --host that other machines can reach without a token."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; each loads its own model.", min=1)] = 1,
    max_inputs: Annotated[int, typer.Option(help="Most texts per request.", min=1)] = 128,
    max_characters: Annotated[int, typer.Option(help="Most characters per text.", min=1)] = 100_000,
    max_body: Annotated[int, typer.Option(help="Most bytes per request body.", min=1)] = 2 * 2**20,
    max_top_k: Annotated[int, typer.Option(help="Most documents per query.", min=1)] = 1_000,
    max_requests: Annotated[
        int, typer.Option(help="Most concurrent requests; more get status 503.", min=1)
    ] = 512,
    max_queue: Annotated[
        int, typer.Option(help="Most texts waiting for the model; more get status 429.", min=1)
    ] = 1_024,
    batch_size: Annotated[
        int, typer.Option(help="Most texts per forward pass, from one or more requests.", min=1)
    ] = 32,
    timeout: Annotated[
        int, typer.Option(help="Seconds within which a request must arrive.", min=1)
    ] = 30,
    device: Annotated[str | None, typer.Option(help="Device of the model, such as cuda:1.")] = None,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Serve a model, and an index if there is one, over HTTP.

    POST /embed_sparse returns codes (API of text-embeddings-inference), /v1/embeddings dense
    vectors (API of OpenAI), /search hits. Also GET /info, /health, /metrics and /openapi.json.
    Needs csr-st[serve]. Example: csr-st serve my-csr --index documents.index --texts
    documents.jsonl
    """
    from csr_st.serving import Limits, Served
    from csr_st.serving import serve as run
    from csr_st.serving.running import LOOPBACK, bound, is_loopback, url_of

    limits = Limits(
        inputs=max_inputs,
        characters=max_characters,
        body=max_body,
        top_k=max_top_k,
        requests=max_requests,
        queue=max(max_queue, max_inputs),
        batch=batch_size,
        seconds=timeout,
    )
    _check_files(model, index, texts, names)
    token = _token(token_file)
    is_local = is_loopback(host)
    if token is None and not is_local and not without_token:
        raise ValueError(
            f"--host {host} lets other machines in, and there is no token; set {TOKEN}, name a "
            "--token-file, or say --without-token"
        )
    own = f"[{host}]" if ":" in host else host
    hosts = (*LOOPBACK, own) if is_local and token is None else None
    app = _App(
        model, index, texts, split, text_column, names, token, hosts, limits, device,
        trust_remote_code,
    )  # fmt: skip
    opened = bound(host, port)

    def started() -> None:
        typer.echo(f"Serving {model} at {url_of(opened)} - Ctrl-C ends it")

    run(Served(app, limits, workers), opened, started)


def _check_files(model: str, index: Path | None, texts: str | None, names: Path | None) -> None:
    """Refuse what is no model, index or data before anything is loaded."""
    if Path(model).exists():
        expect(model, "model")
    if index is not None:
        expect(index, "index")
    for option, given in (("--texts", texts), ("--names", names)):
        if given is not None and index is None:
            raise ValueError(f"{option} {given} is for hits of an --index; name one too")
    if texts is not None and Path(texts).exists():
        expect(texts, "data")


def _token(file: Path | None) -> str | None:
    """The token of a file or of the environment, None if there is none."""
    from csr_st.serving.app import check_token

    if file is None:
        given = os.environ.get(TOKEN)
        where = TOKEN
    else:
        given = file.read_text(encoding="utf-8", errors="replace")
        where = f"--token-file {file}"
    if given is None:
        return None
    try:
        return check_token(re.sub(r"\s+\Z", "", given))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
