"""On which images heads are compared: folds of the training images, or the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.errors import SettingsError
from topwork.training import Part

# Below this many validation images, folds of the training images say more.
FEW_VALIDATION = 1000
FOLDS = 5
SEEDS = 5


@dataclass(frozen=True)
class Replicate:
    """One of the occasions on which every recipe is tried.

    Attributes:
        part: what to learn from and what to be scored on.
        seed: of first weights and batches.
        name: what to call it.
        is_fold: whether it holds out training images, instead of the validation images.
    """

    part: Part
    seed: int
    name: str
    is_fold: bool


def make_replicates(
    targets: NDArray[Any],
    part: Part,
    folds: int | None,
    seeds: int | None,
    seed: int,
    classes: Sequence[str],
    most_folds: int | None = None,
) -> list[Replicate]:
    """Decides on which images every recipe is tried.

    Args:
        targets: (X,) class indices of all examples.
        part: training and validation rows.
        folds: stratified folds of the training images; 0 for the validation images; None for
            five folds where there are fewer than 1,000 validation images, fewer folds where a
            class has fewer than five images, none where one has a single image.
        seeds: how often with other first weights; None for once with folds, else five times.
        seed: of the folds, and the first of the seeds.
        classes: their names, for messages.
        most_folds: where `folds` is None, so many at most, instead of five.

    Raises:
        SettingsError: one fold, or more than the smallest class has training images.
    """
    if folds is None:
        smallest = int(np.bincount(targets[part.training[0]], minlength=len(classes)).min())
        folds = min(most_folds or FOLDS, smallest) if len(part.held_out) < FEW_VALIDATION else 0
        folds = folds if folds > 1 else 0
    if not folds:
        parts = [("validation", part)]
    else:
        cut = split_folds(targets, part, folds, seed, classes)
        parts = [(f"fold {n} of {folds}", one) for n, one in enumerate(cut, 1)]
    count = seeds or (1 if folds else SEEDS)
    return [
        Replicate(one, seed + n, f"{name}, seed {seed + n}", is_fold=folds > 0)
        for n in range(count)
        for name, one in parts
    ]


def split_folds(
    targets: NDArray[Any], part: Part, folds: int, seed: int, classes: Sequence[str]
) -> list[Part]:
    """Divides the training images into stratified folds; validation images are in none.

    A held-out image is scored as it is, in none of its augmented views, and in no view is it
    learnt from. Held-out rows are filled up to one length, so that one program serves all parts.

    Raises:
        SettingsError: fewer than two folds, or more than the smallest class has images.
    """
    from sklearn.model_selection import StratifiedKFold

    labels = targets[part.training[0]]
    counts = np.bincount(labels, minlength=len(classes))
    if not 2 <= folds <= counts.min():
        rarest, few = classes[int(counts.argmin())], int(counts.min())
        allowed = f"2 to {few}, or 0" if few >= 2 else "0"
        raise SettingsError(
            f"folds: must be {allowed} for the validation images, since the class {rarest} has "
            f"{few} training image{'' if few == 1 else 's'}, received {folds}"
        )
    divided = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    pairs = [(part.training[:, kept], part.training[0, out]) for kept, out in divided]
    longest = max(len(out) for _, out in pairs)
    return [
        Part(kept, np.pad(out, (0, longest - len(out)), constant_values=-1)) for kept, out in pairs
    ]
