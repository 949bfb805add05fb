"""The command line, ``csr-st``: the only package that prints. Its files are named for commands."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings

import typer

from csr_st._io.interrupts import INTERRUPTED, ignored_at_exit, watched
from csr_st.cli.adapt import adapt
from csr_st.cli.convert import convert
from csr_st.cli.demo import demo
from csr_st.cli.distill import distill_queries
from csr_st.cli.encode import encode
from csr_st.cli.evaluate import evaluate
from csr_st.cli.explore import explore
from csr_st.cli.export import export
from csr_st.cli.index import index
from csr_st.cli.interrupted import interrupted, value_of
from csr_st.cli.push import push
from csr_st.cli.search import search
from csr_st.cli.serve import serve
from csr_st.cli.train import train
from csr_st.cli.training_data import with_joined_weights

app = typer.Typer(
    name="csr-st",
    help="Sparse adaptive embeddings: train, evaluate, publish and use a CSR head.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    train,
    adapt,
    distill_queries,
    evaluate,
    encode,
    index,
    search,
    explore,
    serve,
    push,
    convert,
    export,
    demo,
)
for command in COMMANDS:
    app.command()(command)

WRITABLE = "choose another place, or change its permissions"
ROOM = "make room and run the same command again; what was there before is unchanged"
ADVICE = {  # by number of an OSError, whose own words name no way out
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.EACCES: WRITABLE,
    errno.EPERM: WRITABLE,
    errno.EROFS: WRITABLE,
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "there is a file where a folder is needed",
    errno.EEXIST: "there is a file where a folder is needed",
    errno.ENAMETOOLONG: "choose a shorter name",
}
TRACEBACK = "CSR_ST_TRACEBACK"


def main() -> None:
    """Run the command line.

    An error is one line on stderr. Exit codes: 2 for a command that cannot be parsed, 130 for an
    interrupt, which ends it within a second, 1 for everything else. With CSR_ST_TRACEBACK=1
    Python's traceback is shown.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    warnings.filterwarnings("ignore", category=FutureWarning)
    ignored_at_exit()
    with watched(lambda: interrupted(sys.argv[1:])) as interrupt:
        try:
            arguments = _expanded(sys.argv[1:]) or ["--help"]
            code = app(arguments, prog_name="csr-st", standalone_mode=False)
        except Exception as error:
            if os.environ.get(TRACEBACK):
                raise
            code = INTERRUPTED if interrupt.happened else _report(error)
    if interrupt.happened:
        interrupt.end()
    if code == INTERRUPTED:
        typer.echo(interrupted(sys.argv[1:]), err=True, nl=False)
    sys.exit(code)


def _expanded(arguments: list[str]) -> list[str]:
    """Arguments with ``~`` as the home folder where the shell left it, as in ``--output=~/m``.

    Raises:
        FileNotFoundError: If the current folder was deleted, where no path can be found.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise FileNotFoundError(
            "the current folder no longer exists; change to one that does, such as `cd ~`"
        ) from None
    if arguments[:1] == ["search"]:  # a query may begin with it
        return arguments
    if arguments[:1] == ["train"]:
        arguments = with_joined_weights(arguments)
    home = os.path.expanduser("~").replace("\\", r"\\")
    return [re.sub(r"^(--[\w-]+=)?~(?=/|$)", rf"\g<1>{home}", argument) for argument in arguments]


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
    elif isinstance(error, OSError) and error.errno in ADVICE:
        name = error.filename or value_of(sys.argv, "--output", "the output")
        message = f"{name}: {error.strerror}; {ADVICE[error.errno]}"
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
