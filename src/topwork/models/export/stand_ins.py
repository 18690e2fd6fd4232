"""The images that an export is checked on: the model's own, or what stands in for them.

A file must say what the model says of any image. Where those of validation are gone, others that
the user gave, the small pictures that the model carries, or generated ones show that as well; how
good the file is they do not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from topwork.core import warm_up
from topwork.core.arrays import Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError, ModelError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.images.decode import Source, read_bytes
from topwork.models.checks.images import DecodedImages, decode_sizes, stack_images
from topwork.models.export.images import (
    MOST_CHECKED,
    MOST_FITTED,
    read_checked,
    read_fitted,
    spread,
)
from topwork.models.gallery import load_gallery
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions

GENERATED_IMAGES = 16


class Origin(StrEnum):
    """What an export was checked on."""

    VALIDATION = "validation images of the model"
    DATA = "other images of the data"
    GALLERY = "small pictures that the model carries"
    GENERATED = "generated pictures"


class CheckedImages(NamedTuple):
    """Images to check an export on.

    Attributes:
        images: at least one.
        origin: what they are.
        predictions: what the model said of them, and the truth; None where that is not known.
        names: of the images that were looked for, by `images.lost`.
    """

    images: DecodedImages
    origin: Origin
    predictions: LabeledPredictions | None
    names: tuple[str, ...] = ()


def find_checked(
    model: Model,
    folder: Path,
    predictions: LabeledPredictions,
    dataset: Dataset | None,
    callback: Callback = SILENT,
) -> CheckedImages:
    """Returns the model's validation images, or the best that there is instead.

    Args:
        model: the model.
        folder: of the model.
        predictions: its answers to its validation images.
        dataset: where they may be; None where that is not known.
        callback: hears how many are read, and of how many.
    """
    if dataset is not None:
        try:
            own = read_checked(model, predictions, dataset, callback)
            return CheckedImages(
                own, Origin.VALIDATION, predictions.take(own.rows), predictions.names
            )
        except DatasetError:
            others = _decode(model, dataset.sources, MOST_CHECKED)
            if len(others):
                return CheckedImages(others, Origin.DATA, None)
    try:
        gallery = load_gallery(folder, model.vector_length)
    except ModelError:  # a damaged one costs no export
        gallery = None
    carried = _decode(model, () if gallery is None else gallery.thumbnails, MOST_CHECKED)
    if len(carried):
        return CheckedImages(carried, Origin.GALLERY, None)
    return CheckedImages(_generate(model), Origin.GENERATED, None)


def find_fitted(
    model: Model, dataset: Dataset | None, missing: DatasetError, callback: Callback = SILENT
) -> dict[str, Pixels]:
    """Returns images to fit the ranges of int8 to: the model's own, or others of the data.

    Args:
        model: the model.
        dataset: where they may be; None where that is not known.
        missing: what to raise then.
        callback: hears how many are read, and of how many.

    Returns:
        (N, S, S, 3) uint8 for the name of each input.

    Raises:
        DatasetError: there are none.
    """
    if dataset is None:
        raise missing
    try:
        return read_fitted(model, dataset, callback)
    except DatasetError:
        others = _decode(model, dataset.sources, MOST_FITTED)
        if not len(others):
            raise
        return others.pixels


def _decode(model: Model, sources: Sequence[Source], most: int) -> DecodedImages:
    """Decodes some images spread over all; those that cannot be read are left out."""
    warm_up.running_networks()

    def load(row: int) -> dict[str, Pixels] | None:
        try:
            return decode_sizes(
                read_bytes(sources[row]), model.inputs, model.interpolation, model.ranges
            )
        except ImageError:
            return None

    rows = spread(np.arange(len(sources)), most).tolist()
    decoded = [image for image in in_threads(load, rows) if image is not None]
    return DecodedImages(stack_images(decoded), np.arange(len(decoded)), {})


def _generate(model: Model) -> DecodedImages:
    """Returns pictures of colored squares, from large ones to single pixels."""
    pixels = {}
    for name, size in model.inputs.items():
        random = np.random.default_rng(0)
        made = []
        for n in range(GENERATED_IMAGES):
            places = np.arange(size) * min(2 << n % 8, size) // size
            colors = random.integers(0, 256, (size, size, 3), np.uint8)
            made.append(colors[places][:, places])
        pixels[name] = np.stack(made)
    return DecodedImages(pixels, np.arange(GENERATED_IMAGES), {})
