"""Items as bytes, for the digests by which a store notices changed data.

Equal items give equal bytes in any process; different items of one type give different bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

ORIENTATION = 0x0112  # of EXIF: which way up an image is


def content_of(item: Any) -> bytes:
    """All of an item's content as bytes.

    Args:
        item: Text, image, array, tensor, sound, number, bytes, or a dict or list of such.

    Raises:
        TypeError: If it is, or contains, anything else.
        ValueError: If it is an image whose file cannot be read.
    """
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    return b"".join(_pieces(item))


def _pieces(item: Any) -> Iterator[bytes]:
    """Type, length and bytes of an item, then those of its parts."""
    if isinstance(item, np.ndarray | np.generic):
        array = np.asarray(item)
        if array.dtype.hasobject:  # its bytes are addresses
            yield from _pieces(array.tolist())
        else:
            yield from _piece(f"array {array.dtype.str} {array.shape}", array.tobytes())
    elif item is None or isinstance(item, bool | int | float):
        yield from _piece("plain", repr(item).encode())
    elif isinstance(item, str | PurePath):
        yield from _piece("text", str(item).encode("utf-8", "surrogatepass"))
    elif isinstance(item, bytes | bytearray | memoryview):
        yield from _piece("bytes", bytes(item))
    elif isinstance(item, Mapping):
        yield from _piece("dict", len(item).to_bytes(8, "little"))
        for key in sorted(item, key=str):
            yield from _pieces(key)
            yield from _pieces(item[key])
    elif isinstance(item, list | tuple):
        yield from _piece("list", len(item).to_bytes(8, "little"))
        for part in item:
            yield from _pieces(part)
    else:
        yield from _pieces_of_media(item)


def _piece(name: str, content: bytes) -> Iterator[bytes]:
    yield f"{name} {len(content)} ".encode()
    yield content


def _pieces_of_media(item: Any) -> Iterator[bytes]:
    """Tensors of torch, images of PIL, decoders of torchcodec, and objects with ``tobytes``."""
    if hasattr(item, "detach"):
        yield from _pieces_of_tensor(item)
    elif hasattr(item, "getbands"):
        shown = (item.mode, item.size, item.getpalette(), item.getexif().get(ORIENTATION))
        yield from _piece(f"image {shown}", item.tobytes())
    elif hasattr(item, "get_all_samples"):
        samples = item.get_all_samples()
        yield from _piece("sound", repr(samples.sample_rate).encode())
        yield from _pieces_of_tensor(samples.data)
    elif hasattr(item, "tobytes"):
        yield from _piece(type(item).__qualname__, item.tobytes())
    else:
        raise TypeError(
            f"{item!r:.60} ({type(item).__name__}) has no content that csr_st can compare later; "
            "pass text, images, arrays or tensors, or dicts or lists of them"
        )


def _pieces_of_tensor(tensor: Any) -> Iterator[bytes]:
    import torch

    dense = tensor.detach().cpu()
    if dense.layout != torch.strided:
        dense = dense.to_dense()
    flat = dense.contiguous().reshape(-1).view(torch.uint8)  # numpy has no bfloat16
    yield from _piece(f"tensor {dense.dtype} {tuple(dense.shape)}", flat.numpy().tobytes())
