"""Files of the inverted indexes of large segments, which a search maps instead of building them.

They hold nothing that the documents do not say: without such a file, the first search builds them.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csr_st._io.files import refuse_newer_format
from csr_st._io.tensor_files import TensorFile, digest, open_tensors, write_tensors
from csr_st.search.documents import Documents
from csr_st.search.large_postings import LARGE, LargePostings
from csr_st.search.pruned_postings import PrunedPostings

_FORMAT = "csr_st.postings"
_VERSION = 1
_SOME = 1000
_NUMBERS = ("k", "scale")
_ARRAYS = tuple(
    field.name for field in fields(PrunedPostings) if field.name not in ("documents", *_NUMBERS)
)


def write_large(path: Path, documents: Documents, threads: int) -> None:
    """Build the inverted index of a large segment and write it; of others write nothing."""
    if len(documents) < LARGE or not documents.k:
        return
    large = LargePostings.build(documents, documents.k, threads)
    if large is None:
        return
    arrays = {name: getattr(large.head, name) for name in _ARRAYS}
    about = {name: repr(getattr(large.head, name)) for name in _NUMBERS}
    about |= {"format": _FORMAT, "version": str(_VERSION), "n": str(len(documents))}
    about["documents"] = _identity(documents)
    about["checksum"] = digest(*(arrays[name] for name in _ARRAYS))
    write_tensors(path, arrays, about)


def read_large(path: Path, documents: Documents, verify: bool) -> LargePostings | None:
    """The inverted index of documents, mapped; None without a file.

    Raises:
        ValueError: If the file is damaged, or of other documents.
    """
    if not path.exists():
        return None
    file = open_tensors(path)
    about = file.metadata
    expected = _FORMAT, str(len(documents)), _identity(documents)
    if tuple(map(about.get, ("format", "n", "documents"))) != expected:
        raise ValueError(f"{path} is damaged or of another segment; delete it")
    version = about.get("version", "")
    refuse_newer_format(path, int(version) if version.isdecimal() else version, _VERSION)
    try:
        # Copied on write rather than read-only: a read-only array is another type to numba.
        arrays = {name: _aligned(file, name) for name in _ARRAYS}
        if verify:
            found = digest(*(arrays[name] for name in _ARRAYS))
            if found != about["checksum"]:
                raise ValueError(f"its checksum is {found}, not {about['checksum']}")
        numbers: dict[str, Any] = {"k": int(about["k"]), "scale": float(about["scale"])}
        _check(arrays, documents)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged: {error}; delete it, and the next search builds it in memory"
        ) from error
    of_head: dict[str, Any] = {**numbers, **arrays}
    head = PrunedPostings(documents, **of_head)
    return LargePostings(documents, numbers["k"], head)


def _identity(documents: Documents) -> str:
    """A checksum of some documents, by which those of other segments are told apart."""
    return digest(documents.latents[:_SOME], documents.low[:_SOME], documents.norms[:_SOME])


def _aligned(file: TensorFile, name: str) -> NDArray[Any]:
    return np.require(file.map(name, "c"), requirements="A")


def _check(arrays: dict[str, NDArray[Any]], documents: Documents) -> None:
    """Check the sizes of arrays, of which one gives the length of the next."""
    sizes = {
        "order": (len(documents),),
        "largest": (documents.hidden_dim,),
        "entry_latents": (int(arrays["offsets"][-1, 0]),),
        "postings": (int(arrays["offsets"][-1, 1]),),
        "numbers": (int(arrays["starts"][-1, -1]),),
        "tops": arrays["numbers"].shape,
        "dense_rows": (documents.hidden_dim, arrays["starts"].shape[1] - 1),
    }
    for name, shape in sizes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
