"""The command line, ``csr-st``: the only package that prints. Its files are named for commands."""

from __future__ import annotations

import os
import re
import sys
import warnings

import typer

from csr_st._io.interrupts import INTERRUPTED, watched
from csr_st.cli.encode_index_search import encode, index, search
from csr_st.cli.interrupted import interrupted
from csr_st.cli.push_convert import convert, push
from csr_st.cli.train_evaluate_demo import demo, evaluate, train

app = typer.Typer(
    name="csr-st",
    help="Sparse adaptive embeddings: train, evaluate, publish and use a CSR head.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (train, evaluate, encode, index, search, push, convert, demo):
    app.command()(command)

TRACEBACK = "CSR_ST_TRACEBACK"


def main() -> None:
    """Run the command line.

    An error is one line on stderr. Exit codes: 2 for a command that cannot be parsed, 130 for an
    interrupt, which ends it within a second, 1 for everything else. With CSR_ST_TRACEBACK=1
    Python's traceback is shown.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    with watched(lambda: interrupted(sys.argv[1:])) as interrupt:
        try:
            code = app(sys.argv[1:] or ["--help"], prog_name="csr-st", standalone_mode=False)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            code = INTERRUPTED if interrupt.happened else _report(error)
    if interrupt.happened:
        interrupt.end()
    if code == INTERRUPTED:
        typer.echo(interrupted(sys.argv[1:]), err=True, nl=False)
    sys.exit(code)


def _report(error: Exception) -> int:
    """Print an error as one line and return the exit code."""
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    # A usage error is click's, or of typer's own copy of click: only its methods are common.
    usage = getattr(error, "format_message", None)
    if usage is not None:
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f" (see '{context.command_path} --help')"
        message = f"{usage().rstrip('.')}{hint}"
    elif isinstance(error, ValueError | TypeError | OSError | ImportError):
        message = str(error) or type(error).__name__
    else:
        message = (
            f"{type(error).__name__}: {error} (unexpected: run again with {TRACEBACK}=1 and "
            "report the output)"
        )
    message = re.sub(r"\bhf_\w+", "hf_...", " ".join(message.split()))
    typer.echo(f"csr-st: error: {message}", err=True)
    return int(getattr(error, "exit_code", 1))
