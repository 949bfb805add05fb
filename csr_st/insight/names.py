"""Names of latents: a few words each, how well they tell, and the file latents.json.

`csr_st.name_latents` makes them; nothing here reads texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from csr_st._io.files import write_atomically
from csr_st.model.settings import integer

FORMAT = "csr_st.LatentNames"
FORMAT_VERSION = 1
WORDS_IN_LABEL = 3
ROWS_IN_NOTEBOOK = 50


@dataclass(frozen=True)
class LatentName:
    """What one latent stands for.

    Attributes:
        latent: Number of the latent.
        words: The words that tell texts with it from texts without, best first; () if unnamed.
        auc: How well these words alone do so, on texts that took no part in naming (ROC AUC,
            0.5 by chance; see `csr_st.name_latents`); nan if there are too few such texts.
        frequency: Share of the texts in which it is active, 0..1.
        texts: Rows of the texts in which it is strongest, strongest first; () from a file.
        neighbours: The latents that are active in the same texts, nearest first.
    """

    latent: int
    words: tuple[str, ...] = ()
    auc: float = math.nan
    frequency: float = 0.0
    texts: tuple[int, ...] = ()
    neighbours: tuple[int, ...] = ()

    @property
    def label(self) -> str:
        """The first words, or "latent 17" if it is unnamed."""
        return ", ".join(self.words[:WORDS_IN_LABEL]) or f"latent {self.latent}"


class LatentNames:
    """The names of the latents of one head; made by `csr_st.name_latents` or `load`.

    For example::

        names = csr_st.name_latents(codes, texts)
        names.label(17)  # 'wing, lift, flap'
        names.find("wing")  # the latents that have it among their words, best first
        print(names.table())
        names.save("latents.json")

    ``names[17]`` is the `LatentName` of a latent. Iteration goes over those that are active in any
    text, by falling frequency, and ``len`` counts them.

    Attributes:
        hidden_dim: Latents of the head.
        k: Latents of each text that were looked at.
        n_texts: Texts that they were named by.

    Raises:
        ValueError: If a latent is outside ``hidden_dim`` or there twice.
    """

    def __init__(
        self, names: Iterable[LatentName], *, hidden_dim: int, k: int, n_texts: int
    ) -> None:
        self.hidden_dim, self.k, self.n_texts = hidden_dim, k, n_texts
        ordered = sorted(names, key=lambda name: (-name.frequency, name.latent))
        self._by_latent = {name.latent: name for name in ordered}
        if len(self._by_latent) < len(ordered):
            raise ValueError("a latent has two names; pass one for each")
        for latent in self._by_latent:
            self._checked(latent)

    def _checked(self, latent: Any) -> int:
        number = integer("latent", latent, low=-(2**63))
        if not 0 <= number < self.hidden_dim:
            raise ValueError(f"latent={latent} is outside 0..{self.hidden_dim - 1}, those named")
        return number

    def __getitem__(self, latent: int) -> LatentName:
        """The name of a latent; one that is active in no text is unnamed.

        Raises:
            ValueError: If the head has no such latent.
            TypeError: If it is not an integer.
        """
        number = self._checked(latent)
        return self._by_latent.get(number) or LatentName(number)

    def __iter__(self) -> Iterator[LatentName]:
        return iter(self._by_latent.values())

    def __len__(self) -> int:
        return len(self._by_latent)

    def __repr__(self) -> str:
        named = sum(bool(name.words) for name in self)
        return (
            f"LatentNames({named:,} of {len(self):,} live latents named, "
            f"median AUC {self.median_auc:.2f}, hidden_dim={self.hidden_dim})"
        )

    def label(self, latent: int) -> str:
        """The first words of a latent, as "wing, lift", or "latent 17" if it is unnamed."""
        return self[latent].label

    @property
    def median_auc(self) -> float:
        """Median AUC of the latents that have a name; nan if there are none."""
        found = [name.auc for name in self if name.words and not math.isnan(name.auc)]
        return float(np.median(found)) if found else math.nan

    def find(self, text: str) -> list[LatentName]:
        """The latents with a word that contains ``text``, in any case; best first.

        First those that have it as a whole word; then by its place among the words, then by use.

        Raises:
            TypeError: If it is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"text={text!r:.60} must be a str, such as a word of the name")
        wanted = text.strip().casefold()
        found = []
        for place, name in enumerate(self):
            words = [word.casefold() for word in name.words]
            ranks = [(word != wanted, at) for at, word in enumerate(words) if wanted in word]
            if ranks and wanted:
                found.append((min(ranks), place, name))
        return [name for _, _, name in sorted(found, key=lambda entry: entry[:2])]

    def most_used(self, n: int = 10) -> list[LatentName]:
        """The ``n`` latents that are active in most texts."""
        return list(self)[: integer("n", n, low=0)]

    def best_named(self, n: int = 10, min_texts: int = 10) -> list[LatentName]:
        """The ``n`` latents whose words tell best, of those active in ``min_texts`` texts.

        Equal ones are in order of falling frequency.
        """
        least = integer("min_texts", min_texts, low=0)
        named = [
            name
            for name in self
            if name.words and name.auc >= 0 and round(name.frequency * self.n_texts) >= least
        ]
        return sorted(named, key=lambda name: -name.auc)[: integer("n", n, low=0)]

    def table(self, n: int = 10) -> str:
        """A table (Markdown) of the ``n`` most used latents."""
        return table(self.most_used(n))

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(name)) + "</tr>"
            for name in self.most_used(ROWS_IN_NOTEBOOK)
        )
        head = "".join(f"<th>{column}</th>" for column in COLUMNS)
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{rows}</table>"

    def to_json(self) -> str:
        """What `save` writes: words and numbers, neither texts nor their rows."""
        about = {"hidden_dim": self.hidden_dim, "k": self.k, "n_texts": self.n_texts}
        latents = [
            {
                "latent": name.latent,
                "words": list(name.words),
                "auc": None if math.isnan(name.auc) else round(name.auc, 4),
                "frequency": float(f"{name.frequency:.6g}"),
                "neighbours": list(name.neighbours),
            }
            for name in self
        ]
        lines = ",\n".join(json.dumps(latent, ensure_ascii=False) for latent in latents)
        header = json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **about})
        return f'{header[:-1]}, "latents": [\n{lines}\n]}}\n'

    def save(self, path: str | Path) -> None:
        """Write a JSON file, completely or not at all; it has neither texts nor their rows."""
        write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> LatentNames:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it has no names, is damaged, or is of a newer format.
        """
        content = Path(path).read_bytes()
        try:
            found = json.loads(content)
            if not isinstance(found, dict) or found.get("format") != FORMAT:
                raise ValueError(f'its "format" is not {FORMAT!r}')
            if found["format_version"] > FORMAT_VERSION:
                raise ValueError(
                    f"its format version {found['format_version']} is newer than "
                    f"{FORMAT_VERSION}; update csr-st"
                )
            about = {key: integer(key, found[key], low=0) for key in ("hidden_dim", "k", "n_texts")}
            return cls([_read(latent) for latent in found["latents"]], **about)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} has no names of latents: {error}") from error


COLUMNS = "latent", "words", "AUC", "texts with it"


def table(names: Iterable[LatentName]) -> str:
    """A table (Markdown) of some latents."""
    lines = [f"| {' | '.join(COLUMNS)} |", "| ---: | --- | ---: | ---: |"]
    for name in names:
        cells = (" ".join(cell.replace("|", "\\|").split()) for cell in _cells(name))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(name: LatentName) -> tuple[str, ...]:
    auc = f"{name.auc:.2f}" if name.words and not math.isnan(name.auc) else ""
    return str(name.latent), ", ".join(name.words) or "(unnamed)", auc, f"{name.frequency:.1%}"


def _read(latent: dict[str, Any]) -> LatentName:
    words, auc = latent["words"], latent["auc"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"the words {words!r:.60} are no list of str")
    frequency, auc = float(latent["frequency"]), math.nan if auc is None else float(auc)
    if not 0 <= frequency <= 1 or not (math.isnan(auc) or 0 <= auc <= 1):
        raise ValueError(f"frequency={frequency} and auc={auc} must be within 0..1")
    number = integer("latent", latent["latent"], low=0)
    near = tuple(integer("neighbour", near, low=0) for near in latent["neighbours"])
    return LatentName(number, tuple(words), auc, frequency, (), near)
