"""The command line, ``csr-st``: the only package that prints. Its commands are in files beside."""

from __future__ import annotations

import os
import re
import sys
import warnings

import typer

from csr_st.cli import encode_index_search, push_convert, train_evaluate_demo

app = typer.Typer(
    name="csr-st",
    help="Sparse adaptive embeddings: train, measure, publish and use a CSR head.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train_evaluate_demo.train,
    train_evaluate_demo.evaluate,
    encode_index_search.encode,
    encode_index_search.index,
    encode_index_search.search,
    push_convert.push,
    push_convert.convert,
    train_evaluate_demo.demo,
):
    app.command()(command)

TRACEBACK = "CSR_ST_TRACEBACK"
INTERRUPTED = 130


def main() -> None:
    """Run the command line.

    Whatever goes wrong is one line on stderr: exit code 2 for a command that cannot be understood,
    1 for all else, 130 for an interrupt. With CSR_ST_TRACEBACK=1 Python's traceback is shown.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = app(arguments, prog_name="csr-st", standalone_mode=False)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        code = _report(error)
    if code == INTERRUPTED:
        typer.echo("\ncsr-st: interrupted", err=True)
    sys.exit(code)


def _report(error: Exception) -> int:
    """Print what went wrong and give the exit code."""
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    usage = getattr(error, "format_message", None)
    if usage is not None:  # a click error, whichever click this typer brings
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f" (see '{context.command_path} --help')"
        message = f"{usage().rstrip('.')}{hint}"
    elif isinstance(error, ValueError | TypeError | OSError | ImportError):
        message = str(error) or type(error).__name__
    else:
        message = (
            f"{type(error).__name__}: {error} (not foreseen: run again with {TRACEBACK}=1 and "
            "report what it prints)"
        )
    message = re.sub(r"\bhf_\w+", "hf_...", " ".join(message.split()))
    typer.echo(f"csr-st: error: {message}", err=True)
    return int(getattr(error, "exit_code", 1))
