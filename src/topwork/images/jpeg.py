"""JPEGs decoded straight into an array and resized by OpenCV, in half of Pillow's time.

Used where the packages simplejpeg and opencv-python-headless are installed, the extra `fast`.
Pillow decodes with the same library, libjpeg-turbo, to the same pixels. Where OpenCV samples
between four of them it rounds in another way: no value differs by more than 1 level in 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topwork.core.runtime import import_jpeg_packages
from topwork.images.repair import find_exif

Pixels = NDArray[np.uint8]

# First bytes of a JPEG.
_START = b"\xff\xd8\xff"


def read_plain(data: bytes, least_px: int) -> Pixels | None:
    """Decodes a JPEG of three colors and without EXIF; faster than `read_jpeg`, without Pillow.

    Args:
        data: its bytes.
        least_px: both sides keep at least this many pixels when the image is shrunk while it
            is decoded, as by Pillow's `draft`.

    Returns:
        (H, W, 3) uint8 RGB; None if it must be decoded in another way, also if both sides would
        still be twice as long as needed.
    """
    packages = import_jpeg_packages()
    if packages is None or not data.startswith(_START) or find_exif(data) >= 0:
        return None
    try:
        height, width, colors, _ = packages[0].decode_jpeg_header(data)
    except ValueError:
        return None
    if colors != "YCbCr" or width * height > (Image.MAX_IMAGE_PIXELS or 0):
        return None
    times = min(width // least_px, height // least_px)
    shrink = next(scale for scale in (8, 4, 2, 1) if times >= scale or scale == 1)
    width, height = -(-width // shrink), -(-height // shrink)
    if min(width, height) >= 2 * least_px:
        return None
    return _decode(packages[0], data, width, height)


def read_jpeg(data: bytes, image: Image.Image) -> Pixels | None:
    """Decodes a JPEG of three colors.

    Args:
        data: its bytes.
        image: as Pillow opened it, perhaps drafted to be shrunk, and not loaded yet.

    Returns:
        (H, W, 3) uint8 RGB, as it lies in the file; None if Pillow must decode it: packages are
        missing, or the image has other colors or is damaged.
    """
    packages = import_jpeg_packages()
    if packages is None or image.mode != "RGB" or image.format != "JPEG":
        return None
    return _decode(packages[0], data, *image.size)


def _decode(simplejpeg: Any, data: bytes, width: int, height: int) -> Pixels | None:
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None


def sample(pixels: Pixels, size_px: int) -> Pixels:
    """Resizes a picture to a square, bilinear between four pixels.

    Args:
        pixels: (H, W, 3) uint8.
        size_px: S, the side of the square.

    Returns:
        (S, S, 3) uint8.
    """
    _, cv2 = import_jpeg_packages()
    size = (size_px, size_px)
    found = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(found, np.uint8)
