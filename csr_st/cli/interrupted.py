"""What an interrupted command kept, and what to type to go on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

STARTED = time.time()
KEPT = {  # by command; {output} is its folder
    "train": "vectors and checkpoints so far are kept in {output}; go on with",
    "distill-queries": "the vectors so far are kept in {output}; go on with",
    "encode": "the shards so far are kept in {output}; go on with",
    "evaluate": "the figures of each finished corpus are kept in {output}; run it again with",
    "demo": "the vectors so far are kept in {output}; go on with",
    "push": "the Hub has the whole model or nothing of it; push again with",
}
LOST = "nothing was written; run it again with"
STOPPED = "requests in work were answered; serve again with"
SERVED = "the page is no longer served; serve it again with"


def interrupted(arguments: Sequence[str]) -> str:
    """Two lines on an interrupted command: what it kept, and the command that goes on.

    Args:
        arguments: Those of the command line, without the program's name.
    """
    command = arguments[0] if arguments else ""
    output = value_of(arguments, "--output", "csr-demo")
    again = list(arguments)
    if command == "train" and "--resume" not in again and _may_resume(Path(output)):
        again.append("--resume")
    is_file = command == "encode" and output.lower().endswith(".safetensors")
    is_printed = command == "evaluate" and not value_of(arguments, "--output", "")
    kept = LOST if is_file or is_printed else KEPT.get(command, LOST).format(output=output)
    if command == "explore" and "--serve" in again:
        kept = SERVED
    if command == "serve":
        kept = STOPPED
    return f"\ncsr-st: interrupted; {kept}\n    csr-st {shlex.join(again)}\n"


def _may_resume(output: Path) -> bool:
    """Whether the checkpoints in a folder, if there are any, are not those of an earlier run."""
    times = [path.stat().st_mtime for path in output.glob("checkpoints/step-*.safetensors")]
    return not times or max(times) >= STARTED


def value_of(arguments: Sequence[str], option: str, default: str) -> str:
    """The value of an option, as ``--option value`` or ``--option=value``."""
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option:
            return value if equals else "".join(arguments[place + 1 : place + 2])
    return default
