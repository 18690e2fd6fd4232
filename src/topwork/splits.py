"""Which images are held out: stratified, groups kept whole, seeded. Pure functions on arrays.

N: images, G: groups. A group is never divided; an image without one is a group of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from topwork.errors import DatasetError
from topwork.task import Task

Ints = NDArray[np.integer[Any]]
Division = TypeVar("Division")

# Numbers are divided into so many parts of equal count, fewer where there are few images.
QUANTILES = 10
# Groups differ in size: of so many divisions the one with the most even shares is taken.
DRAWS = 20


def strata(task: Task, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Returns for each image what is to be as frequent on either side of a division, (N,).

    Args:
        task: decides how.
        labels: (N,) class indices, kept as they are; (N, C) sets of labels, of which an image
            stands for its rarest; (N, 1) numbers, which are cut into parts of equal count.
    """
    if task is Task.LABELS:
        counts = labels.sum(axis=0)
        rarity = np.where(labels > 0, counts[None, :], len(labels) + 1)
        none = labels.shape[1]
        return np.where(labels.any(axis=1), rarity.argmin(axis=1), none).astype(np.int64)
    if task is Task.NUMBER:
        parts = max(1, min(QUANTILES, len(labels) // QUANTILES))
        edges = np.quantile(labels[:, 0], np.linspace(0, 1, parts + 1)[1:-1])
        return np.asarray(np.searchsorted(edges, labels[:, 0], side="right"), np.int64)
    return np.asarray(labels, np.int64)


def hold_out(stratum: Ints, groups: Ints | None, fraction: float, seed: int) -> NDArray[np.int64]:
    """Chooses a stratified share of some images.

    A stratum with a single group keeps it.

    Args:
        stratum: (N,) from `strata`.
        groups: (N,) equal numbers are never divided; None for no groups.
        fraction: of the images, above 0 and below 1.
        seed: the same seed chooses the same images.

    Returns:
        The places of the chosen ones, ascending.

    Raises:
        DatasetError: too few images or groups to divide.
    """
    from sklearn.model_selection import train_test_split

    units, own = _units(stratum, groups)
    counts = np.bincount(own)
    several = np.flatnonzero(counts[own] > 1)
    kinds = len(np.unique(own[several]))
    # Each stratum needs one on either side, or else it cannot be stratified.
    size = min(max(round(fraction * len(several)), kinds), len(several) - kinds)
    if size < 1:
        what = "images" if groups is None else "groups of images"
        raise DatasetError(
            f"too few {what} to set some aside for validation: at least one class needs 2 {what}, "
            f"received {len(own)} {what} of {np.count_nonzero(counts)} classes. Add images, "
            "or a validation split"
        )

    def draw(seed: int) -> NDArray[np.int64]:
        _, chosen = train_test_split(
            several, test_size=size, random_state=seed, stratify=own[several]
        )
        return np.flatnonzero(np.isin(units, chosen))

    return _fairest(draw, stratum, units, seed, lambda held: [(held, fraction)])


def fold_out(stratum: Ints, groups: Ints | None, folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Divides images into stratified folds.

    Args:
        stratum: (N,) from `strata`; each needs at least as many groups as there are folds.
        groups: (N,) equal numbers are never divided; None for no groups.
        folds: at least 2.
        seed: the same seed makes the same folds.

    Returns:
        The places of each fold's images, ascending; every image is in one.
    """
    from sklearn.model_selection import StratifiedKFold

    units, own = _units(stratum, groups)

    def draw(seed: int) -> list[NDArray[np.int64]]:
        cut = StratifiedKFold(folds, shuffle=True, random_state=seed).split(own, own)
        return [np.flatnonzero(np.isin(units, out)) for _, out in cut]

    return _fairest(draw, stratum, units, seed, lambda cut: [(out, 1 / folds) for out in cut])


def count_units(stratum: Ints, groups: Ints | None) -> NDArray[np.int64]:
    """Returns how many groups each stratum has, an image without one counting as one."""
    _, own = _units(stratum, groups)
    return np.bincount(own, minlength=int(stratum.max()) + 1)


def _units(stratum: Ints, groups: Ints | None) -> tuple[Ints, NDArray[np.int64]]:
    """Returns each image's group, 0..G-1, and each group's most frequent stratum."""
    if groups is None:
        return np.arange(len(stratum)), stratum.astype(np.int64)
    _, units = np.unique(groups, return_inverse=True)
    width = int(stratum.max()) + 1
    pairs, counts = np.unique(units * width + stratum, return_counts=True)
    # The last of each group in this order is its most frequent one.
    order = np.lexsort((-(pairs % width), counts, pairs // width))
    last = np.append(np.diff(pairs[order] // width) > 0, True)
    return units, (pairs[order] % width)[last].astype(np.int64)


def _fairest(
    draw: Callable[[int], Division],
    stratum: Ints,
    units: Ints,
    seed: int,
    parts: Callable[[Division], list[tuple[Ints, float]]],
) -> Division:
    """Draws once; where groups have several images, often, for the most even division."""
    if len(units) == int(units.max()) + 1:
        return draw(seed)
    counts = np.bincount(stratum)

    def unevenness(division: Division) -> float:
        return sum(
            float(np.abs(np.bincount(stratum[held], minlength=len(counts)) - share * counts).sum())
            for held, share in parts(division)
        )

    seeds = np.random.SeedSequence(seed).generate_state(DRAWS)
    return min((draw(int(each)) for each in seeds), key=unevenness)
