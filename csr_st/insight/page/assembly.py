"""A page as one HTML file: its parts joined, its content packed, and nothing else allowed."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from csr_st._io.files import write_atomically
from csr_st.codes import SparseCodes
from csr_st.decoder import Decoder
from csr_st.insight.names import LatentNames
from csr_st.insight.page.content import Corpus, gathered
from csr_st.packed_codes import PackedCodes

MARK = '<meta name="generator" content="csr-st explore">'
SCRIPTS = ("dom", "data", "ranking", "topics", "similar", "map", "compare", "main")  # in order


def write_page(  # the arguments of a page, and its place
    path: str | Path,
    codes: SparseCodes | PackedCodes,
    texts: Sequence[str],
    names: LatentNames | None = None,
    decoder: Decoder | None = None,
    **options: Any,
) -> None:
    """Write a page that shows what texts are about, by the latents of their codes.

    It is one file that opens from disk, and asks nothing of any network. It **holds the texts**, up
    to 2,000 characters of each, and small pictures of images, up to 6 MB of them: do not publish it
    if they are private. For example::

        names = csr_st.name_latents(codes, texts)
        write_page("explorer.html", codes, texts, names, csr_st.Decoder.from_head(head))

    Args:
        path: The file; it appears whole or not at all.
        codes: (n, k) codes of the texts.
        texts: n texts, 20,000 at most.
        names: Names of the latents; made here if None.
        decoder: That of the head, for the map; without it, latents are alike if they are active in
            the same texts.
        options: See `render_page`: ``title``, ``label``, ``pictures``, ``compared``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are too many texts, or not as many as codes, or codes, names and
            decoder are of different heads.
        OSError: If the file cannot be written.
    """
    write_atomically(Path(path), render_page(codes, texts, names, decoder, **options))


def render_page(  # a page has many parts
    codes: SparseCodes | PackedCodes,
    texts: Sequence[str],
    names: LatentNames | None = None,
    decoder: Decoder | None = None,
    *,
    title: str | None = None,
    label: str = "this collection",
    pictures: Sequence[Any] | None = None,
    compared: Corpus | None = None,
    live: bool = False,
) -> str:
    """The HTML that `write_page` writes; its further arguments.

    Args:
        codes: See `write_page`, also for the next three.
        texts: The texts.
        names: Names of the latents.
        decoder: For the map.
        title: Title of the page; the labels if None.
        label: What the page calls these texts, such as the name of their file.
        pictures: The images that the codes are of, as in `Corpus`; the texts are their captions.
        compared: A second collection, beside which the first is put. 20,000 is then the most of
            both together.
        live: Whether a `PageServer` answers it, which encodes what is typed.

    Raises:
        TypeError: See `write_page`.
        ValueError: See `write_page`.
    """
    corpora = [Corpus(codes, texts, label, pictures), *([] if compared is None else [compared])]
    return rendered(gathered(corpora, names, decoder, title), live)


def rendered(found: dict[str, Any], live: bool = False) -> str:
    """The HTML of what `gathered` put together, which takes most of the time.

    Args:
        found: The content.
        live: See `render_page`.
    """
    text = json.dumps({**found, "live": live}, ensure_ascii=False, separators=(",", ":"))
    data = base64.b64encode(zlib.compress(text.encode(errors="replace"), 9)).decode()
    style, script = _style(), _script()
    allowed = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    parts = {
        "mark": MARK,
        "policy": "; ".join(f"{name} {value}" for name, value in allowed.items()),
        "title": html.escape(found["title"]),
        "style": style,
        "script": script,
        "data": data,
    }
    return _filled(_asset("page.html"), parts)


def is_page(path: Path) -> bool:
    """Whether a file is a page that `write_page` wrote, which holds texts."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(1024)


def _asset(name: str) -> str:
    return (files("csr_st.insight.page") / "assets" / name).read_text(encoding="utf-8")


def _style() -> str:
    return _filled(_asset("style.css"), {"dark": _asset("dark.css").strip()})


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def _filled(template: str, parts: dict[str, str]) -> str:
    """The template with each ``{{name}}`` replaced once: parts may hold braces themselves."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _hash(source: str) -> str:
    """What a policy names an inline script or style by (Content Security Policy 3, section 2.4)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
