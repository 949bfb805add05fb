"""Progress bars that stay readable in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def progress(
    total: int | None, description: str, unit: str, show: bool | None, done: int = 0
) -> Any:
    """A tqdm bar, updated all the time on a terminal and every ten seconds in a log.

    Nothing is shown when ``show`` is False, or when it is None and this is not a terminal, or in a
    process that has no standard error.
    """
    has_stderr = sys.stderr is not None and not sys.stderr.closed
    live = has_stderr and sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit=f" {unit}",
        disable=True if not has_stderr else None if show is None else not show,
        mininterval=0.1 if live else 10,
        maxinterval=10,
        dynamic_ncols=live,
    )
