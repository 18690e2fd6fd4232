"""Brings labelled images to what a model knows of them: its classes, and its splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.apply_fixes import correct
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdicts
from topwork.data.label_doubts import simplify_label
from topwork.data.listing import SHOWN, Split
from topwork.models.model import Model


def apply_verdicts(
    model: Model,
    dataset: Dataset,
    verdicts: Verdicts | None,
    *,
    strict: bool = False,
    callback: Callback = SILENT,
) -> Dataset:
    """Returns a dataset with what the user made of suspects, before its classes are matched.

    Verdicts may have made one class of two, or take one out, and may name classes that only the
    model has.

    Args:
        model: that the images are for.
        dataset: images with labels.
        verdicts: what the user made of suspects; None for none.
        strict: stop at the first image that cannot be read.
        callback: hears how it gets on, and what was changed.

    Raises:
        DatasetError: a new label that is none, or no image is left.
    """
    if verdicts is None:
        return dataset
    dataset, correction = correct(
        _add_classes(model, dataset), verdicts, strict=strict, callback=callback
    )
    callback.on_corrected(correction)
    return dataset


def match_classes(model: Model, dataset: Dataset) -> Dataset:
    """Numbers a dataset's classes as the model does.

    Raises:
        DatasetError: labels of another kind, or classes that the model does not know.
    """
    if dataset.task is not model.task and not (dataset.task.picks_one and model.task.picks_one):
        raise DatasetError(
            f"the model was trained for the task {model.task}, received labels for the task "
            f"{dataset.task}; read the data with --task {model.task}"
        )
    if model.task is Task.NUMBER:
        if len(dataset.classes) != len(model.classes):
            raise DatasetError(
                f"the model answers with {len(model.classes)} numbers, the data has "
                f"{len(dataset.classes)}; choose their columns with --label-column"
            )
        return replace(dataset, classes=model.classes)
    unknown = [name for name in dataset.classes if name not in model.classes]
    if unknown:
        raise DatasetError(
            f"the model knows the classes {', '.join(model.classes)}; the data also has "
            f"{', '.join(unknown[:SHOWN])}{_say_alike(unknown, model.classes)}. Move or rename "
            "those folders, or train with them"
        )
    return replace(_renumber(dataset, model.classes), task=model.task)


def _say_alike(unknown: Sequence[str], classes: Sequence[str]) -> str:
    """Returns which unknown classes differ from known ones in what the eye passes over."""
    known = {simplify_label(name): name for name in classes}
    alike = [(name, known.get(simplify_label(name))) for name in unknown]
    some = [f"{name!r} may be meant as {other!r}" for name, other in alike if other]
    return f" ({', '.join(some[:SHOWN])})" if some else ""


def _add_classes(model: Model, dataset: Dataset) -> Dataset:
    """Returns the dataset with the model's classes too, which verdicts may name."""
    if Task.NUMBER in (model.task, dataset.task):
        return dataset
    return _renumber(dataset, tuple(sorted({*dataset.classes, *model.classes})))


def _renumber(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Returns the dataset with its labels numbered by other classes, which have all of its own."""
    number_of = {name: number for number, name in enumerate(classes)}
    numbers = [number_of[name] for name in dataset.classes]
    if dataset.task is Task.LABELS:
        labels = np.zeros((len(dataset), len(classes)), bool)
        labels[:, numbers] = dataset.labels
    else:
        labels = np.array(numbers, np.int32)[dataset.labels]
    return replace(dataset, classes=classes, labels=labels, class_labels=None)


def choose_split(dataset: Dataset, split: str) -> Dataset:
    """Returns the images of a split, or all where it is for the model to say which they are.

    Raises:
        DatasetError: the data has no such images.
    """
    if split in (Split.TRAIN, Split.VALIDATION):
        dataset = _forget_splits(dataset)
    if split != "all" and dataset.divided:
        dataset = choose_images(dataset, dataset.splits == split, split)
    return dataset


def _forget_splits(dataset: Dataset) -> Dataset:
    """Leaves it to the model which images were for validation, where the data does not say."""
    if not dataset.divided or (dataset.splits == Split.VALIDATION).any():
        return dataset
    return replace(dataset.select(dataset.splits != Split.TEST), divided=False)


def choose_images(dataset: Dataset, chosen: Any, split: str) -> Dataset:
    """Returns the images of a split, `chosen` (N,) bool.

    Raises:
        DatasetError: there are none; says which splits there are.
    """
    if chosen.any():
        return dataset.select(chosen)
    if dataset.divided:
        why = f"it has {', '.join(sorted({*map(str, dataset.splits)}))}"
    elif split in (Split.TRAIN, Split.VALIDATION):
        why = f"none of them is a {split} image of this model"
    else:
        why = "the model was trained with all of them"
    raise DatasetError(
        f"no images in the split {split!r} of {dataset.root or 'these'}; {why}; choose one with "
        "--split"
    )
