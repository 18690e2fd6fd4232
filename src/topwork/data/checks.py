"""What a dataset must have before a model can be trained on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.labels import LARGEST
from topwork.data.listing import SHOWN, Note, Split, say_left_out

if TYPE_CHECKING:
    from topwork.data.dataset import Dataset


def check_training(dataset: Dataset) -> None:
    """Refuses a dataset that nothing can be trained on; says first what was left out of it.

    Raises:
        DatasetError: no training images, some images without a label, training weights of 0
            alone, or a class that no training image has.
    """
    training = dataset.splits == Split.TRAIN
    if not training.any():
        where = f" in {dataset.root}" if dataset.root else ""
        raise DatasetError(
            f"{say_left_out(dataset.skipped)}there are no training images{where}; add a folder "
            "train/, or rows of that split"
        )
    _check_labels(dataset)
    _check_class_count(dataset)
    if dataset.weights is not None and not dataset.weights[training].any():
        raise DatasetError("every training image has weight 0; at least one must count")
    if dataset.task is not Task.NUMBER:
        _check_split_classes(dataset, training)


def weigh(dataset: Dataset, weights: ArrayLike) -> Dataset:
    """Returns a dataset whose images count in training as they are told.

    Args:
        dataset: N images without weights.
        weights: (N,) finite numbers, 0 or more.

    Raises:
        DatasetError: it has weights of its own, or these are of another shape or range.
    """
    if dataset.weights is not None:
        raise DatasetError("a Dataset with weights of its own takes no others; leave them out")
    try:
        values = np.asarray(weights, np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"weights must be numbers: {error}") from None
    if values.shape != (len(dataset),):
        raise DatasetError(
            f"weights must be one for each of {len(dataset)} images, received shape {values.shape}"
        )
    bad = np.flatnonzero(~((values >= 0) & (values <= LARGEST)))
    if len(bad):
        raise DatasetError(
            f"weights must be finite and 0 or more, received {values[bad[0]]} for image {bad[0]}"
        )
    lost = sorted(_classes_of(dataset, values >= 0) - _classes_of(dataset, values > 0))
    notes = dataset.notes
    if dataset.task is not Task.NUMBER and lost:
        names = ", ".join(dataset.classes[n] for n in lost[:SHOWN])
        text = f"Every image of {names} has weight 0: nothing of it is learnt"
        notes += (Note(text, doubtful=True),)
    return replace(dataset, weights=values.astype(np.float32), notes=notes)


def count_unlabelled(dataset: Dataset) -> int:
    """Returns how many images have no label, and so can only be predicted."""
    match dataset.task:
        case Task.LABELS:  # an image may have none of the labels that there are
            return 0 if dataset.classes else len(dataset)
        case Task.NUMBER:
            return int(np.isnan(dataset.labels).any(axis=1).sum())
        case Task.CLASSES | Task.BINARY:
            return int((dataset.labels < 0).sum())


def _check_class_count(dataset: Dataset) -> None:
    """Refuses labels that leave nothing to choose between."""
    classes = dataset.classes
    if dataset.task is Task.NUMBER or len(classes) >= (1 if dataset.task is Task.LABELS else 2):
        return
    raise DatasetError(
        f"{say_left_out(dataset.skipped)}at least 2 classes are needed, received "
        f"{'one' if classes else 'none'} in {dataset.root or 'the labels'}: "
        f"{classes[0] if classes else 'none'}. Give every image a label; in a folder, each class "
        "is a folder with its images in it"
    )


def _check_labels(dataset: Dataset) -> None:
    unlabelled = count_unlabelled(dataset)
    if unlabelled:
        raise DatasetError(
            f"every image needs a label to train on, received {unlabelled} of {len(dataset)} "
            "without one; leave them out, or predict them"
        )


def _check_split_classes(dataset: Dataset, training: NDArray[np.bool_]) -> None:
    """Refuses classes that only other splits have, or no split, and training on one class."""
    known = _classes_of(dataset, training)
    for split in (Split.VALIDATION, Split.TEST):
        unknown = _classes_of(dataset, dataset.splits == split) - known
        if unknown:
            names = ", ".join(dataset.classes[n] for n in sorted(unknown)[:SHOWN])
            raise DatasetError(
                f"{split} has images of {names}, but train has none; a class cannot be "
                f"learnt from {split} alone. Add training images, or take the class out"
            )
    if dataset.task is not Task.LABELS and len(known) < 2:
        only = dataset.classes[known.pop()]
        raise DatasetError(
            f"{say_left_out(dataset.skipped)}training needs at least 2 classes, received images "
            f"of {only} alone"
        )
    if len(known) < len(dataset.classes):
        lost = [name for n, name in enumerate(dataset.classes) if n not in known]
        raise DatasetError(
            f"no training image has the label {', '.join(lost[:SHOWN])}; add some, or take "
            "the label out"
        )


def _classes_of(dataset: Dataset, chosen: NDArray[np.bool_]) -> set[int]:
    """Returns the indices of the classes that some of the chosen images (N,) have."""
    labels = dataset.labels[chosen]
    if dataset.task is Task.LABELS:
        return {*np.flatnonzero(labels.any(axis=0)).tolist()}
    return {*labels.tolist()}
