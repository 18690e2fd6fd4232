"""Images that are to be run, each with what it takes to read it anywhere, and their pixels."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.augment import ORIGINAL
from topwork.images.decode import Source, decode, image_hash, read_bytes
from topwork.vectors.store import FLIP, Space

Pixels = NDArray[np.uint8]


class Errand(NamedTuple):
    """An image that is to be run.

    Attributes:
        place: its place in the dataset.
        sha256: of its bytes, hex.
        source: where they are.
    """

    place: int
    sha256: str
    source: Source


# The place of an image, and why it has no vector; None if it has one.
Outcome = tuple[int, ImageError | None]


class GoneError(ImageError):
    """A file is not what it was a moment ago, or not there; an equal one may be."""


def load(space: Space, errand: Errand) -> tuple[Errand, Pixels | ImageError]:
    """Returns the pixels (S, S, 3) of an image that is still what it was, or why there are none.

    Args:
        space: what its vector is to be.
        errand: the image.
    """
    try:
        data = read_bytes(errand.source)
        if image_hash(data) != errand.sha256:
            raise ImageError("the file changed while it was being read")
    except ImageError as error:
        return errand, GoneError(str(error))
    view = ORIGINAL if space.view == FLIP else space.view
    try:
        return errand, decode(data, space.image_size, Interpolation(space.interpolation), view)
    except ImageError as error:
        return errand, error


def can_travel(sources: Sequence[Source]) -> bool:
    """Whether images can be read in another process, judged by the first."""
    try:
        pickle.dumps(sources[:1])
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True
