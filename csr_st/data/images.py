"""Images of data sets: decoded as RGB when a batch needs the pixels, errors with their row."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Features
    from PIL.Image import Image

BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error)  # what decoders raise


@dataclass(frozen=True)
class EncodedImage:
    """An image that is not decoded yet.

    Attributes:
        content: The file's bytes, or None to read ``path``.
        path: The file, or its name when there is ``content``.
        place: Row of the data set.
        column: Column of the data set.
    """

    content: bytes | None
    path: str | None
    place: int
    column: str

    @classmethod
    def of(cls, entry: dict[str, Any], place: int, column: str) -> EncodedImage:
        """From an entry of an undecoded image column."""
        return cls(entry.get("bytes"), entry.get("path"), place, column)

    def tobytes(self) -> bytes:
        """The file's bytes."""
        if self.content is not None:
            return self.content
        try:
            return Path(self.path or "").read_bytes()
        except OSError as error:
            raise ValueError(self._complaint(error)) from error

    def decode(self) -> Image:
        """The pixels, as RGB.

        Raises:
            ValueError: If the file is missing, corrupt or not an image, naming its row.
        """
        from PIL import Image

        content = self.tobytes()
        try:
            with Image.open(io.BytesIO(content)) as opened:
                return as_rgb(opened)
        except (*BROKEN, Image.DecompressionBombError) as error:
            raise ValueError(self._complaint(error)) from error

    def _complaint(self, error: Exception) -> str:
        name = f" ({self.path})" if self.path else ""
        return (
            f"entry {self.place} of column {self.column!r}{name} is not a readable image: {error}; "
            "fix or drop it, or leave such rows out (--skip-bad, csr_st.data.without_bad)"
        )


def as_rgb(image: Image) -> Image:
    """An image of any mode (one channel, CMYK, palette, 16 bit, with alpha) as upright RGB."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # convert would clip values above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def is_picture(item: Any) -> bool:
    """Whether an item is an image, decoded or not."""
    return isinstance(item, EncodedImage) or hasattr(item, "getbands")


def decoded(items: Sequence[Any]) -> list[Any]:
    """The items as a model takes them: images as RGB, other items unchanged.

    Raises:
        ValueError: If an image cannot be decoded.
    """
    return [
        item.decode()
        if isinstance(item, EncodedImage)
        else (as_rgb(item) if is_picture(item) else item)
        for item in items
    ]


def image_columns(features: Features | None) -> list[str]:
    """Columns of images."""
    return [name for name, type_ in (features or {}).items() if type(type_).__name__ == "Image"]


def undecoded(data: Any) -> Any:
    """The same data set of `datasets`, its image columns as bytes of files, not pixels."""
    import datasets

    for name in image_columns(data.features):
        data = data.cast_column(name, datasets.Image(decode=False))
    return data
