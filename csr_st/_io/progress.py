"""Progress bars that stay readable in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress(total: int | None, description: str, unit: str, show: bool, done: int = 0) -> Any:
    """A tqdm bar: live on a terminal, a line every ten seconds in a log, silent when not shown."""
    live = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit=f" {unit}",
        disable=not show,
        mininterval=0.1 if live else 10,
        maxinterval=10,
        dynamic_ncols=live,
    )
