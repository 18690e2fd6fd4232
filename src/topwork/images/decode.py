"""From bytes to pixels, in one way for training, prediction and every check.

The format is told by the content, the first frame is taken, the EXIF orientation applied, more
than 8 bits are scaled to 8 (see `depth`), transparent pixels put on paper (see `transparency`),
colors converted to RGB, and the whole image, or the part that an augmented view takes of it, is
stretched to a square. An image that cannot be decoded completely raises an `ImageError`;
metadata that cannot be read is passed over (see `repair`).

HEIC is read where the package pillow-heif is installed, the extra `heic`.
"""

from __future__ import annotations

import hashlib
import io
import math
import stat
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat, UnidentifiedImageError

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError, SettingsError
from topwork.core.ranges import Ranges, parse_ranges
from topwork.images.augment import ORIGINAL, View, draw, view_number
from topwork.images.depth import find_kind, is_gray, scale_colors, scale_gray
from topwork.images.jpeg import read_jpeg, read_plain, sample
from topwork.images.orientation import read_orientation, turn_upright
from topwork.images.repair import retry_repaired
from topwork.images.tiff import describe_tiff, refuse_channels
from topwork.images.transparency import lay_on_paper

Pixels = NDArray[np.uint8]


class Readable(Protocol):
    """An image that lies in an archive, a table or on another machine."""

    def read(self) -> bytes:
        """Returns its encoded bytes.

        Raises:
            ImageError: with the reason.
        """


Source = Path | bytes | Readable

# Part of every vector's key, to be raised when the same bytes would give other pixels.
DECODER_VERSION = "2"

SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif", ".tif",
        ".tiff", ".ppm", ".pgm", ".pnm", ".pbm", ".pfm", ".heic", ".heif", ".hif", ".mpo", ".jps",
        ".pjpeg", ".pjp", ".apng", ".dib",
    )
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM")
# Only for bytes that are HEIC: the package registers this format with Pillow.
_HEIF = "HEIF"
# Brands of files that hold HEVC, and of those that hold AV1. Source: ISO/IEC 23008-12, annex B;
# AV1 Image File Format, section 6.
_HEVC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AV1_BRANDS = frozenset((b"avif", b"avis"))

_FILTERS = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}
# A view samples between four pixels. That is closest to one resize by the filter, and as sharp,
# if the picture has this many times the pixels of the result along each side.
_MARGIN = 1.5
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")


def read_bytes(source: Source) -> bytes:
    """Returns the encoded bytes of an image.

    Raises:
        ImageError: the file is missing, unreadable or empty.
    """
    if isinstance(source, bytes):
        data = source
    elif not isinstance(source, Path):
        data = source.read()
    else:
        try:
            kind = source.stat().st_mode
            # To read a pipe may wait for ever, and a device may have no end.
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise ImageError("it is a pipe or device, not a file")
            data = source.read_bytes()
        except FileNotFoundError:
            raise ImageError("there is no such file") from None
        except PermissionError:
            raise ImageError("no permission to read it") from None
        except IsADirectoryError:
            raise ImageError("it is a folder") from None
        except MemoryError:
            raise ImageError("too large for this machine's memory") from None
        except (OSError, ValueError) as error:
            raise ImageError(
                f"cannot be read: {getattr(error, 'strerror', None) or error}"
            ) from None
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    return data


