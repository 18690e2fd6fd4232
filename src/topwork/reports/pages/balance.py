"""How many images each class has in each split, as rows with bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassCounts:
    """A class: images for each split, and their shares, in percent, of the largest class."""

    name: str
    counts: Sequence[int]
    widths: Sequence[float]
    total: int


@dataclass(frozen=True)
class Balance:
    """The classes, largest first, and the splits, with their totals."""

    splits: Sequence[str]
    totals: Sequence[int]
    rows: Sequence[ClassCounts]


def count_classes(counts: Mapping[str, Mapping[str, int]]) -> Balance:
    """Arranges the images by split and class as `Dataset.counts` has them."""
    names = list(dict.fromkeys(name for split in counts.values() for name in split))
    table = {name: [split.get(name, 0) for split in counts.values()] for name in names}
    most = max((sum(row) for row in table.values()), default=0) or 1
    rows = [
        ClassCounts(name, row, [100 * count / most for count in row], sum(row))
        for name, row in table.items()
    ]
    rows.sort(key=lambda row: -row.total)
    return Balance(list(counts), [sum(split.values()) for split in counts.values()], rows)
