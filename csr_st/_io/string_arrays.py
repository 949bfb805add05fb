"""Lists of strings as arrays of a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SURROGATES = "surrogatepass"  # Python's strings may have halves of characters; they come back


def joined_strings(strings: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Strings in UTF-8, one after another, and where each ends."""
    encoded = [text.encode(errors=_SURROGATES) for text in strings]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), ends


def split_strings(text: NDArray[Any], ends: NDArray[Any], what: str) -> list[str]:
    """The strings of `joined_strings`.

    Raises:
        ValueError: If the ends are not those of the text, or it is not UTF-8.
    """
    content, places = text.tobytes(), ends.tolist()
    if places != sorted(places) or [len(content)] != (places[-1:] or [0]):
        raise ValueError(f"the ends of the {what} do not rise to the length of their text")
    pairs = zip([0, *places], places, strict=False)
    return [content[start:end].decode(errors=_SURROGATES) for start, end in pairs]
