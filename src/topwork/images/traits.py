"""What a dataset should know of an encoded image before its pixels are made, told by its header."""

from __future__ import annotations

import io
import re
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topwork.core.errors import ImageError
from topwork.core.ranges import Kind
from topwork.images.decode import Source, find_formats, read_bytes
from topwork.images.depth import find_kind, read_values
from topwork.images.repair import retry_repaired
from topwork.images.tiff import refuse_channels
from topwork.images.transparency import choose_paper

# Formats that have 8 bits a channel and no transparency; and one that says it at once.
_PLAIN = (b"\xff\xd8\xff", b"BM")
_PNG = b"\x89PNG\r\n\x1a\n"


# So many bytes of a file tell whether it is an image.
FIRST_BYTES = 32
_STARTS = (
    b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
)  # fmt: skip
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# A portable map of numbers or bits: its kind and white space.
_MAP = re.compile(rb"P[1-6Ff][ \t\r\n#]")


class Trait(IntFlag):
    """What is not said by every image."""

    NONE = 0
    DEEP = 1  # more than 8 bits a channel, and no word of which values are black and white
    CLEAR = 2  # it may be transparent somewhere


def looks_like_image(start: bytes) -> bool:
    """Whether a file is of a format that can be decoded.

    Args:
        start: its first `FIRST_BYTES`.
    """
    if start.startswith(b"BM"):
        return start[6:10] == bytes(4)  # reserved, and no text
    return (
        start.startswith(_STARTS)
        or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)
        or _MAP.match(start) is not None
    )


def find_traits(data: bytes) -> Trait:
    """Returns what is special about an encoded image; nothing if it cannot be read."""
    if data.startswith(_PLAIN):
        return Trait.NONE
    if data.startswith(_PNG):
        # Depth and color type. Source: PNG 1.2, 11.2.2 and 11.3.2.
        depth, color = data[24:25], data[25:26]
        clear = color in (b"\4", b"\6") or data.find(b"tRNS", 0, data.find(b"IDAT")) >= 0
        return (Trait.DEEP if depth == b"\x10" else Trait.NONE) | (
            Trait.CLEAR if clear else Trait.NONE
        )
    try:
        refuse_channels(data)
        with Image.open(io.BytesIO(data), formats=find_formats(data)) as image:
            deep, clear = find_kind(image) is not None, image.has_transparency_data
    except Exception:
        # Pillow raises whatever a damaged file leads it to.
        return Trait.NONE
    return (Trait.DEEP if deep else Trait.NONE) | (Trait.CLEAR if clear else Trait.NONE)


def find_values(source: Source, most: int) -> tuple[Kind, NDArray[np.float64]] | None:
    """Returns values of an image of more than 8 bits a channel, at most so many and its ends.

    Raises:
        ImageError: it cannot be read.
    """
    data = read_bytes(source)

    def read(data: bytes) -> tuple[Kind, NDArray[np.float64]] | None:
        try:
            found = read_values(data, find_formats(data))
        except Exception as error:
            raise ImageError(str(error)) from None
        if found is None:
            return None
        kind, values = found
        values = values[np.isfinite(values)].astype(np.float64)
        if len(values) > most:
            ends = values.min(), values.max()
            values = np.append(values[:: -(-len(values) // most)], ends)
        return kind, values

    return retry_repaired(read, data)


def find_paper(source: Source) -> str | None:
    """Returns the paper that shows an image, see `choose_paper`; `white` if nothing is transparent.

    Raises:
        ImageError: it cannot be read.
    """
    data = read_bytes(source)

    def read(data: bytes) -> str | None:
        try:
            with Image.open(io.BytesIO(data), formats=find_formats(data)) as image:
                image.load()
                return choose_paper(image) if image.has_transparency_data else "white"
        except Exception as error:
            raise ImageError(str(error)) from None

    return retry_repaired(read, data)
