"""From an encoded image to pixels, measured by its header before any of it is decoded."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.decode import decode, find_formats
from topwork.images.orientation import read_orientation, upright_size
from topwork.images.repair import retry_repaired
from topwork.images.tiff import refuse_channels
from topwork.serve.http_errors import UploadError
from topwork.serve.limits import Limits
from topwork.serve.uploads import Upload

Pixels = NDArray[np.uint8]

# A progressive JPEG has about ten. Each costs as much as a picture, and may be a few bytes long.
JPEG_SCANS = 100
_SCAN = b"\xff\xda"
# What a PNG may name its orientation in; it may come after the pixels.
_PNG_MARKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type exif")


@dataclass(frozen=True)
class DecodedImage:
    """An image as the networks take it.

    Attributes:
        width: of the picture, upright.
        height: of the picture, upright.
        pixels: (S, S, 3) uint8 for each size S.
    """

    width: int
    height: int
    pixels: dict[int, Pixels]


def decode_upload(
    upload: Upload,
    sizes: Iterable[int],
    interpolation: Interpolation,
    limits: Limits,
    ranges: str = "",
) -> DecodedImage:
    """Decodes an image.

    Args:
        upload: as it was sent.
        sizes: sides S of the squares that the networks take.
        interpolation: filter of the resize.
        limits: how large it may be.
        ranges: as for `images.decode.decode`.

    Raises:
        UploadError: with the status and the reason.
    """
    if upload.too_large:
        raise UploadError(
            413, f"an image may have {limits.image_bytes:,} bytes; send a smaller one"
        )
    data = bytes(upload.data)
    if not data:
        raise UploadError(422, "the file is empty (0 bytes)")
    width, height = retry_repaired(lambda data: _measure(data, limits), data)
    try:
        pixels = {size: decode(data, size, interpolation, ranges=ranges) for size in sizes}
        return DecodedImage(width, height, pixels)
    except ImageError as error:
        raise UploadError(422, str(error)) from None


def _measure(data: bytes, limits: Limits) -> tuple[int, int]:
    """Returns width and height of an image, upright."""
    try:
        refuse_channels(data)
        formats = find_formats(data)
    except ImageError as error:
        raise UploadError(415, str(error)) from None
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            width, height = image.size
            if width * height > limits.image_pixels:
                raise _too_many_pixels(f"{width} x {height}", limits)
            if image.format == "JPEG" and data.count(_SCAN) > JPEG_SCANS:
                raise UploadError(422, f"a JPEG may have {JPEG_SCANS} scans, and it has more")
            if image.format == "PNG" and not any(mark in data for mark in _PNG_MARKS):
                return width, height  # to ask for its EXIF would decode it
            return upright_size(image, read_orientation(image))
    except UploadError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("more", limits) from None
    except UnidentifiedImageError:
        raise _unknown(data) from None
    except Exception as error:
        # Pillow's plugins raise whatever a damaged file leads them to.
        raise UploadError(422, f"damaged or cut off ({error})") from None


def _too_many_pixels(received: str, limits: Limits) -> UploadError:
    return UploadError(
        413, f"an image may have {limits.image_pixels:,} pixels, and it has {received}"
    )


def _unknown(data: bytes) -> UploadError:
    """Says why an image was not recognised, in the words of `images`."""
    known = data[:3] == b"\xff\xd8\xff" or data[4:8] == b"ftyp"
    try:
        decode(data, 1, Interpolation.NEAREST)
    except ImageError as error:
        return UploadError(422 if known else 415, str(error))
    return UploadError(422, "damaged or cut off")
