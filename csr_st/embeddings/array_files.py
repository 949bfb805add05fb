"""Vectors in files of plain arrays: .npy, .npz and .safetensors; mapped, where not compressed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from csr_st._io.tensor_files import map_array, open_tensors
from csr_st.embeddings.vector_file import VectorFile

FLOATS = ("F16", "BF16", "F32", "F64")
BYTES = ("I8", "U8")


def open_npy(path: Path, _label: str | None = None) -> VectorFile:
    """An .npy file; one that is compressed, as .npy.gz, is read."""
    mapped = path.suffix.lower() == ".npy"
    if mapped:
        array = _map_npy(path, 0)
    else:
        import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no type information

        with pa.input_stream(str(path), compression="detect") as stream:
            array = _read_npy(path, stream)
    return VectorFile([], lambda: ["the array"], lambda _: [array], mapped=mapped)


def _header(path: Path, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the array in npy format that begins here."""
    first = npy_format.read_magic(file) == (1, 0)
    read = npy_format.read_array_header_1_0 if first else npy_format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(
            f"{path} has Python objects, which are never unpickled; save an array of one type: "
            "floating-point vectors, labels of whole numbers or strings"
        )
    return shape, fortran, dtype


def _map_npy(path: Path, begin: int) -> NDArray[Any]:
    """Map an array in npy format that begins at byte ``begin`` of a file."""
    with path.open("rb") as file:
        file.seek(begin)
        shape, fortran, dtype = _header(path, file)
        begin = file.tell()
    array = map_array(path, dtype, shape[::-1] if fortran else shape, begin)
    return array.T if fortran else array


def _read_npy(path: Path, stream: Any) -> NDArray[Any]:
    """Read an array in npy format to the end of a stream."""
    shape, fortran, dtype = _header(path, stream)
    array = np.frombuffer(stream.read(), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def open_npz(path: Path, _label: str | None = None) -> VectorFile:
    """Arrays of np.savez are mapped; those of np.savez_compressed are read."""
    archive = zipfile.ZipFile(path)
    names = [name.removesuffix(".npy") for name in archive.namelist()]

    def load(name: str) -> NDArray[Any]:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with archive.open(member) as stream:
                return _read_npy(path, stream)
        # A member's bytes follow its local header: 30 bytes, its name, its extra field.
        lengths = map_array(path, np.dtype("<u2"), (2,), member.header_offset + 26)
        return _map_npy(path, member.header_offset + 30 + int(lengths.sum(dtype=int)))

    def shape_of(name: str) -> tuple[int, ...]:
        with archive.open(f"{name}.npy") as stream:
            return _header(path, stream)[0]

    def candidates() -> list[str]:
        return names if len(names) == 1 else [n for n in names if len(shape_of(n)) == 2]

    return VectorFile(names, candidates, lambda name: [load(name)], load, mapped=True)


def open_safetensors(path: Path, _label: str | None = None) -> VectorFile:
    """Arrays of a safetensors file."""
    file = open_tensors(path)
    types = {name: entry["dtype"] for name, entry in file.tensors.items()}

    def load(name: str) -> list[NDArray[Any]]:
        if types[name] not in (*FLOATS, *BYTES):
            raise ValueError(
                f"{name!r} in {path} is {types[name]}; one of {', '.join((*FLOATS, *BYTES))} is "
                "needed"
            )
        return [file.map(name)]

    def candidates() -> list[str]:
        matrices = [name for name, entry in file.tensors.items() if len(entry["shape"]) == 2]
        floats = [name for name in matrices if types[name] in FLOATS]
        return floats or [name for name in matrices if types[name] in BYTES]

    return VectorFile(
        list(types), candidates, load, file.map, mapped=True, bfloat16="BF16" in types.values()
    )
