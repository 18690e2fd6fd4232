"""Which images are held out: stratified, groups kept whole, seeded. Pure functions on arrays.

N: images, G: groups. A group is never divided; an image without one is a group of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topwork.core.connected import connect
from topwork.core.errors import DatasetError
from topwork.core.task import Task

Ints = NDArray[np.integer[Any]]


class Kinds(NamedTuple):
    """Which image is of which kind, as pairs; a kind is a class, a label or a stratum.

    Attributes:
        images: (P,) indices of images.
        kinds: (P,) the kind of each.
    """

    images: NDArray[np.int64]
    kinds: NDArray[np.int64]


# Into how many quantiles numbers are divided; fewer if there are few images.
QUANTILES = 10
# How much the share of all images counts compared with that of one stratum. Without it, small
# strata would each be as near to their share as possible, but all deviate in the same direction.
TOTAL_WEIGHT = 4


def assign_strata(task: Task, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Returns the stratum of each image, (N,): each is to be as frequent in all splits.

    Args:
        task: what the labels mean.
        labels: (N,) class indices, which are the strata; (N, C) sets of labels, of which the
            rarest is an image's stratum; (N, 1) numbers, whose quantiles are the strata.
    """
    if task is Task.LABELS:
        counts = labels.sum(axis=0)
        rarity = np.where(labels > 0, counts[None, :], len(labels) + 1)
        none = labels.shape[1]
        return np.asarray(np.where(labels.any(axis=1), rarity.argmin(axis=1), none), np.int64)
    if task is Task.NUMBER:
        parts = max(1, min(QUANTILES, len(labels) // QUANTILES))
        edges = np.quantile(labels[:, 0], np.linspace(0, 1, parts + 1)[1:-1])
        return np.asarray(np.searchsorted(edges, labels[:, 0], side="right"), np.int64)
    return np.asarray(labels, np.int64)


def list_kinds(stratum: Ints, labels: NDArray[np.bool_] | None = None) -> Kinds:
    """Returns what is to be on both sides of a division: classes, or labels if there are any.

    Args:
        stratum: (N,) from `assign_strata`.
        labels: (N, L) sets of labels; None for other tasks.
    """
    if labels is None:
        return Kinds(np.arange(len(stratum)), stratum.astype(np.int64))
    return Kinds(*np.nonzero(labels))


def hold_out(
    stratum: Ints,
    groups: Ints | None,
    fraction: float,
    seed: int,
    *,
    labels: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Chooses a stratified share of images.

    Of each stratum some images are not chosen, so one with a single group keeps all. Of each
    stratum, and of each label, with several groups some are chosen, if groups allow it.

    Args:
        stratum: (N,) from `assign_strata`.
        groups: (N,) numbers of groups, which are never divided; None for no groups.
        fraction: of the images, above 0 and below 1.
        seed: the same seed chooses the same images.
        labels: (N, L) sets of labels; of each label, too, some images are not chosen. None for
            other tasks.

    Returns:
        The indices of the chosen ones, ascending.

    Raises:
        DatasetError: too few images or groups to divide.
    """
    units, own = _units(stratum, groups)
    if len(own) == len(units):
        chosen = _hold_out_images(own, fraction, seed)[units]
        lost = np.setdiff1d(stratum[chosen], stratum[~chosen])
        _give_back(chosen, (stratum == kind for kind in lost), units)
    else:
        chosen = _allot(stratum, units, own, (1 - fraction, fraction), seed, keeper=0) == 1
    if labels is not None:
        _give_back(chosen, labels.T, units)
    _choose_missing(chosen, list_kinds(stratum, labels), units, seed)
    if not chosen.any():
        chosen = _choose_one(stratum, units, labels)
    if not chosen.any():
        together = "" if groups is None else " that need not stay together"
        raise DatasetError(
            "too few images to set some aside for validation: at least one class needs 2 images"
            f"{together}, received {len(own)} images{together} of {len(np.unique(stratum))} "
            "classes. Add images, or a validation split"
        )
    return np.flatnonzero(chosen)


def make_folds(
    stratum: Ints, groups: Ints | None, folds: int, seed: int
) -> list[NDArray[np.int64]]:
    """Divides images into stratified folds.

    No fold has all images of a stratum, unless one group has them.

    Args:
        stratum: (N,) from `assign_strata`; each needs at least as many groups as there are folds.
        groups: (N,) numbers of groups, which are never divided; None for no groups.
        folds: at least 2.
        seed: the same seed makes the same folds.

    Returns:
        The indices of each fold's images, ascending; every image is in one.

    Raises:
        DatasetError: a stratum has fewer groups than there are folds.
    """
    units, own = _units(stratum, groups)
    counts = np.bincount(own)
    least = int(counts[counts > 0].min())
    if least < folds:
        raise DatasetError(
            f"{folds} folds need {folds} images or groups of each class, received a class with "
            f"{least}; choose fewer folds"
        )
    if len(own) == len(units):
        parts, indices = _deal(own, folds, seed), np.argsort(units)
        return [np.sort(indices[parts == part]) for part in range(folds)]
    parts = _allot(stratum, units, own, (1 / folds,) * folds, seed)
    return [np.flatnonzero(parts == part) for part in range(folds)]


def _deal(own: Ints, folds: int, seed: int) -> NDArray[np.int64]:
    """Returns the fold of each of (N,) images, so that all have nearly as many of each stratum.

    They are those of scikit-learn's StratifiedKFold, shuffled, whose import took a third of the
    time of all imports of a training.
    """
    random = np.random.RandomState(seed)
    kinds, firsts, counts = np.unique(own, return_index=True, return_counts=True)
    parts = np.empty(len(own), np.int64)
    dealt = 0
    for kind in np.argsort(firsts):  # in the order in which they occur
        # One to each fold in turn, going on where the stratum before ended.
        turns = np.sort((dealt + np.arange(counts[kind])) % folds)
        random.shuffle(turns)
        parts[own == kinds[kind]] = turns
        dealt += counts[kind]
    return parts


def count_groups(stratum: Ints, groups: Ints | None, strata: int = 0) -> NDArray[np.int64]:
    """Returns how many groups each stratum has; an image without one counts as one.

    Args:
        stratum: (N,) from `assign_strata`.
        groups: (N,) or None.
        strata: how many there are at least, also without images.
    """
    _, own = _units(stratum, groups)
    return np.bincount(own, minlength=strata)


def merge_rare(stratum: Ints, groups: Ints | None, least: int) -> NDArray[np.int64]:
    """Merges all strata with fewer than `least` groups, and further ones until it has as many."""
    found = stratum.astype(np.int64)
    while True:
        counts = count_groups(found, groups, int(found.max()) + 1)
        order = np.argsort(counts, kind="stable")
        order = order[counts[order] > 0]
        some = np.cumsum(counts[order])
        rare = int(np.searchsorted(counts[order], least))
        while 0 < rare < len(order) and some[rare - 1] < least:
            rare += 1
        # Repeated: the merged stratum may be the most frequent in groups that had another.
        if rare == 0 or len(order) == 1:
            return found
        merged = np.arange(int(found.max()) + 1)
        merged[counts == 0] = order[0]
        merged[order[:rare]] = order[0]
        found = merged[found]


def number_groups(names: Sequence[str]) -> NDArray[np.int64]:
    """Returns the number of each image's group, (N,); an image without one gets its own number.

    Args:
        names: N names of groups; an empty one is no group.
    """
    number = {name: n for n, name in enumerate(sorted(set(names)))}
    return np.array(
        [number[name] if name else len(number) + n for n, name in enumerate(names)], np.int64
    )


def join_groups(first: NDArray[np.int64] | None, second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns groups (N,) in which images are together that either of two groupings joins."""
    if first is None:
        return second

    def pair_with_first(groups: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        _, firsts, own = np.unique(groups, return_index=True, return_inverse=True)
        return zip(firsts[own].tolist(), range(len(own)), strict=True)

    return connect(chain(pair_with_first(first), pair_with_first(second)), len(first))


def _units(stratum: Ints, groups: Ints | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns each image's group, 0..G-1, and each group's most frequent stratum."""
    if groups is None:
        return np.arange(len(stratum), dtype=np.int64), stratum.astype(np.int64)
    _, numbers = np.unique(groups, return_inverse=True)
    units = numbers.astype(np.int64)
    width = int(stratum.max()) + 1
    pairs, counts = np.unique(units * width + stratum, return_counts=True)
    # The last of each group in this order is its most frequent one.
    order = np.lexsort((-(pairs % width), counts, pairs // width))
    last = np.append(np.diff(pairs[order] // width) > 0, True)
    return units, (pairs[order] % width)[last].astype(np.int64)


def _hold_out_images(own: Ints, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Chooses a share of groups of one image each; returns (G,) bool."""
    from sklearn.model_selection import train_test_split

    several = np.flatnonzero(np.bincount(own)[own] > 1)
    kinds = len(np.unique(own[several]))
    # Stratifying needs at least one image of each stratum on both sides.
    size = min(max(round(fraction * len(several)), kinds), len(several) - kinds)
    chosen = np.zeros(len(own), bool)
    if size > 0:
        _, out = train_test_split(several, test_size=size, random_state=seed, stratify=own[several])
        chosen[out] = True
    return chosen


def _choose_one(
    stratum: Ints, units: NDArray[np.int64], labels: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Chooses the smallest group without which every stratum and label still has images."""
    counts = np.append(np.bincount(stratum), len(stratum))
    contents = _count_contents(stratum, units)
    for unit in np.argsort(np.bincount(units), kind="stable").tolist():
        if all(n < counts[s] for s, n in contents[unit]):
            chosen = units == unit
            if labels is None or (labels[~chosen].any(axis=0) >= labels.any(axis=0)).all():
                return np.asarray(chosen, bool)
    return np.zeros(len(units), bool)


def _allot(
    stratum: Ints,
    units: NDArray[np.int64],
    own: NDArray[np.int64],
    shares: Sequence[float],
    seed: int,
    keeper: int | None = None,
) -> NDArray[np.int64]:
    """Assigns groups of any sizes to parts that get given shares of each stratum.

    Greedy: one group after the other, large ones first, goes to the part that lacks most. If
    groups allow it, no part but the keeper gets all images of a stratum, and each part gets a
    group of each stratum that has enough of them.

    Args:
        stratum: (N,).
        units: (N,) each image's group, 0..G-1.
        own: (G,) each group's most frequent stratum.
        shares: of P parts, together 1.
        seed: orders groups of about the same size.
        keeper: the part that may get all of a stratum; None for no part.

    Returns:
        (N,) the part of each image.
    """
    contents = _count_contents(stratum, units)
    sizes = np.bincount(units)
    counts = np.append(np.bincount(stratum), len(stratum))
    # Not 0: counts are divided by what is wanted.
    wanted: list[list[float]] = [
        [max(share * count, 1e-9) for count in counts.tolist()] for share in shares
    ]
    got = [[0] * len(counts) for _ in shares]
    left = np.bincount(own).tolist()
    empty = [{*range(len(shares))} for _ in left]
    part_of = np.zeros(len(own), np.int64)
    ties = np.random.default_rng(seed).random(len(own))
    for unit in np.lexsort((ties, -np.log2(sizes).astype(np.int64))).tolist():
        kind, content = int(own[unit]), contents[unit]

        def excess(part: int, content: list[tuple[int, int]] = content) -> float:
            # By how much this group would raise the part's sum of (got - wanted)^2 / wanted.
            has, wants = got[part], wanted[part]
            each = [n * (2 * (has[s] - wants[s]) + n) / wants[s] for s, n in content]
            return sum(each) + (TOTAL_WEIGHT - 1) * each[-1]

        def leaves_some(part: int, content: list[tuple[int, int]] = content) -> bool:
            return part == keeper or all(got[part][s] + n < counts[s] for s, n in content)

        parts = empty[kind] if left[kind] <= len(empty[kind]) else range(len(shares))
        able = [part for part in parts if leaves_some(part)]
        if not able and keeper is not None:
            able = [keeper]
        part = min(able or parts, key=excess)
        part_of[unit] = part
        left[kind] -= 1
        empty[kind].discard(part)
        for s, n in content:
            got[part][s] += n
    return part_of[units]


def _count_contents(stratum: Ints, units: NDArray[np.int64]) -> list[list[tuple[int, int]]]:
    """Returns pairs of a stratum and a number of images for each group; the last is the total."""
    width = int(stratum.max()) + 1
    pairs, counts = np.unique(units * width + stratum, return_counts=True)
    contents: list[list[tuple[int, int]]] = [[] for _ in range(int(units.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        contents[pair // width].append((pair % width, count))
    for content in contents:
        content.append((width, sum(count for _, count in content)))
    return contents


def _give_back(
    chosen: NDArray[np.bool_], kinds: Iterable[NDArray[np.bool_]], units: NDArray[np.int64]
) -> None:
    """Removes groups from the chosen ones until some images of each kind are not chosen.

    Args:
        chosen: (N,), changed in place.
        kinds: for each kind a mask (N,) of its images.
        units: (N,) each image's group.
    """
    sizes = np.bincount(units)
    for kind in kinds:
        if (kind & chosen).any() and not (kind & ~chosen).any():
            having = np.unique(units[kind])
            chosen[units == having[sizes[having].argmin()]] = False


def _choose_missing(
    chosen: NDArray[np.bool_], kinds: Kinds, units: NDArray[np.int64], seed: int
) -> None:
    """Adds groups to the chosen ones until some images of each kind are chosen, if possible.

    Of each kind that has none the smallest group is added without which no kind loses all
    images that are not chosen.

    Args:
        chosen: (N,), changed in place.
        kinds: of the images.
        units: (N,) each image's group.
        seed: decides between groups of one size.
    """
    images, kind = kinds
    counts = np.bincount(kind)
    missing = np.flatnonzero(
        (np.bincount(kind[chosen[images]], minlength=len(counts)) == 0) & (counts > 1)
    )
    ties = np.random.default_rng(seed).random(int(units.max()) + 1)
    sizes = np.bincount(units)
    for one in missing:
        own = images[kind == one]
        if chosen[own].any():
            continue
        candidates = np.unique(units[own])
        left = np.bincount(kind[~chosen[images]], minlength=len(counts))
        for unit in candidates[np.lexsort((ties[candidates], sizes[candidates]))]:
            lost = np.bincount(kind[(units == unit)[images]], minlength=len(counts))
            if ((lost == 0) | (lost < left)).all():
                chosen[units == unit] = True
                break
