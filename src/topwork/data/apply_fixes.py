"""Applies a person's verdicts to a dataset: images are dropped or get another label."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topwork.core.callbacks import SILENT, Callback
from topwork.core.errors import DatasetError
from topwork.core.task import Task
from topwork.data.dataset import Dataset
from topwork.data.fix_list import Verdicts, apply
from topwork.data.hashing import hash_images
from topwork.data.labels import SEPARATOR, name_class, parse_number
from topwork.data.listing import SHOWN


@dataclass(frozen=True)
class Correction:
    """How much verdicts changed in a dataset.

    Attributes:
        dropped: images that were left out.
        relabelled: images that got another label.
        missing: verdicts on images that the dataset does not have.
    """

    dropped: int
    relabelled: int
    missing: int


def correct(
    dataset: Dataset,
    verdicts: Verdicts,
    *,
    strict: bool = False,
    callback: Callback = SILENT,
) -> tuple[Dataset, Correction]:
    """Applies verdicts to the images whose bytes they were given on; no file is touched.

    Args:
        dataset: images with labels.
        verdicts: from `fix_list.read_verdicts`.
        strict: raise at the first image that cannot be read.
        callback: as for `hashing.hash_images`.

    Returns:
        The dataset without dropped images (they are in `skipped`) and without classes of which
        no image is left; and how much was changed.

    Raises:
        DatasetError: a new label that no class has, or that is not a number where it must be.
    """
    dataset = hash_images(dataset, strict, callback)
    changes = apply(
        verdicts,
        dataset.hashes or (),
        dataset.names,
        dataset.label_texts,
        dataset.classes if dataset.task.picks_one else None,
    )
    if len(changes.drop) == len(dataset):
        raise DatasetError(f"{verdicts.path} drops every image; keep some")
    labels = dataset.labels.copy()
    for index, text in changes.relabel.items():
        labels[index] = _read_label(dataset, text, verdicts.path)
    # Compared as arrays: the text may differ in the order of labels or the digits of a number.
    changed = (labels != dataset.labels).reshape(len(dataset), -1).any(axis=1)
    corrected = replace(dataset, labels=labels)
    corrected = corrected.drop(dict.fromkeys(changes.drop, f"dropped by {verdicts.path.name}"))
    corrected = _without_lost_classes(corrected, dataset)
    return corrected, Correction(
        len(changes.drop), int(changed[list(changes.relabel)].sum()), len(changes.missing)
    )


def _without_lost_classes(dataset: Dataset, before: Dataset) -> Dataset:
    """Removes classes of which verdicts left no image, as when two classes are merged."""
    if dataset.task is Task.NUMBER:
        return dataset
    lost = _count(before).astype(bool) & (_count(dataset) == 0)
    if not lost.any():
        return dataset
    kept = np.flatnonzero(~lost)
    classes = tuple(dataset.classes[n] for n in kept)
    if dataset.task is Task.LABELS:
        return replace(dataset, classes=classes, labels=dataset.labels[:, kept])
    new_index = np.cumsum(~lost) - 1
    labels = np.where(dataset.labels < 0, -1, new_index[dataset.labels]).astype(np.int32)
    return replace(dataset, classes=classes, labels=labels, class_labels=None)


def _count(dataset: Dataset) -> NDArray[np.int64]:
    """Returns how many images each class has, (C,)."""
    splits = dataset.counts().values()
    return np.array([sum(counts[name] for counts in splits) for name in dataset.classes])


def _read_label(dataset: Dataset, text: str, path: Path) -> object:
    index_of = {name: n for n, name in enumerate(dataset.classes)}
    if dataset.task.picks_one:
        return index_of[text]
    # The name of a label may itself contain the separator.
    cells = [text] if text in index_of else text.split(SEPARATOR)
    cells = [name_class(cell.strip()) for cell in cells]
    if dataset.task is Task.NUMBER:
        numbers = [parse_number(cell) for cell in cells]
        if None in numbers or len(numbers) != len(dataset.classes):
            raise DatasetError(
                f"{path}: a new label must be {len(dataset.classes)} finite number(s) with "
                f"{SEPARATOR} between them, received {text!r}"
            )
        return numbers
    unknown = [cell for cell in cells if cell and cell not in index_of]
    if unknown:
        raise DatasetError(
            f"{path}: a new label must be of {', '.join(dataset.classes[:SHOWN])}, received "
            f"{unknown[0]!r}"
        )
    row = np.zeros(len(dataset.classes), bool)
    row[[index_of[cell] for cell in cells if cell]] = True
    return row
