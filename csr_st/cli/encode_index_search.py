"""Commands that use a head: encode, index, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

import csr_st
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
from csr_st.distributed import current_processes
from csr_st.distributed_encoding import ray_encode, ray_files
from csr_st.packed_codes import check_value_bits
from csr_st.search import Searchable, open_index
from csr_st.search.documents import Similarity, check_similarity
from csr_st.search.words import WEIGHT, check_weight
from csr_st.sparse_encoders import AnyModel, ready, similarity_of
from csr_st.vectors import VectorInput

PACK = "Pack the codes with 4 or 8 bits per value, in a third to a half of the bytes"


def encode(  # each argument is an option of the command
    model: arguments.Model,
    dataset: arguments.Data,
    output: Annotated[
        Path,
        typer.Option(
            help="A .safetensors file; or, for a large corpus, a folder of shards, with which a "
            "stopped run can continue and accelerate launch can use several processes."
        ),
    ],
    k: Annotated[int | None, typer.Option(help="Active latents; the head's if not given.")] = None,
    role: Annotated[str | None, typer.Option(help="query or document.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store values as float16.")] = False,
    value_bits: Annotated[int | None, typer.Option(help=f"{PACK}.")] = None,
    pursuit: Annotated[
        bool,
        typer.Option(
            "--pursuit",
            help="Choose latents by orthogonal matching pursuit, for search --rescore.",
        ),
    ] = False,
    residual_bits: Annotated[
        float,
        typer.Option(
            help="Bits per dimension, such as 0.5, 1 or 2, for the residual: what the decoder does "
            "not rebuild of the dense vector. search --rescore uses it. 0 for none.",
            min=0,
            max=4,
        ),
    ] = 0,
    split: arguments.Split = "train",
    text_column: arguments.Column = None,
    batch_size: arguments.BatchSize = 64,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Encode on a cluster of Ray, or on this machine without one, into a folder that "
            "all its machines see; DATASET is files of .parquet, .jsonl, .csv or .txt.",
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="With --ray: the most workers, with a model each.", min=1)
    ] = 1,
    gpus: Annotated[float, typer.Option(help="With --ray: GPUs of a worker.", min=0)] = 0,
    id_column: Annotated[
        str | None, typer.Option(help="With --ray: column of ids to store with the codes.")
    ] = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Encode a data set to sparse codes.

    Example: csr-st encode my-csr documents.jsonl --output codes.safetensors --role document
    """
    is_folder = output.suffix.lower() != ".safetensors"
    arguments.check_output(output, is_folder=is_folder)
    if value_bits is not None and half:
        raise ValueError("--half is for values that are not packed; leave it or --value-bits out")
    value_bits = None if value_bits is None else check_value_bits(value_bits)
    if Path(dataset).exists():
        expect(dataset, "data", "vectors")
    options: dict[str, Any] = {
        "k": k,
        "role": role,
        "pursuit": pursuit,
        "residual_bits": residual_bits,
        "value_bits": value_bits,
        "batch_size": batch_size,
        "dtype": "float16" if half else "float32",
    }
    if ray:
        of_ray = {"workers": workers, "num_gpus": gpus, "id_column": id_column}
        of_ray |= {"text_column": text_column or "text", "trust_remote_code": trust_remote_code}
        typer.echo(f"{_under_ray(model, dataset, output, is_folder, options | of_ray)} in {output}")
        return
    loaded = arguments.load_any(model, trust_remote_code)
    options["show_progress"] = True
    codes: SparseCodes | PackedCodes | CodeStore
    if is_folder and not isinstance(loaded[0], VectorInput):
        rows = sources.load(dataset, split, [text_column] if text_column else [])
        codes = CodeStore.encode(loaded, rows, output, text_column=text_column, **options)
    elif is_folder:
        rows = arguments.inputs_for(loaded, dataset, split, text_column)
        codes = CodeStore.encode(loaded, rows, output, **options)
    else:
        rows = arguments.inputs_for(loaded, dataset, split, text_column)
        plain = csr_st.encode(loaded, rows, **options)
        codes = plain if value_bits is None else plain.pack(value_bits)
        codes.save(output)
    if current_processes().rank == 0:
        typer.echo(f"{codes} in {output}")


def _under_ray(
    model: str, dataset: str, output: Path, is_folder: bool, options: dict[str, Any]
) -> CodeStore:
    """Encode on a cluster of Ray."""
    if not is_folder:
        raise ValueError(f"--ray writes a folder of shards, and --output {output} names a file")
    return ray_encode(model, ray_files(dataset), output, **options)


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
        int | None, typer.Option(help=f"{PACK}; if not given, codes stay as they are.")
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


def search(
    index: Annotated[Path, typer.Argument(help="File or folder written by index.")],
    queries: Annotated[list[str], typer.Argument(help="One or more queries, each in quotes.")],
    model: Annotated[str, typer.Option(help=f"{arguments.MODEL} that made the codes.")],
    top_k: Annotated[int, typer.Option(help="Results per query.", min=1)] = 10,
    k: Annotated[int | None, typer.Option(help="Latents per document; all if not given.")] = None,
    query_k: Annotated[
        int | None,
        typer.Option(
            help="Latents per query; if not given, 4 times --k, for SPLADE all active ones."
        ),
    ] = None,
    rescore: Annotated[
        int,
        typer.Option(
            help="Rank this many candidates again by the query's dense vector and the decoded "
            "documents; results are then nearest to dense search. 0 for none.",
            min=0,
        ),
    ] = 0,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of BM25, for an index built with --texts; 0 for codes alone, the index's "
            "if not given.",
            min=0,
        ),
    ] = None,
    trust_remote_code: arguments.Trust = False,
) -> None:
    """Search an index by codes and, if it was built with --texts, by BM25.

    Prints rank, score and id of each result, separated by tabs. With several queries, a line with
    the query comes before its results. Example: csr-st search index.csr --model my-csr "copy a
    folder"
    """
    expect(index, "index")
    opened = open_index(index)
    if not opened.hidden_dim:
        raise ValueError(f"{index} has only words; search it in Python: index.search(words=[...])")
    if weight is not None and opened.language is None:
        raise ValueError(f"--weight applies to words, and {index} has none; build it with --texts")
    loaded = arguments.load_any(model, trust_remote_code)
    coder = ready(loaded, 1).coder
    if not isinstance(coder, SparseCSRHead):
        if rescore:
            raise ValueError(
                f"--rescore ranks by dense vectors, and {model} is a SparseEncoder without a head, "
                "which has none; leave it out"
            )
        _note_other_similarity(index, opened, model, loaded)
    searcher = csr_st.Searcher(loaded, opened, k=k, query_k=query_k, rescore=rescore, weight=weight)
    for query, hits in zip(queries, searcher(queries, top_k), strict=True):
        if len(queries) > 1:
            typer.echo(f"# {query}")
        for rank, hit in enumerate(hits, start=1):
            typer.echo(f"{rank}\t{hit.score:.4f}\t{hit.id}")


def _note_other_similarity(path: Path, index: Searchable, model: str, loaded: AnyModel) -> None:
    """Say that an index ranks otherwise than the model does."""
    own = loaded.similarity_fn_name
    if own in get_args(Similarity) and own != index.similarity:
        typer.echo(
            f"{path} compares codes by {index.similarity}, {model} by {own}; for that, build it "
            f"with csr-st index CODES --model {model}",
            err=True,
        )


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
