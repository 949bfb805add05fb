"""What a page shows, as one JSON value: texts, codes, names and the map of the latents."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st.codes import SparseCodes
from csr_st.data.images import is_picture
from csr_st.decoder import Decoder
from csr_st.insight.names import LatentNames
from csr_st.insight.naming import name_latents
from csr_st.insight.page.layout import positions
from csr_st.insight.page.thumbnails import thumbnails
from csr_st.packed_codes import PackedCodes

MAX_TEXTS = 20_000  # above, a slider takes more than 50 ms on a slow machine
MAX_CHARACTERS = 2_000  # of each text; what is longer is cut, and the page says so
MAX_PICTURE_BYTES = 6_000_000  # of all pictures; the page says how many of them these are


@dataclass(frozen=True)
class Corpus:
    """Texts with their codes.

    Attributes:
        codes: (n, k) codes of the texts.
        texts: The n texts.
        label: What the page calls them, such as the name of their file.
        pictures: Of codes of images, the n images, from PIL or `csr_st.data`; the texts are
            then their captions, "" where there is none. The page holds small ones of
            the first by `csr_st.insight.page.thumbnails`, 6 MB at most.

    Raises:
        TypeError: If codes are no `SparseCodes` or `PackedCodes`, a text is not a str, or a picture
            no image.
        ValueError: If there are no texts, or not as many as codes, or not as many as pictures.
    """

    codes: SparseCodes | PackedCodes
    texts: Sequence[str]
    label: str = "this collection"
    pictures: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.codes, SparseCodes | PackedCodes):
            raise TypeError(f"codes are {type(self.codes).__name__}; pass csr_st.SparseCodes")
        if isinstance(self.texts, str):
            raise TypeError("texts are one str; pass a list with the text of each code")
        if len(self.texts) != len(self.codes):
            raise ValueError(
                f"{self.label} has {len(self.texts)} texts for {len(self.codes)} codes; pass one "
                "text for each code"
            )
        if not len(self.texts):
            raise ValueError(f"{self.label} has no texts; a page needs at least one")
        for row, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(f"text {row} is {text!r:.60}, no str; pass '' where there is none")
        if self.pictures is not None:
            self._check_pictures(self.pictures)

    def _check_pictures(self, pictures: Sequence[Any]) -> None:
        if len(pictures) != len(self.codes):
            raise ValueError(
                f"{self.label} has {len(pictures)} pictures for {len(self.codes)} codes; pass one "
                "for each code"
            )
        for row, one in enumerate(pictures):
            if not is_picture(one):
                raise TypeError(f"picture {row} is {one!r:.60}, no image of PIL or csr_st.data")

    def plain(self) -> SparseCodes:
        """The codes at unit length, in float32."""
        codes = self.codes.unpack() if isinstance(self.codes, PackedCodes) else self.codes
        return codes.astype(np.float32).normalize()


def gathered(
    corpora: Sequence[Corpus],
    names: LatentNames | None,
    decoder: Decoder | None,
    title: str | None = None,
) -> dict[str, Any]:
    """The value that a page reads; `csr_st.insight.page.rendered` makes HTML of it.

    Args:
        corpora: One, or two that are compared.
        names: Names of the latents; made of the texts of all corpora if None.
        decoder: For the map.
        title: Title of the page; the labels if None.

    Raises:
        ValueError: If there are more than `MAX_TEXTS` texts, or codes or names are of different
            heads.
    """
    texts = [text for corpus in corpora for text in corpus.texts]
    if len(texts) > MAX_TEXTS:
        raise ValueError(
            f"n={len(texts):,} texts exceed the {MAX_TEXTS:,} of a page; pass a sample, such as "
            "codes[rows] and the texts of these rows"
        )
    codes = _joined(corpora)
    if names is None:
        names = name_latents(codes, texts)
    if names.hidden_dim != codes.hidden_dim:
        raise ValueError(
            f"names are of {names.hidden_dim} latents, codes of {codes.hidden_dim}; name the "
            "latents of the same head"
        )
    if decoder is not None and decoder.hidden_dim != codes.hidden_dim:
        raise ValueError(
            f"the decoder has {decoder.hidden_dim} latents, codes {codes.hidden_dim}; pass that of "
            "the same head"
        )
    active = codes.values > 0
    uses = np.bincount(codes.indices[active].astype(np.int64), minlength=0)
    latents = np.flatnonzero(uses)
    latents = latents[np.argsort(-uses[latents], kind="stable")]
    named = [names[int(latent)] for latent in latents]
    placed = positions(codes, latents, decoder)
    return {
        "title": " and ".join(one.label for one in corpora) if title is None else title,
        "footer": "Written by csr-st.",
        "corpora": [
            {"label": one.label, "size": len(one.texts), "images": one.pictures is not None}
            for one in corpora
        ],
        "noun": _noun(corpora),
        "room": MAX_PICTURE_BYTES,
        "pictures": _pictures(corpora, codes),
        "texts": [text[:MAX_CHARACTERS] for text in texts],
        "lengths": {row: len(one) for row, one in enumerate(texts) if len(one) > MAX_CHARACTERS},
        "k": codes.k,
        "latents": latents.tolist(),
        "words": [list(name.words) for name in named],
        "auc": [None if math.isnan(name.auc) else round(name.auc, 4) for name in named],
        "neighbours": [list(name.neighbours) for name in named],
        "places": _packed(_places(codes, latents, active)),
        "values": _packed(codes.values.astype("<f4")),
        "x": _packed(placed[:, 0].astype("<f4")),
        "y": _packed(placed[:, 1].astype("<f4")),
    }


def _joined(corpora: Sequence[Corpus]) -> SparseCodes:
    plain = [corpus.plain() for corpus in corpora]
    if len({codes.hidden_dim for codes in plain}) > 1:
        raise ValueError(
            f"the collections have codes of {[codes.hidden_dim for codes in plain]} latents; "
            "encode both with the same head"
        )
    k = min(codes.k for codes in plain)
    arrays = [(codes.prefix(k).indices, codes.prefix(k).values) for codes in plain]
    indices, values = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
    return SparseCodes(indices, values, plain[0].hidden_dim)


def _noun(corpora: Sequence[Corpus]) -> str:
    """What the page calls one entry."""
    kinds = {corpus.pictures is not None for corpus in corpora}
    return "item" if len(kinds) > 1 else ("image" if True in kinds else "text")


def _pictures(corpora: Sequence[Corpus], codes: SparseCodes) -> dict[int, str]:
    """Small pictures by row; none of texts."""
    if all(corpus.pictures is None for corpus in corpora):
        return {}
    rows: list[Any] = []
    for corpus in corpora:
        rows.extend([None] * len(corpus.texts) if corpus.pictures is None else corpus.pictures)
    return thumbnails(rows, codes, MAX_PICTURE_BYTES)


def _places(
    codes: SparseCodes, latents: NDArray[np.int64], active: NDArray[np.bool_]
) -> NDArray[np.unsignedinteger[Any]]:
    """(n, k) place of each entry's latent among ``latents``; 0 where there is none."""
    place = np.zeros(int(latents.max(initial=0)) + 1, np.int64)
    place[latents] = np.arange(len(latents))
    kind = "<u2" if len(latents) <= 1 << 16 else "<u4"  # as data.js reads them
    found: NDArray[np.unsignedinteger[Any]] = place[np.where(active, codes.indices, 0)].astype(kind)
    return found


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
