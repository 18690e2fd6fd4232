"""Images to run through a network, each with what it takes to read it in any process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import NamedTuple

from topwork.core.arrays import Pixels
from topwork.core.config import Interpolation
from topwork.core.errors import ImageError
from topwork.images.augment import ORIGINAL
from topwork.images.decode import Source, decode
from topwork.images.verify import read_unchanged
from topwork.vectors.space import FLIP, Space

NOT_FINITE = "the base answers it with NaN or infinity"


class ImageTask(NamedTuple):
    """An image to run through a network.

    Attributes:
        image_index: of the image in the dataset.
        sha256: of its bytes, hex.
        source: where its bytes are.
    """

    image_index: int
    sha256: str
    source: Source


# The index of an image, and why it has no vector; None if it has one.
Outcome = tuple[int, ImageError | None]


class ChangedError(ImageError):
    """A file changed or went away; another file may still have the content that it had."""


def load(space: Space, task: ImageTask) -> tuple[ImageTask, Pixels | ImageError]:
    """Reads and decodes an image, if its bytes are still the same.

    Args:
        space: what its vector is to be; decides size, interpolation, view and ranges.
        task: the image.

    Returns:
        The task with the pixels (S, S, 3), uint8, or with the reason why there are none.
    """
    try:
        data = read_unchanged(task.source, task.sha256)
    except ImageError as error:
        return task, ChangedError(str(error))
    # The mirror image is made from the pixels, by the engine.
    view = ORIGINAL if space.view == FLIP else space.view
    try:
        filter_ = Interpolation(space.interpolation)
        return task, decode(data, space.image_size, filter_, view, space.ranges)
    except ImageError as error:
        return task, error


def can_pickle(sources: Sequence[Source]) -> bool:
    """Whether images can be read in another process, judged by the first."""
    try:
        pickle.dumps(sources[:1])
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True
