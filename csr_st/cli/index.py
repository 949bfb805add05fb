"""The command `index`: an index of codes and words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from csr_st import (
    CodeStore,
    Decoder,
    PackedCodes,
    SegmentedIndex,
    SparseCodes,
    SparseCSRHead,
    SparseIndex,
)
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.code_files import is_packed
from csr_st.data import loading as sources
from csr_st.data.streams import lines
from csr_st.packed_codes import check_value_bits
from csr_st.search.documents import check_similarity
from csr_st.search.words import WEIGHT, check_weight
from csr_st.sparse_encoders import ready, similarity_of


def index(
    codes: Annotated[Path, typer.Argument(help="File or folder of codes, written by encode.")],
    output: Annotated[
        Path, typer.Option(help="File to write, such as index.csr, or the folder of --segments.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help=f"{arguments.MODEL} that made the codes: its decoder is stored for --rescore, and "
            "codes are compared as it compares them."
        ),
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(help="cosine or dot; if not given, that of --model, else cosine."),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="Text file, one id per line; 0, 1, 2, ... if not given.")
    ] = None,
    value_bits: Annotated[
        int | None, typer.Option(help=f"{arguments.PACK}; if not given, codes stay as they are.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="Texts of the documents, in the order of the codes, for hybrid search with BM25: "
            f"{arguments.DATA[0].lower()}{arguments.DATA[1:]}."
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Language of --texts, such as german; english if not given.")
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help=f"Weight of BM25 beside codes; {WEIGHT} if not given. csr-st evaluate --words "
            "--tune finds one.",
            min=0,
        ),
    ] = None,
    segments: Annotated[
        bool,
        typer.Option(
            "--segments",
            help="Write a folder, to which documents can be added while it is searched, from a "
            "folder of codes that may be larger than the memory. See csr_st.SegmentedIndex.",
        ),
    ] = False,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Build an exact index of codes, and of words with --texts, in one file or a folder.

    With --model SPLADE, codes are compared by dot product. Example:
    csr-st index codes.safetensors --texts documents.jsonl --output index.csr --model my-csr
    """
    arguments.check_output(output, is_folder=segments)
    expect(codes, "codes")
    if segments and value_bits is not None:
        raise ValueError(f"--value-bits {value_bits} packs a file; leave it or --segments out")
    for option, given in (("--language", language), ("--weight", weight)):
        if texts is None and given is not None:
            raise ValueError(f"{option} {given} needs --texts; name the texts, or leave it out")
    weight = check_weight(WEIGHT if weight is None else weight)
    if texts is not None and Path(texts).exists():
        expect(texts, "data")
    value_bits = None if value_bits is None else check_value_bits(value_bits)
    names = None if ids is None else _read_ids(ids)
    decoder, compared = None, check_similarity(similarity or "cosine")
    if model is not None:
        loaded = arguments.load_any(model, trust_remote_code)
        compared = compared if similarity else similarity_of(loaded)
        coder = ready(loaded, 1).coder
        decoder = Decoder.from_head(coder) if isinstance(coder, SparseCSRHead) else None
    words = None
    if texts is not None:
        rows = sources.load(texts, split, [text_column] if text_column else [])
        words = sources.column(rows, text_column)
    options: dict[str, Any] = {"language": language or "english", "weight": weight}
    options |= {"words": words, "similarity": compared}
    built: SparseIndex | SegmentedIndex
    if segments:
        read = CodeStore.open(codes) if codes.is_dir() else _read_codes(codes)
        built = SegmentedIndex.create(output, read, names, decoder, **options)
    else:
        built = SparseIndex.build(_packed(codes, value_bits), names, decoder, **options)
        built.save(output)
    typer.echo(f"{built} {'without' if decoder is None else 'with'} decoder in {output}")


def _packed(codes: Path, value_bits: int | None) -> SparseCodes | PackedCodes:
    """The codes of a file or folder, packed as asked, or as they are."""
    documents = _read_codes(codes)
    if value_bits is None or value_bits == getattr(documents, "value_bits", None):
        return documents
    plain = documents.unpack() if isinstance(documents, PackedCodes) else documents
    return plain.pack(value_bits)


def _read_codes(path: Path) -> SparseCodes | PackedCodes:
    """The codes of a file or folder, packed if they are stored so."""
    if path.is_dir():
        store = CodeStore.open(path)
        return store.codes() if store.value_bits is None else store.packed()
    return PackedCodes.load(path) if is_packed(path) else SparseCodes.load(path)


def _read_ids(path: Path) -> list[str] | list[int]:
    """The lines of a file; as integers, which need less memory, where all of them are."""
    try:
        names = list(lines(path))
    except ValueError as error:
        raise ValueError(f"--ids: {error}") from error
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names):
        return [int(name) for name in names]
    return names
