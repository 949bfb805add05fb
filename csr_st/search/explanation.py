"""What a score is made of, as numbers, as a table and as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple, Protocol

ROWS = 10
WORDS_SHOWN = 3


class Labels(Protocol):
    """Names of latents, such as `csr_st.LatentNames`."""

    def label(self, latent: int) -> str:
        """The name of a latent."""


class LatentShare(NamedTuple):
    """One latent's part of a score.

    Attributes:
        latent: Its number.
        label: Its name, "latent 17" without names.
        share: The product of its values in query and document, at unit length; as they are for an
            index by dot product.
    """

    latent: int
    label: str
    share: float


@dataclass(frozen=True)
class Explanation:
    """The shares of a score: those of all latents and words add up to it.

    Attributes:
        score: As `SparseIndex.search` gives it without rescoring.
        latents: The latents that query and document both have, largest share first.
        words: Share of each word that both have, by its stem; for an index with words.
        query_words: For each shared latent, the words of the query's text that carry it and the
            part of its value that is lost without the word; where the text was given.
        document_words: The same of the document's text.
    """

    score: float
    latents: list[LatentShare]
    words: dict[str, float] = field(default_factory=dict)
    query_words: dict[int, dict[str, float]] = field(default_factory=dict)
    document_words: dict[int, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        latents: Mapping[int, float],
        words: Mapping[str, float] | None = None,
        names: Labels | None = None,
    ) -> Explanation:
        """The explanation of shares by latent and by word, in any order."""
        label = "latent {}".format if names is None else names.label
        shares = [LatentShare(latent, label(latent), latents[latent]) for latent in latents]
        shares.sort(key=lambda share: (-share.share, share.latent))
        ordered = dict(sorted((words or {}).items(), key=lambda item: -item[1]))
        score = math.fsum([*latents.values(), *ordered.values()])
        return cls(score, shares, ordered)

    def table(self, n: int = ROWS) -> str:
        """A table (Markdown) of the ``n`` largest shares, what the others have, and the score."""
        header, rows = self._rows(n)
        lines = [_line(header), _line(["---:" if name == "share" else "---" for name in header])]
        return "\n".join([*lines, *map(_line, rows)])

    def _repr_html_(self) -> str:
        header, rows = self._rows(ROWS)
        html = ["".join(f"<th>{escape(cell)}</th>" for cell in header)]
        html += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in html)}</table>"

    def _rows(self, n: int) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table."""
        carried = {"in the query": self.query_words, "in the document": self.document_words}
        given = {title: words for title, words in carried.items() if words}
        shares = [
            (share.share, share.label, [_listed(of.get(share.latent)) for of in given.values()])
            for share in self.latents
        ]
        shares += [
            (share, f"word: {word}", [""] * len(given)) for word, share in self.words.items()
        ]
        shares.sort(key=lambda row: -row[0])
        rows = [[name, f"{share:.4f}", *words] for share, name, words in shares[:n]]
        none = [""] * len(given)
        if others := shares[n:]:
            rows.append(
                [f"{len(others)} more", f"{math.fsum(row[0] for row in others):.4f}", *none]
            )
        rows.append(["score", f"{self.score:.4f}", *none])
        return ["shared by query and document", "share", *given], rows


def _listed(words: Mapping[str, float] | None) -> str:
    best = sorted((words or {}).items(), key=lambda item: -item[1])[:WORDS_SHOWN]
    return ", ".join(word for word, _ in best)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
