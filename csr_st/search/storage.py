"""The file of an index: named arrays with a SHA-256 checksum in their header.

The file is opened once and mapped once, so that a reader keeps one content while it is replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from csr_st._io.files import atomic_path, refuse_newer_format
from csr_st._io.string_arrays import joined_strings, split_strings
from csr_st._io.tensor_files import (
    DTYPES,
    ArrayShape,
    TensorWriter,
    array_bytes,
    read_header,
    tensor_header,
    write_tensors,
)
from csr_st.decoder import Decoder
from csr_st.model.residual_basis import ResidualBasis
from csr_st.packed_codes import PackedCodes
from csr_st.residual import ResidualBits
from csr_st.search.collection import Collection
from csr_st.search.documents import ARRAYS, Documents, check_similarity
from csr_st.search.stored_words import words_from_arrays, words_to_arrays
from csr_st.search.words import Words

FORMAT = "csr_st.index"
FORMAT_VERSION = 4  # of an index by dot product
WORDS_VERSION = 3  # of an index with words
PACKED_VERSION = 2  # of packed codes, and
PLAIN_VERSION = 1  # of others, which earlier versions read
_MAP = "decoder_map_"  # followed by the k up to which it is used
_READ_BYTES = 2**22
_SMALL = 2**18  # bytes


def write_index(path: Path, collection: Collection, decoder: Decoder | None) -> None:
    """Write a file completely, or leave what was there.

    Args:
        path: The file.
        collection: Documents, none of them removed, and ids.
        decoder: Stored beside them.
    """
    header, arrays = _code_parts(collection.documents)
    header, more = _other_parts(header, collection.ids, collection.words, decoder)
    arrays |= more
    metadata = {key: str(value) for key, value in header.items()}
    layout = tensor_header(arrays, metadata)
    digest = _digest(layout, *(arrays[name] for name in list(layout)[1:]))
    write_tensors(path, arrays, {**metadata, "sha256": digest})


@contextlib.contextmanager
def index_writer(
    path: Path,
    like: Documents,
    ids: NDArray[Any],
    words: Words | None,
    decoder: Decoder | None = None,
) -> Iterator[Callable[[int, Documents], None]]:
    """Write a file of more documents than are in memory, completely, or leave what was there.

    Args:
        path: The file.
        like: Documents with the same settings, any number of them, whose values are not packed.
        ids: Ids of all documents.
        words: Words of all documents, if the index has words.
        decoder: Stored beside them.

    Yields:
        A function that writes documents from a position on; threads may call it at once.
    """
    header, one = _code_parts(like)
    header, whole = _other_parts(header, ids, words, decoder)
    of_rows: dict[str, ArrayShape | NDArray[Any]] = {
        name: ArrayShape(array.dtype, (len(ids), *array.shape[1:])) for name, array in one.items()
    }
    metadata = {key: str(value) for key, value in header.items()}
    layout = tensor_header(of_rows | whole, metadata)
    unknown = {**metadata, "sha256": "0" * 64}
    with (
        atomic_path(path) as part,
        TensorWriter(part, {**layout, "__metadata__": unknown}) as writer,
    ):
        for name, array in whole.items():
            writer.write(name, 0, array)

        def write(first: int, documents: Documents) -> None:
            for name, array in _code_parts(documents)[1].items():
                writer.write(name, first, array)

        yield write
        writer.finish({**metadata, "sha256": _digest(layout, writer.content())})


def _other_parts(
    header: dict[str, Any], ids: NDArray[Any], words: Words | None, decoder: Decoder | None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header with what it says of all but codes, and the arrays of these."""
    arrays: dict[str, NDArray[Any]] = {}
    if words is not None:
        about, arrays = words_to_arrays(words)
        version = max(header["version"], WORDS_VERSION)
        header = {**header, "version": version, "words": json.dumps(about)}
    if ids.dtype == object:
        arrays["id_text"], arrays["id_ends"] = joined_strings(ids)
    elif not np.array_equal(ids, np.arange(len(ids))):
        arrays["ids"] = ids
    if decoder is not None:
        about, of_decoder = decoder_parts(decoder)
        header, arrays = header | about, arrays | of_decoder
    return header, arrays


def _code_parts(documents: Documents) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The entries of the header, and the arrays, that hold codes."""
    header: dict[str, Any] = {"format": FORMAT, "hidden_dim": documents.hidden_dim}
    arrays: dict[str, NDArray[Any]] = {}
    if documents.value_bits is not None:
        header |= {"version": PACKED_VERSION, "n": len(documents), "k": documents.k}
        header["value_bits"] = documents.value_bits
        arrays = {"bits": documents.packed().bits}
    else:
        header["version"] = PLAIN_VERSION
        if documents.hidden_dim:
            arrays = {name: getattr(documents, name) for name in ARRAYS}
    if documents.residual is not None:
        arrays |= documents.residual.arrays()
        header["residual"] = json.dumps(documents.residual.kind)
    if documents.fitted:
        header["fitted"] = True
    if documents.similarity != "cosine":  # by which earlier versions would rank
        header |= {"version": FORMAT_VERSION, "similarity": documents.similarity}
    return header, arrays


def read_index(
    path: Path, verify: bool
) -> tuple[Documents, NDArray[Any], Decoder | None, Words | None]:
    """Map a file into memory.

    Arrays can be written to without changing the file, as pages are copied when written.

    Args:
        path: A file that `write_index` wrote.
        verify: Read the complete file once and compare the checksum.

    Returns:
        Documents, their ids, the decoder, and the words of the documents if it has them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is of another format, newer, cut short or altered.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the file that SparseIndex.save wrote")
    with path.open("rb") as file:
        header = read_header(path, file)
        metadata = dict(header.metadata)
        if metadata.get("format") != FORMAT:
            found = metadata.get("format")
            raise ValueError(f"{path} is not a {FORMAT} file; its format is {found!r}")
        version = str(metadata.get("version"))
        refuse_newer_format(path, int(version) if version.isdecimal() else version, FORMAT_VERSION)
        file.seek(0, os.SEEK_END)
        content = _content(file, file.tell())[header.begin :]
    expected = metadata.pop("sha256", "")
    if verify:
        found = _digest({"__metadata__": metadata, **header.tensors}, content)
        if found != expected:
            raise ValueError(
                f"{path} is altered: its checksum is {found[:12]}, it was written with "
                f"{expected[:12]}; build or copy it again"
            )
    try:
        arrays = {name: _array(content, entry) for name, entry in header.tensors.items()}
        words = _words(arrays, metadata)
        documents = _documents(arrays, metadata, words)
        if verify:
            documents.check_latents()
            if words is not None:
                words.check_ids()
        decoder = stored_decoder(arrays, metadata)
        return documents, _ids(arrays, len(documents)), decoder, words
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is damaged or was not written by SparseIndex.save: {what}"
        ) from error


