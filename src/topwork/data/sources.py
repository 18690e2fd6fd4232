"""Images that are given one by one, as paths, bytes, arrays or Pillow's own, to sources."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from topwork.images.decode import Source, encode_array
from topwork.images.encode import encode_image


def as_source(image: Any) -> Source:
    """Returns an image as a path or as encoded bytes.

    Args:
        image: a path (`str` or `Path`), encoded bytes, an image of Pillow, which is read as its
            file would be, or an array (H, W) or (H, W, 3) of gray or RGB, uint8 in 0..255.

    Raises:
        SettingsError: an array of another shape or dtype, or an image that cannot be read.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, Image.Image):
        return encode_image(image)
    return encode_array(np.asarray(image))


def is_one_image(images: Any) -> bool:
    """Whether what should be several images is a single one, or cannot be iterated over."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    # Iterating over (H, W, 3) would give H arrays (W, 3), which would pass for gray images.
    color = isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (3, 4)
    return color or not isinstance(images, Iterable)
