"""Encoded images whose pixels are whole, though something beside them is not.

Metadata (color profiles, texts, EXIF, thumbnails) never costs a picture: a PNG, JPEG or WebP that
cannot be read is read again without what is not needed for its pixels. A JPEG that lacks nothing
but the mark at its end is given one; a file that lacks some of its pixels is damaged.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image

from topwork.core.arrays import Pixels
from topwork.core.errors import ImageError

Result = TypeVar("Result")

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# What decides the pixels of a PNG's first frame. Source: PNG 1.2, 11.2 and 11.3.2.
_PNG_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# What may say which way up it is: plain XMP.
_XMP, _XMP_BYTES = b"XML:com.adobe.xmp\0\0", 1 << 20
_WEBP_NEEDED = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
# Markers of a JPEG. Source: ITU T.81, table B.1; APP14 says how colors are stored.
_APP0, _APP1, _APP14, _APP15, _SCAN, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xDA, 0xFE
_END = b"\xff\xd9"
_ADOBE_BYTES = 12
_EXIF = b"Exif\0\0"


def retry_repaired(decode: Callable[[bytes], Result], data: bytes) -> Result:
    """Decodes an image, and again without what is broken beside its pixels if that fails.

    Args:
        decode: raises an `ImageError` for what it cannot decode.
        data: an encoded image.

    Raises:
        ImageError: that of the image as it is.
    """
    try:
        return decode(data)
    except ImageError:
        for repaired in _repair(data):
            with contextlib.suppress(ImageError):
                return decode(repaired)
        raise


def find_exif(data: bytes) -> int:
    """Returns where the EXIF of a JPEG begins, however much lies before it; -1 for none."""
    return next(
        (
            start
            for marker, start, _ in _jpeg_segments(data)
            if marker == _APP1 and data.startswith(_EXIF, start + 4)
        ),
        -1,
    )


def _repair(data: bytes) -> Iterator[bytes]:
    """Yields a file without its metadata, and with the mark at its end, if that changes it."""
    strip = None
    if data.startswith(_PNG):
        strip = _strip_png
    elif data.startswith(_JPEG):
        strip = _strip_jpeg
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        strip = _strip_webp
    if strip is None:
        return
    bare = strip(data)
    if bare != data:
        yield bare
    if strip is _strip_jpeg:
        ended = _end_jpeg(bare)
        if ended is not None:
            # With its metadata, if only the end was missing.
            yield data[: len(data) - (data[-1:] == b"\xff")] + _END
            yield ended


def _strip_png(data: bytes) -> bytes:
    kept, start = [data[:8]], 8
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        content = data[start + 8 : end - 4]
        turns = (name == b"eXIf" and _is_exif(content)) or (
            name == b"iTXt" and content.startswith(_XMP) and length < _XMP_BYTES
        )
        if name in _PNG_NEEDED or turns:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _is_exif(content: bytes) -> bool:
    try:
        Image.Exif().load(content)
    except Exception:
        # Pillow raises whatever rubbish leads it to.
        return False
    return True


def _strip_webp(data: bytes) -> bytes:
    kept, start = [], 12
    while start + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, start)
        end = start + 8 + length + length % 2
        turns = name == b"EXIF" and _is_exif(data[start + 8 : end])
        if name in _WEBP_NEEDED or turns:
            kept.append(data[start:end])
        start = end
    content = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and end of each segment before the first scan, and of all from there."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # a byte that fills
            start += 1
            continue
        if marker == _SCAN:
            yield marker, start, len(data)
            return
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, end
        start = end


def _strip_jpeg(data: bytes) -> bytes:
    kept = [data[:2]]
    for marker, start, end in _jpeg_segments(data):
        is_metadata = _APP0 <= marker <= _APP15 or marker == _COMMENT
        is_adobe = marker == _APP14 and end - start >= 4 + _ADOBE_BYTES
        is_exif = marker == _APP1 and data.startswith(_EXIF, start + 4)
        if not is_metadata or is_adobe or (is_exif and _is_exif(data[start + 4 : end])):
            kept.append(data[start:end])
    return b"".join(kept)


def _end_jpeg(data: bytes) -> bytes | None:
    """Returns a JPEG with the mark at its end, if that is all that it lacks; else None.

    A decoder fills what is missing of the pixels by what comes next: whether something is
    missing shows if two endings give two pictures.
    """
    if data.endswith(_END) or not any(marker == _SCAN for marker, _, _ in _jpeg_segments(data)):
        return None
    whole = data[: len(data) - (data[-1:] == b"\xff")]
    endings = [whole + rest + _END for rest in (b"", b"\x55" * 64, b"\xaa" * 64)]
    pictures = [_decode_whole(ending) for ending in endings]
    first = pictures[0]
    if first is None or not all(
        other is not None and np.array_equal(first, other) for other in pictures[1:]
    ):
        return None
    return endings[0]


def _decode_whole(data: bytes) -> Pixels | None:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image)
    except Exception:
        return None
