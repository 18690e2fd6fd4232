"""The real images of an export: those it is checked with, those int8 is fitted to.

A model remembers its images by name and by the hash of their bytes. They are looked for in the
data by name, and those that are not there, or are others by now, by their hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.arrays import Pixels
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ModelError
from topwork.data.dataset import Dataset
from topwork.data.hashing import hash_images
from topwork.data.listing import Split
from topwork.images.decode import Source
from topwork.models.checks.images import DecodedImages, decode_images
from topwork.models.folder import RETRAIN
from topwork.models.model import Model
from topwork.models.predictions import LabeledPredictions, load_predictions

# Enough to see a difference in one answer in a hundred, and soon run.
MOST_CHECKED = 400
# Images that the ranges of int8 are fitted to.
MOST_FITTED = 300

GIVE_DATA = "say where the images that it was trained with are, with --data DATA"


def read_predictions(model: Model, folder: Path) -> LabeledPredictions:
    """Returns what a model says of its validation images.

    Raises:
        ModelError: it does not say, or the file is damaged.
    """
    predictions = load_predictions(folder, model.task)
    if predictions is None or not len(predictions):
        raise ModelError(f"the model {folder} lacks its answers to validation images; {RETRAIN}")
    return predictions


def read_checked(
    model: Model,
    predictions: LabeledPredictions,
    dataset: Dataset,
    callback: Callback = SILENT,
    *,
    most: int = MOST_CHECKED,
) -> DecodedImages:
    """Returns a model's validation images: all of them, or `most` spread over them.

    Args:
        model: the model.
        predictions: its answers to them.
        dataset: where the images are.
        callback: hears how many are read, and of how many.
        most: see above.

    Raises:
        DatasetError: none of them is in the dataset.
    """
    rows = spread(np.arange(len(predictions)), most)
    return _read(
        model, predictions.names, predictions.hashes, rows, dataset, callback, "validation"
    )


def read_fitted(model: Model, dataset: Dataset, callback: Callback = SILENT) -> dict[str, Pixels]:
    """Returns training images of a model: all of them, or `MOST_FITTED` spread over them.

    Args:
        model: the model.
        dataset: where the images are.
        callback: hears how many are read, and of how many.

    Returns:
        (N, S, S, 3) uint8 for the name of each input.

    Raises:
        DatasetError: none of them is in the dataset.
    """
    images = model.images
    rows = spread(np.flatnonzero(np.array(images.splits) == Split.TRAIN), MOST_FITTED)
    return _read(model, images.names, images.hashes, rows, dataset, callback, "training").pixels


def spread(rows: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Returns rows (N,): all of them, or `most` from first to last."""
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    return rows.astype(np.int64)


def _hash_sources(dataset: Dataset, callback: Callback) -> dict[str, Source]:
    """Returns the images of a dataset by the hash of their bytes."""
    try:
        hashed = hash_images(dataset, False, callback)
    except DatasetError:  # none can be read
        return {}
    return dict(zip(hashed.hashes or (), hashed.sources, strict=True))


def _read(
    model: Model,
    names: Sequence[str],
    hashes: Sequence[str],
    rows: NDArray[np.int64],
    dataset: Dataset,
    callback: Callback,
    what: str,
) -> DecodedImages:
    warm_up.running_networks()
    known = dataset.sources_by_name
    sources = [known.get(name) for name in names]

    def decode(rows: NDArray[np.int64]) -> DecodedImages:
        return decode_images(
            sources,
            hashes,
            rows,
            model.inputs,
            model.interpolation,
            model.ranges,
            changed="changed since the model was trained",
            callback=callback,
        )

    images = decode(rows)
    if images.lost:
        source_of = _hash_sources(dataset, callback)
        for row in images.lost:
            sources[row] = source_of.get(hashes[row], sources[row])
        if any(hashes[row] in source_of for row in images.lost):
            images = decode(rows)
    if not len(images):
        first = ""
        if images.lost:
            row, reason = next(iter(images.lost.items()))
            first = f"; the first, {names[row]}, is {reason}"
        raise DatasetError(
            f"none of the {len(rows)} {what} images of the model can be used from "
            f"{dataset.root or 'the data'}{first}; {GIVE_DATA}"
        )
    return images
