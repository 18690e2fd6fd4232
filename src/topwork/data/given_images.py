"""A list of images from a Python program: what it may be, and words for what it may not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from topwork.core.errors import DatasetError
from topwork.data.remote.urls import is_url
from topwork.data.sources import as_source, is_one_image
from topwork.images.decode import Source


def take_images(given: Any) -> tuple[Source, ...]:
    """Returns images as they are read later.

    Args:
        given: N of what `as_source` takes, or of open files, whose bytes are read now; or a frame
            or an array (N, 1) with a column of such.

    Raises:
        DatasetError: none, a single one, or something that is no image.
        SettingsError: an array of another shape or dtype.
    """
    if is_one_image(given):
        raise DatasetError(f"a list of images is needed, received one: {given!r:.80}")
    images = tuple(_take(number, image) for number, image in enumerate(_find_column(given)))
    if not images:
        raise DatasetError("at least one image is needed, received none")
    return images


def _find_column(given: Any) -> Any:
    """Returns the only column of a frame or an array; all else as it is."""
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        names = [str(name) for name in given.columns]
        if len(names) != 1:
            raise DatasetError(
                f"images must be a list or one column, received a frame with {len(names)} columns: "
                f"{', '.join(names[:10])}; give one of them, as in frame['path']"
            )
        return given.to_numpy()[:, 0]
    if isinstance(given, np.ndarray) and given.dtype.kind in "UTO" and given.ndim == 2:
        if given.shape[1] != 1:
            raise DatasetError(f"images must be a list (N,), received an array {given.shape}")
        return given[:, 0]
    return given


def is_missing(image: Any) -> bool:
    """Whether there is None or NaN in an image's place."""
    return image is None or (isinstance(image, float) and math.isnan(image))


def _take(number: int, image: Any) -> Source:
    if is_missing(image):
        raise DatasetError(f"image {number} is {image}; leave it out, and its label if it has one")
    if isinstance(image, str) and is_url(image):
        raise DatasetError(
            f"image {number} is a URL, {image!r:.200}; download it first, or give Dataset.open a "
            "table of URLs"
        )
    if hasattr(image, "getvalue"):
        return as_source(image.getvalue())
    if callable(getattr(image, "read", None)):
        return as_source(image.read())
    return as_source(image)
