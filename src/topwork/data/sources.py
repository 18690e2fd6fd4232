"""Images that are given one by one, as paths, encoded bytes or arrays, to sources."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from topwork.images.decode import Source, encode_array


def as_source(image: Any) -> Source:
    """Returns an image as a path or as encoded bytes.

    Args:
        image: a path (`str` or `Path`), encoded bytes, or a uint8 array (H, W) or (H, W, 3).

    Raises:
        SettingsError: an array of another shape or dtype.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image)
    return encode_array(np.asarray(image))


def is_one_image(images: Any) -> bool:
    """Whether what should be several images is a single one, or cannot be iterated over."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    # Iterating over (H, W, 3) would give H arrays (W, 3), which would pass for gray images.
    color = isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] in (3, 4)
    return color or not isinstance(images, Iterable)