def _content(file: BinaryIO, size: int) -> NDArray[np.uint8]:
    """A file as bytes: mapped, or read if it is small, as a mapped one stays open."""
    if size < _SMALL:
        file.seek(0)
        return np.fromfile(file, np.uint8)
    # Copy-on-write rather than read-only: a read-only array is another type to numba.
    return np.asarray(np.memmap(file, np.uint8, "c"))


def _digest(header: Mapping[str, Any], *arrays: NDArray[Any]) -> str:
    state = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    for array in arrays:
        data = array_bytes(array)
        for start in range(0, len(data), _READ_BYTES):  # Ctrl-C works between pieces
            state.update(data[start : start + _READ_BYTES])
    return state.hexdigest()


def _array(content: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"an array is {entry['dtype']!r}, not one of {', '.join(DTYPES)}")
    dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, end]
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError(f"an array has the shape {shape} and the place {start}..{end}")
    if end - start != math.prod(shape) * dtype.itemsize or end > len(content):
        raise ValueError(f"an array of shape {shape} is at {start}..{end} of {len(content)} bytes")
    # Another writer may not align: numba would compile for each such array anew.
    return np.require(content[start:end].view(dtype).reshape(shape), requirements="A")


def _words(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Words | None:
    if "words" not in metadata:
        return None
    return words_from_arrays(json.loads(metadata["words"]), arrays)


def _documents(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], words: Words | None
) -> Documents:
    documents = None if words is None else Documents.without_codes(len(words))
    if documents is None or metadata["hidden_dim"] != "0":
        documents = _codes(arrays, metadata)
    if words is not None and len(words) != len(documents):
        raise ValueError(f"there are words of {len(words)} documents and codes of {len(documents)}")
    return documents


def _codes(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> Documents:
    hidden_dim, fitted = int(metadata["hidden_dim"]), metadata.get("fitted") == "True"
    residual = ResidualBits.stored(arrays, json.loads(metadata.get("residual", "null")))
    about: dict[str, Any] = {"residual": residual, "fitted": fitted}
    similarity = check_similarity(metadata.get("similarity", "cosine"))
    if "value_bits" in metadata:
        n, k, value_bits = (int(metadata[name]) for name in ("n", "k", "value_bits"))
        packed = PackedCodes(arrays["bits"], n, k, hidden_dim, value_bits, False, **about)
        return Documents.from_codes(packed, value_bits, similarity)
    stored: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    documents = Documents(**stored, hidden_dim=hidden_dim, similarity=similarity, **about)
    documents.check_arrays()
    return documents


def _ids(arrays: Mapping[str, NDArray[Any]], n: int) -> NDArray[Any]:
    ids = arrays.get("ids", np.arange(n))
    if "id_ends" in arrays:
        ids = np.array(split_strings(arrays["id_text"], arrays["id_ends"], "ids"), dtype=object)
    if ids.shape != (n,) or ids.dtype not in (np.int64, object):
        raise ValueError(f"the ids are {ids.dtype} of shape {ids.shape} for {n} documents")
    return ids


def decoder_parts(decoder: Decoder) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The entries of a header, and the arrays, that hold a decoder."""
    header: dict[str, Any] = {"power": decoder.power}
    arrays = {"decoder_weight": decoder.weight, "decoder_pre_bias": decoder.pre_bias}
    if decoder.encoder_weight is not None and decoder.latent_bias is not None:
        arrays["encoder_weight"] = decoder.encoder_weight
        arrays["latent_bias"] = decoder.latent_bias
    arrays |= {f"{_MAP}{k}": array for k, array in decoder.short_maps.items()}
    if decoder.residual_basis is not None:
        header["residual_basis"] = decoder.residual_basis.name
        arrays |= decoder.residual_basis.arrays()
    return header, arrays


def stored_decoder(
    arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> Decoder | None:
    """The decoder of `decoder_parts`, or None if there is none among the arrays.

    Raises:
        ValueError: If it is not valid.
        KeyError: If something is missing.
    """
    if "decoder_weight" not in arrays:
        return None
    power, basis_name = float(metadata.get("power", 1)), metadata.get("residual_basis")
    maps = {
        int(name.removeprefix(_MAP)): array
        for name, array in arrays.items()
        if name.startswith(_MAP)
    }
    measured = arrays.get("encoder_weight"), arrays.get("latent_bias")
    weight, pre_bias, basis = arrays["decoder_weight"], arrays["decoder_pre_bias"], None
    if basis_name is not None:
        basis = ResidualBasis.stored(arrays, basis_name, len(pre_bias))
    return Decoder(weight, pre_bias, power, maps, *measured, residual_basis=basis)
