"""Commands that are interrupted, in processes of their own.

``python command_runs.py JOBS``: JOBS is a JSON list of objects with ``arguments`` of ``csr-st`` and
``stage``, the function ("module:name") in which to interrupt it, or the number of seconds after
which. ``stuck`` makes that function stay in compiled code, as a large matrix product does. For each
job a line of JSON is printed: exit code, seconds from Ctrl-C to the end, stdout and stderr.

Each command runs in a fork, so that the imports take their seconds once.
"""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from csr_st import cli


def run(arguments, stage, stuck=False):
    folder = tempfile.mkdtemp()
    out, err, mark = (Path(folder, name) for name in ("out", "err", "mark"))
    child = os.fork()
    if child == 0:
        _run_command(arguments, stage, stuck, out, err, mark)
    pid, status = 0, 0
    begin = time.monotonic()
    while pid == 0:
        if mark.exists() if isinstance(stage, str) else time.monotonic() > begin + stage:
            break
        time.sleep(0.01)
        pid, status = os.waitpid(child, os.WNOHANG)
    if isinstance(stage, str):
        time.sleep(0.1)  # within the function
    began = time.perf_counter()
    if pid == 0:
        os.kill(child, signal.SIGINT)
        _, status = os.waitpid(child, 0)
    result = {"code": os.waitstatus_to_exitcode(status), "seconds": time.perf_counter() - began}
    result |= {"out": out.read_text(), "err": err.read_text()}
    shutil.rmtree(folder)
    return result


def _run_command(arguments, stage, stuck, out, err, mark):
    """Run a command in this process and end it."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    if isinstance(stage, str):
        module_name, _, name = stage.partition(":")
        module = importlib.import_module(module_name)
        *owners, last = name.split(".")
        for owner in owners:
            module = getattr(module, owner)

        def staged(*args, **kwargs):
            mark.touch()
            if stuck:  # minutes, without the interpreter's lock
                hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
            time.sleep(60)

        setattr(module, last, staged)
    sys.argv = ["csr-st", *arguments]
    cli.main()  # ends in SystemExit, by which this process ends as the command does


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        print(json.dumps(run(**job)), flush=True)  # noqa: T201 - what the test reads