def image_hash(data: bytes) -> str:
    """Returns the SHA-256 of an image's bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def decode(
    data: bytes,
    size_px: int,
    interpolation: Interpolation,
    view: str = ORIGINAL,
    ranges: str = "",
) -> Pixels:
    """Decodes an image and stretches it, or what a view takes from it, to a square.

    Nearest gives the pixels of `keras.utils.load_img(..., target_size)`; for the other filters
    a large JPEG is shrunk while it is decoded.

    Args:
        data: an encoded image.
        size_px: S, the side of the square.
        interpolation: filter of the resize.
        view: name of the view; see `view_name`.
        ranges: which values are black and white in a picture of more than 8 bits, see
            `core.ranges`; where it says nothing, each file's own values decide.

    Returns:
        (S, S, 3) uint8 RGB, C-contiguous.

    Raises:
        ImageError: with the reason.
        SettingsError: there is no such view.
    """
    number = view_number(view)
    drawn = draw(image_hash(data), number) if number else None
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if drawn is None and interpolation is Interpolation.SAMPLED:
        plain = read_plain(data, 2 * size_px)
        if plain is not None:
            return sample(plain, size_px)

    def decode_once(data: bytes) -> Pixels:
        return _decode(data, size_px, interpolation, drawn, parse_ranges(ranges))

    return retry_repaired(decode_once, data)


def _decode(
    data: bytes, size_px: int, interpolation: Interpolation, drawn: View | None, ranges: Ranges
) -> Pixels:
    """Decodes an image as it is, and resizes it.

    Raises:
        ImageError: with the reason.
    """
    refuse_channels(data)
    try:
        with Image.open(io.BytesIO(data), formats=find_formats(data)) as image:
            if image.format == "JPEG" and interpolation is not Interpolation.NEAREST:
                least_px = _least_px(size_px, interpolation, drawn)
                image.draft("RGB", (least_px, least_px))
            pixels = _decode_fast(data, image, size_px, interpolation) if drawn is None else None
            if pixels is not None:
                return pixels
            # Inside the `try`: Pillow reads frames, palettes and profiles only now.
            rgb = turn_upright(_to_rgb(image, data, ranges), read_orientation(image))
            if drawn is None:
                return np.asarray(_resize(rgb, size_px, interpolation))
            return np.asarray(_change(rgb, drawn, size_px, interpolation))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"more than the limit of {limit / 1e6:.0f} million pixels") from None
    except UnidentifiedImageError:
        raise ImageError(_describe_unknown(data)) from None
    except MemoryError:
        raise ImageError("too large for this machine's memory") from None
    except Exception as error:
        # Pillow's plugins raise whatever a damaged file leads them to.
        raise ImageError(f"damaged or cut off ({error})") from None


def read_pixels(
    source: Source, size_px: int, interpolation: Interpolation, ranges: str = ""
) -> Pixels:
    """Reads, decodes and resizes one image to (S, S, 3) uint8; arguments as for `decode`.

    Raises:
        ImageError: with the reason.
    """
    return decode(read_bytes(source), size_px, interpolation, ranges=ranges)


def _decode_fast(
    data: bytes, image: Image.Image, size_px: int, interpolation: Interpolation
) -> Pixels | None:
    """Returns the pixels of a plain JPEG, decoded without Pillow; None if it must decode it."""
    # A larger image would have to be halved first, and for the other filters this is no faster.
    if interpolation is not Interpolation.SAMPLED or min(image.size) >= 4 * size_px:
        return None
    pixels = read_jpeg(data, image)
    if pixels is None:
        return None
    upright = turn_upright(Image.fromarray(pixels), read_orientation(image))
    return sample(np.asarray(upright), size_px)


def encode_array(array: NDArray[np.uint8]) -> bytes:
    """Encodes pixels losslessly, so that arrays go the same way as files.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, uint8.

    Raises:
        SettingsError: another shape or dtype.
    """
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or 0 in array.shape:
        raise SettingsError(
            "an image array must be uint8 of shape (height, width), or (height, width, channels) "
            f"with 1, 3 or 4 channels, received {array.dtype} {array.shape}"
        )
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _least_px(size_px: int, interpolation: Interpolation, view: View | None) -> int:
    """Returns the side that a JPEG must keep when it is shrunk while it is decoded."""
    least_px = size_px * (2 if interpolation is Interpolation.SAMPLED else 1)
    # By the shorter side of the cut-out: the picture may be lying on its side still.
    return least_px if view is None else math.ceil(least_px / min(view.width, view.height))


def _resize(rgb: Image.Image, size_px: int, interpolation: Interpolation) -> Image.Image:
    size = (size_px, size_px)
    if interpolation is not Interpolation.SAMPLED:
        return rgb.resize(size, _FILTERS[interpolation])
    rgb = _halve(rgb, min(rgb.size), size_px)
    whole = (0, 0, *rgb.size)
    return rgb.transform(size, Image.Transform.EXTENT, whole, Image.Resampling.BILINEAR)


def _halve(rgb: Image.Image, side_px: int, size_px: int) -> Image.Image:
    """Halves a picture as often as `side_px` stays at least twice `size_px`."""
    times = side_px // (2 * size_px)
    return rgb.reduce(1 << (times.bit_length() - 1)) if times > 1 else rgb


def _change(
    rgb: Image.Image, view: View, size_px: int, interpolation: Interpolation
) -> Image.Image:
    """Makes the pixels of an augmented view.

    Flip, crop, shear and rotation are one affine map, by which the picture is sampled once: at
    the nearest pixels for `nearest`, else between four. A picture of another scale than the
    result is first halved (for `sampled`) or resized by the filter (for the others).
    """
    sampler = Image.Resampling.BILINEAR
    width, height = rgb.size
    if interpolation is Interpolation.NEAREST:
        sampler = Image.Resampling.NEAREST
    elif interpolation is Interpolation.SAMPLED:
        rgb = _halve(rgb, int(min(width * view.width, height * view.height)), size_px)
    else:
        fit = (_near(width, size_px / view.width), _near(height, size_px / view.height))
        rgb = rgb.resize(fit, _FILTERS[interpolation])
    to_picture = view.affine() * np.array(rgb.size)[:, None]
    to_picture[:, :2] /= size_px
    # As PERSPECTIVE, since Pillow rounds the steps of AFFINE, which would then leave the picture.
    coefficients = [*to_picture.ravel().tolist(), 0, 0]
    square = rgb.transform((size_px, size_px), Image.Transform.PERSPECTIVE, coefficients, sampler)
    gray = ImageStat.Stat(square.convert("L")).mean[0]
    return square.convert("RGB", view.colors(gray).ravel().tolist())


def _near(side_px: int, wanted_px: float) -> int:
    fits = wanted_px <= side_px <= _MARGIN * wanted_px
    return side_px if fits else round(_MARGIN * wanted_px)


def find_formats(data: bytes) -> tuple[str, ...]:
    """Returns the formats that the bytes may be of.

    Raises:
        ImageError: HEIC, and the package that reads it is missing.
    """
    if not _is_heic(data):
        return FORMATS
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(
            "HEIC, which needs the package pillow-heif: pip install 'topwork[heic]'"
        ) from None
    # Not if the program that imports Topwork has done so, perhaps with its own options. No lock:
    # two threads that are here at once write the same into Pillow's registry.
    if _HEIF not in Image.OPEN:
        register_heif_opener()
    return (_HEIF,)


def _is_heic(data: bytes) -> bool:
    if data[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, length, 4))}
    return bool(brands & _HEVC_BRANDS) and not brands & _AV1_BRANDS


def _to_rgb(image: Image.Image, data: bytes, ranges: Ranges) -> Image.Image:
    colors = scale_colors(image, data, ranges)
    kind = find_kind(image)
    image.load()
    image = colors or image
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_gray(image):
        return scale_gray(image, kind, ranges).convert("RGB")
    if image.has_transparency_data:
        _scale_transparency(image, data)
        return lay_on_paper(image)
    return image.convert("RGB")


def _scale_transparency(image: Image.Image, data: bytes) -> None:
    """Scales the transparent color of a PNG, which Pillow leaves as it is in the file."""
    transparent = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("L", "RGB") or transparent is None:
        return
    # The header comes first, and its ninth byte is the depth. Source: PNG 1.2, 11.2.2.
    depth = data[24]
    if image.mode == "L":
        image.info["transparency"] = transparent * 255 // ((1 << depth) - 1)
    else:
        image.info["transparency"] = tuple(value >> (depth - 8) for value in transparent)


def _describe_unknown(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith(_MARKUP):
        return "not an image: it starts like a web page"
    if data[:3] == b"\xff\xd8\xff":
        return "a JPEG that is damaged or cut off"
    if _is_heic(data):
        return "a HEIC that is damaged or cut off, or of a kind that is not supported"
    return describe_tiff(data) or "not an image, or of a format that is not supported"
