"""The command `encode`: codes of data by a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import csr_st
from csr_st import CodeStore, PackedCodes, SparseCodes
from csr_st.cli import arguments
from csr_st.cli.kinds import expect
from csr_st.data import loading as sources
from csr_st.distributed_encoding import ray_encode, ray_files
from csr_st.packed_codes import check_value_bits
from csr_st.processes import current_processes
from csr_st.vectors import VectorInput


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
    value_bits: Annotated[int | None, typer.Option(help=f"{arguments.PACK}.")] = None,
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
