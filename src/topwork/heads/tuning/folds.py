"""On which images heads are compared: folds of the training images, or the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import SettingsError
from topwork.data.splits import count_groups, make_folds, merge_rare
from topwork.heads.examples import RowSplit

# Below this many validation images, folds of the training images say more.
FEW_VALIDATION = 1000
FOLDS = 5
SEEDS = 5


@dataclass(frozen=True)
class Replicate:
    """One of the occasions on which every candidate is tried.

    Attributes:
        split: what to learn from and what to be scored on.
        seed: of first weights and batches.
        name: what to call it.
        is_fold: whether it holds out training images, instead of the validation images.
    """

    split: RowSplit
    seed: int
    name: str
    is_fold: bool


def make_replicates(
    split: RowSplit,
    stratum: NDArray[Any],
    folds: int | None,
    seeds: int | None,
    seed: int,
    *,
    groups: NDArray[Any] | None = None,
    classes: Sequence[str] | None = None,
    most_folds: int | None = None,
) -> list[Replicate]:
    """Decides on which images every candidate is tried.

    Validation images that lack a class choose nothing: folds take their place, in which classes
    of one image, which some fold does not learn, are together. Without a second class that can
    be divided there is nothing to choose by, and no replicate.

    Args:
        split: training and validation rows.
        stratum: (N,) of the training images, from `splits.strata`.
        folds: stratified folds of the training images; 0 for the validation images; None for
            five folds where there are fewer than 1,000 validation images, or where these may
            not choose; fewer folds where a class has fewer than five images, none where one has
            a single image.
        seeds: how often with other first weights; None for once with folds, else five times.
        seed: of the folds, and the first of the seeds.
        groups: (N,) equal for images that are never in different folds; None for no groups.
        classes: names of the strata, each of which every fold must have; None where strata are
            only to be as even as can be.
        most_folds: where `folds` is None, so many at most, instead of five.

    Raises:
        SettingsError: one fold, or more than the smallest class has training images or groups.
    """
    if folds is None:
        counts = count_groups(stratum, groups, len(classes) if classes else 0)
        smallest = int(counts.min() if classes else counts.sum())
        if not split.decides and classes:
            several, classes = counts[counts > 1], None
            smallest = int(several.min()) if len(several) > 1 else 0
        some = not split.decides or len(split.held_out) < FEW_VALIDATION
        folds = min(most_folds or FOLDS, smallest) if some else 0
        folds = folds if folds > 1 else 0
    if not folds and not split.decides:
        return []
    if not folds:
        splits = [("validation", split)]
    else:
        cut = split_folds(split, stratum, folds, seed, groups=groups, classes=classes)
        splits = [(f"fold {n} of {folds}", one) for n, one in enumerate(cut, 1)]
    count = seeds or (1 if folds else SEEDS)
    return [
        Replicate(one, seed + n, f"{name}, seed {seed + n}", is_fold=folds > 0)
        for n in range(count)
        for name, one in splits
    ]


def split_folds(
    split: RowSplit,
    stratum: NDArray[Any],
    folds: int,
    seed: int,
    *,
    groups: NDArray[Any] | None = None,
    classes: Sequence[str] | None = None,
) -> list[RowSplit]:
    """Divides the training images into stratified folds; validation images are in none.

    A held-out image is scored as it is, in none of its augmented views, and in no view is it
    learnt from. Held-out rows are filled up to one length, so that one program serves all folds.
    Arguments are those of `make_replicates`.

    Raises:
        SettingsError: fewer than two folds, or more than the smallest class has images or groups.
    """
    counts = count_groups(stratum, groups, len(classes) if classes else 0)
    most = int(counts.min() if classes else counts.sum())
    if not 2 <= folds <= most:
        allowed = f"2 to {most}, or 0" if most >= 2 else "0"
        what = "training image" if most == 1 else "training images"
        together = "" if groups is None else " that need not stay together"
        who = f"the class {classes[int(counts.argmin())]} has" if classes else "there are"
        raise SettingsError(
            f"folds: must be {allowed} for the validation images, since {who} {most} {what}"
            f"{together}, received {folds}"
        )
    if not classes:
        stratum = merge_rare(stratum, groups, folds)
    cut = make_folds(stratum, groups, folds, seed)
    everything = np.arange(split.training.shape[1])
    pairs = [
        (split.training[:, np.setdiff1d(everything, out)], split.training[0, out]) for out in cut
    ]
    longest = max(len(out) for _, out in pairs)
    return [
        RowSplit(kept, np.pad(out, (0, longest - len(out)), constant_values=-1))
        for kept, out in pairs
    ]
