"""What is divided as one: groups that the data names, equal images, and near copies.

Groups and equal images are never divided. Near copies are kept together too, but give way where
a class would have nothing on one of the sides without that. Pure functions on arrays; N: images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork.data.splits import Kinds, join_groups


def keep_together(
    groups: NDArray[np.int64] | None,
    copies: NDArray[np.int64] | None,
    kinds: Kinds,
    least: int,
) -> NDArray[np.int64] | None:
    """Returns what is divided as one, (N,): groups, joined by copies where these may join them.

    Copies give way for a kind that would be in fewer than `least` units and is in more without
    them: the largest unit that has it falls apart, until there are enough.

    Args:
        groups: (N,) equal for images that are never divided; None for no groups.
        copies: (N,) equal for images that show nearly the same picture; None for none.
        kinds: of the images; see `splits.list_kinds`.
        least: how many units each kind needs.
    """
    if copies is None:
        return groups
    images, kind = kinds
    alone = np.arange(len(copies), dtype=np.int64)
    _, whole = np.unique(alone if groups is None else groups, return_inverse=True)
    units = join_groups(whole.astype(np.int64), copies)
    wanted = np.minimum(least, _count(kind, whole[images]))
    while True:
        short = np.flatnonzero(_count(kind, units[images], len(wanted)) < wanted)
        if not len(short):
            return units
        for one in short:
            own = images[kind == one]
            parts = np.unique(np.stack([units[own], whole[own]]), axis=1)[0]
            largest = np.bincount(parts).argmax()
            apart = units == largest
            units = np.where(apart, units.max() + 1 + whole, units)


def _count(kind: NDArray[Any], units: NDArray[Any], most: int = 0) -> NDArray[np.int64]:
    """Returns in how many units each kind is."""
    pairs = np.unique(np.stack([kind, units]), axis=1)
    return np.bincount(pairs[0], minlength=most)
