"""The real images of an export: those it is checked with, those int8 is fitted to.

A model remembers its images by name and by the hash of their bytes. What is looked for in the
data is by name, and what is found is used if its bytes are still the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core import warm_up
from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError, ImageError, ModelError
from topwork.core.parallel import in_threads
from topwork.data.dataset import Dataset
from topwork.data.listing import Skipped, Split
from topwork.heads.dense import Floats
from topwork.images.decode import Source, decode
from topwork.images.verify import read_unchanged
from topwork.models.folder import RETRAIN
from topwork.models.model import Model
from topwork.models.predictions import Answers, load_answers

Pixels = NDArray[np.uint8]

# Enough to see a difference in one answer in a hundred, and soon run.
MOST_CHECKED = 400
# Images that the ranges of int8 are fitted to.
MOST_FITTED = 300

GIVE_DATA = "say where the images that it was trained with are, with --data DATA"


@dataclass(frozen=True)
class Samples:
    """Images of a model, decoded as it decodes them.

    Attributes:
        pixels: (N, S, S, 3) uint8 for the name of each input, N at least 1.
        rows: (N,) which of the remembered images they are.
        skipped: those that are not there any more, or cannot be used, with the reasons.
    """

    pixels: dict[str, Pixels]
    rows: NDArray[np.int64]
    skipped: tuple[Skipped, ...]


def read_answers(model: Model, folder: Path) -> Answers:
    """Returns what a model says of its validation images.

    Raises:
        ModelError: it does not say, or the file is damaged.
    """
    answers = load_answers(folder, model.task)
    if answers is None or not len(answers):
        raise ModelError(f"the model {folder} lacks its answers to validation images; {RETRAIN}")
    return answers


def read_checked(
    model: Model,
    answers: Answers,
    dataset: Dataset,
    callback: Callback = SILENT,
    *,
    most: int = MOST_CHECKED,
) -> Samples:
    """Returns a model's validation images: all of them, or `most` spread over them.

    Args:
        model: the model.
        answers: its answers to them.
        dataset: where the images are.
        callback: hears how many are read, and of how many.
        most: see above.

    Raises:
        DatasetError: none of them is in the dataset.
    """
    chosen = _spread(np.arange(len(answers)), most)
    return _read(model, answers.names, answers.hashes, chosen, dataset, callback, "validation")


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
    chosen = _spread(np.flatnonzero(np.array(images.splits) == Split.TRAIN), MOST_FITTED)
    return _read(model, images.names, images.hashes, chosen, dataset, callback, "training").pixels


def _spread(rows: NDArray[Any], most: int) -> NDArray[np.int64]:
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
    return rows.astype(np.int64)


def _read(
    model: Model,
    names: Sequence[str],
    hashes: Sequence[str],
    chosen: NDArray[np.int64],
    dataset: Dataset,
    callback: Callback,
    what: str,
) -> Samples:
    warm_up.running_networks()
    sources = dataset.sources_by_name
    sizes = model.inputs

    def load(row: int) -> dict[str, Pixels] | str:
        source = sources.get(names[row])
        if source is None:
            return "not in the data any more"
        try:
            return _decode(source, hashes[row], model, sizes)
        except ImageError as error:
            return str(error)

    found: list[dict[str, Pixels]] = []
    rows: list[int] = []
    skipped: list[Skipped] = []
    for count, (row, result) in enumerate(zip(chosen, in_threads(load, chosen), strict=True), 1):
        if isinstance(result, str):
            skipped.append(Skipped(names[row], result))
        else:
            found.append(result)
            rows.append(row)
        callback.on_read(count, len(chosen))
    if not found:
        first = f"; the first, {skipped[0].path}, is {skipped[0].reason}" if skipped else ""
        raise DatasetError(
            f"none of the {len(chosen)} {what} images of the model can be used from "
            f"{dataset.root or 'the data'}{first}; {GIVE_DATA}"
        )
    pixels = {name: np.stack([images[name] for images in found]) for name in sizes}
    return Samples(pixels, np.array(rows, np.int64), tuple(skipped))


def _decode(source: Source, hash_: str, model: Model, sizes: dict[str, int]) -> dict[str, Pixels]:
    data = read_unchanged(source, hash_, "changed since the model was trained")
    return {name: decode(data, size, model.interpolation) for name, size in sizes.items()}


def take_labels(answers: Answers, rows: NDArray[np.int64]) -> tuple[NDArray[Any], Floats]:
    """Returns the truth of some of the answers, and their logits as trained."""
    chosen = answers.take(rows)
    return chosen.labels, chosen.logits
