"""The name of a data set as a user types it, with what it may say of that set alone."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_SETTING = r"(?:config|split|column)=[^,]+"
_WITH_SETTINGS = re.compile(rf"(.+?):({_SETTING}(?:,{_SETTING})*)", re.DOTALL)


@dataclass(frozen=True)
class DataName:
    """A data set: ``org/name``, or ``org/name:config=20231101.en,split=train,column=abstract``.

    Attributes:
        name: File, folder, pattern or Hub id.
        split: Which split of a Hub or saved data set, or of a folder.
        column: Column to encode; None where there can be only one.
        config: Configuration of a Hub data set that has several, or None.
    """

    name: str
    split: str = "train"
    column: str | None = None
    config: str | None = None

    @classmethod
    def parse(cls, text: str | Path, split: str = "train", column: str | None = None) -> DataName:
        """Read a name; what it says itself comes before ``split`` and ``column``.

        A path that exists is a name as it is, whatever its characters.

        Raises:
            ValueError: If it says one of them twice.
        """
        text = os.fspath(text)
        found = _WITH_SETTINGS.fullmatch(text)
        if found is None or os.path.lexists(os.path.expanduser(text)):
            return cls(text, split, column)
        pairs = [setting.split("=", 1) for setting in found[2].split(",")]
        settings = dict(pairs)
        if len(settings) < len(pairs):
            raise ValueError(f"{text!r} sets {pairs[-1][0]} twice; name each of them once")
        return cls(
            found[1],
            settings.get("split", split),
            settings.get("column", column),
            settings.get("config"),
        )

    def __str__(self) -> str:
        """The name alone, with its configuration where it has one."""
        return self.name if self.config is None else f"{self.name}:config={self.config}"
