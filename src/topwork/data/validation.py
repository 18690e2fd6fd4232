"""Which training images are set aside for validation, and which classes these lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from topwork.core.task import Task
from topwork.data.listing import Split
from topwork.data.splits import (
    Kinds,
    assign_strata,
    hold_out,
    join_groups,
    list_kinds,
    merge_rare,
)
from topwork.data.units import keep_together

if TYPE_CHECKING:
    from topwork.data.dataset import Dataset


@dataclass(frozen=True)
class SplitMade:
    """How a validation split was made from the training images.

    Attributes:
        fraction: of the training images, above 0 and below 1.
        seed: of the random choice.
        copied: names of the classes with near copies on both sides: they would be on one side
            alone without these.
    """

    fraction: float
    seed: int
    copied: tuple[str, ...] = ()


def find_units(dataset: Dataset, least: int) -> NDArray[np.int64] | None:
    """Returns what a division must keep on one side: (N,) equal for such images, or None.

    Groups and equal images stay together always, near copies as far as every class or label is
    in `least` units.

    Args:
        dataset: the images to divide.
        least: how many parts are to have each class.
    """
    groups = dataset.groups
    if dataset.copies is not None and dataset.hashes is not None:
        _, equal = np.unique(dataset.hashes, return_inverse=True)
        groups = join_groups(groups, equal.astype(np.int64))
    return keep_together(groups, dataset.copies, _list_kinds(dataset), least)


def set_aside(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Sets a share of the training images aside, where there are no validation images.

    Args:
        dataset: with training images.
        fraction: of these, above 0 and below 1.
        seed: the same seed divides the same dataset in the same way.

    Raises:
        DatasetError: too few images to divide.
    """
    if (dataset.splits == Split.VALIDATION).any():
        return dataset
    training = np.flatnonzero(dataset.splits == Split.TRAIN)
    images = dataset.select(dataset.splits == Split.TRAIN)
    units = find_units(images, 2)
    stratum = assign_strata(dataset.task, images.labels)
    if dataset.task is Task.NUMBER:
        # A range of numbers with too few images need not be on both sides.
        stratum = merge_rare(stratum, units, 2)
    sets = images.labels if dataset.task is Task.LABELS else None
    chosen = hold_out(stratum, units, fraction, seed, labels=sets)
    splits = dataset.splits.astype(f"<U{len(Split.VALIDATION)}")
    splits[training[chosen]] = str(Split.VALIDATION)
    made = SplitMade(fraction, seed, _name_copied(images, chosen))
    return replace(dataset, splits=splits, split_made=made)


def find_lacking(counts: Mapping[str, Mapping[str, int]], split: str) -> tuple[str, ...]:
    """Returns the classes or labels that training images have and those of a split do not.

    None if the split has no images at all.

    Args:
        counts: images by split and class, as `Dataset.counts` returns them.
        split: `validation` or `test`.
    """
    there = counts.get(split, {})
    known = counts.get(str(Split.TRAIN), {})
    if not any(there.values()):
        return ()
    return tuple(name for name, count in known.items() if count and not there.get(name))


def _list_kinds(dataset: Dataset) -> Kinds:
    """Returns what is to be on both sides; of numbers, any."""
    match dataset.task:
        case Task.NUMBER:
            return list_kinds(np.zeros(len(dataset), np.int64))
        case Task.LABELS:
            return list_kinds(np.zeros(len(dataset), np.int64), dataset.labels)
        case _:
            return list_kinds(dataset.labels)


def _name_copied(images: Dataset, chosen: NDArray[np.int64]) -> tuple[str, ...]:
    """Returns the classes, labels or numbers of images that have a near copy on the other side."""
    if images.copies is None:
        return ()
    held = np.zeros(len(images), np.bool_)
    held[chosen] = True
    both = np.intersect1d(images.copies[held], images.copies[~held])
    labels = images.labels[np.isin(images.copies, both)]
    if images.task is Task.NUMBER:
        return images.classes if len(labels) else ()
    found = np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))
    return tuple(images.classes[n] for n in found)
