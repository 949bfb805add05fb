"""How many documents the demonstration takes, so that it ends in time on a slow machine too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csr_st.demo.corpus import Entry

LEAST = 2000
WARM_UP = 64  # texts; the first batch claims memory and starts threads
MEASURED = 128  # entries, spread over all, so that their lengths are those of the corpus
EMBEDDING_SHARE = 0.6  # of the time that is left; training, figures and search need the rest


def seconds_per_entry(backbone: Any, entries: Sequence[Entry]) -> float:
    """Time in which the backbone embeds a document and its summary, measured on a sample."""
    sample = entries[:: max(1, len(entries) // MEASURED)][:MEASURED]
    texts = [text for entry in sample for text in (entry.document, entry.summary)]
    backbone.encode(texts[:WARM_UP], batch_size=64, show_progress_bar=False)
    started = time.monotonic()
    backbone.encode(texts, batch_size=64, show_progress_bar=False)
    return (time.monotonic() - started) / len(sample)


def affordable(each: float, seconds: float, most: int) -> int:
    """How many entries, in hundreds, can be embedded in the embedding's share of the time.

    Args:
        each: Seconds to embed one.
        seconds: Time left for the whole demonstration.
        most: Entries that there are.

    Returns:
        A number within `LEAST`..``most``.
    """
    fitting = int(EMBEDDING_SHARE * seconds / max(each, 1e-9))
    return most if fitting >= most else max(LEAST, fitting // 100 * 100)


def begun(folder: Path, most: int) -> int | None:
    """Entries of an earlier run in the folder, at most ``most``: to go on with its vectors."""
    names = (path.name.removeprefix("vectors-") for path in folder.glob("vectors-*"))
    return max((int(name) for name in names if name.isdigit() and int(name) <= most), default=None)
