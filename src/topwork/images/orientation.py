"""EXIF orientation: how the pixels of an image lie in its file, and what sets them upright.

Source: EXIF 2.32, tag 274.
"""

from __future__ import annotations

from PIL import ExifTags, Image

UPRIGHT = 1
# The transposition that undoes each orientation.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations whose transposition swaps width and height.
_SIDEWAYS = (5, 6, 7, 8)
# Formats whose EXIF Pillow does not put into `info`, or only once the pixels are loaded.
_LATE_EXIF = ("TIFF", "PNG", "WEBP", "AVIF")


def read_orientation(image: Image.Image) -> int:
    """Returns the orientation of an image, 1 to 8; 1 (upright) where none can be read.

    HEIC counts as upright: its decoder turns the pixels, and its EXIF only records that. So does
    TIFF once it is loaded, since Pillow turns it then.

    Args:
        image: as Pillow opened it. A PNG may be loaded by this, since its EXIF may come last.
    """
    if image.format == "HEIF":
        return UPRIGHT
    if not image.info.get("exif") and image.format not in _LATE_EXIF:
        return UPRIGHT
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except MemoryError:
        raise
    except Exception:
        # Pillow raises whatever rubbish leads it to. A PNG that is damaged elsewhere, and loaded
        # by this, is told by its pixels.
        return UPRIGHT
    return orientation if orientation in _TRANSPOSES else UPRIGHT


def turn_upright(pixels: Image.Image, orientation: int) -> Image.Image:
    """Returns an image with its pixels set upright.

    Args:
        pixels: as they lie in the file.
        orientation: from `read_orientation`.
    """
    transpose = _TRANSPOSES.get(orientation)
    return pixels if transpose is None else pixels.transpose(transpose)


def upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Returns width and height in pixels of an image once it is upright.

    Args:
        image: as Pillow opened it, not loaded; the size of a TIFF is that of the upright one.
        orientation: from `read_orientation`.
    """
    width, height = image.size
    sideways = orientation in _SIDEWAYS and image.format != "TIFF"
    return (height, width) if sideways else (width, height)
